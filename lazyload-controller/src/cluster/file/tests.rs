use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::folder::{Folder, Told};
use crate::cluster::Fault;
use crate::mesh::{Kind, Name};

const SIDECAR: Kind = Kind::Sidecar;

fn folder(path: &Path) -> Folder {
    Folder::new(path.to_owned(), Name::new("istio-system", "istio"))
}

fn name() -> Name {
    Name::new("shop", "lazymesh-a")
}

fn ours(host: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {
            "name": "lazymesh-a",
            "namespace": "shop",
            "labels": {"app.kubernetes.io/managed-by": "lazymesh"},
        },
        "spec": {"egress": [{"hosts": [host]}]},
    })
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// What was told, as `+Kind namespace/name` and `-Kind namespace/name`.
fn told(folder: &mut Folder) -> Vec<String> {
    let line = |told: &Told| match told {
        Told::Is(kind, object) => format!("+{kind} {}", Name::of(&object.metadata)),
        Told::Gone(kind, object) => format!("-{kind} {}", Name::of(&object.metadata)),
    };
    folder.look().unwrap().iter().map(line).collect()
}

fn only_file(path: &Path) -> std::path::PathBuf {
    let mut files = fs::read_dir(path.join("mesh")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    file
}

#[test]
fn every_document_of_every_file_is_told_once() {
    let path = tempfile::tempdir().unwrap();
    fs::create_dir(path.path().join("mesh")).unwrap();
    let services = "kind: Service\napiVersion: v1\nmetadata: {name: a, namespace: shop}\n---\n# none\n---\n\
                    kind: Service\napiVersion: v1\nmetadata: {name: b, namespace: shop}\n";
    fs::write(path.path().join("mesh/services.yaml"), services).unwrap();
    let more = "kind: Namespace\napiVersion: v1\nmetadata: {name: shop}\n---\n\
                kind: Pod\napiVersion: v1\nmetadata: {name: graph, namespace: shop}\n";
    fs::write(path.path().join("namespaces.yaml"), more).unwrap();
    let mut folder = folder(path.path());
    assert_eq!(
        told(&mut folder),
        ["+Namespace shop", "+Service shop/a", "+Service shop/b"]
    );
    assert!(told(&mut folder).is_empty());
    let one = services.split("---").next().unwrap();
    fs::write(path.path().join("mesh/services.yaml"), one).unwrap();
    assert_eq!(told(&mut folder), ["-Service shop/b"]);
}

#[test]
fn kinds_are_told_by_their_groups_and_the_mesh_config_by_its_name() {
    let path = tempfile::tempdir().unwrap();
    fs::create_dir(path.path().join("mesh")).unwrap();
    let document = |version: &str, kind: &str, name: &str| {
        format!(
            "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: istio-system}}\n"
        )
    };
    let text = [
        document("v1", "ConfigMap", "istio"),
        document("v1", "ConfigMap", "other"),
        document("networking.istio.io/v1", "Sidecar", "a"),
        document("other.io/v1", "Sidecar", "b"),
        document("networking.k8s.io/v1", "ServiceCIDR", "c"),
        document("apps/v1", "Deployment", "d"),
    ];
    fs::write(path.path().join("mesh/a.yaml"), text.concat()).unwrap();
    let expected = [
        "+Sidecar istio-system/a",
        "+ConfigMap istio-system/istio",
        "+ServiceCIDR istio-system/c",
    ];
    assert_eq!(told(&mut folder(path.path())), expected);
}

#[test]
fn a_broken_file_keeps_what_it_said() {
    let path = tempfile::tempdir().unwrap();
    let file = path.path().join("namespaces.yaml");
    fs::write(
        &file,
        "kind: Namespace\napiVersion: v1\nmetadata: {name: shop}\n",
    )
    .unwrap();
    let mut folder = folder(path.path());
    assert_eq!(told(&mut folder), ["+Namespace shop"]);
    fs::write(&file, "kind: Namespace\nmetadata: {").unwrap();
    assert!(told(&mut folder).is_empty());
    fs::remove_file(&file).unwrap();
    assert_eq!(told(&mut folder), ["-Namespace shop"]);
}

#[test]
fn an_object_is_made_changed_and_deleted() {
    let path = tempfile::tempdir().unwrap();
    let mut folder = folder(path.path());
    let made = folder
        .apply(SIDECAR, &name(), ours("a/a"), None, at(7))
        .unwrap();
    let uid = made.metadata.uid.clone().unwrap();
    let created = made.metadata.creation_timestamp.clone();
    assert_eq!(created.as_ref().map(|time| time.0.as_second()), Some(7));
    assert_eq!(told(&mut folder), ["+Sidecar shop/lazymesh-a"]);

    let again = folder
        .apply(SIDECAR, &name(), ours("b/b"), Some(&uid), at(7))
        .unwrap();
    assert_eq!(again.metadata.uid.as_ref(), Some(&uid));
    assert_eq!(again.metadata.creation_timestamp, created);
    let revision = |object: &kube::core::DynamicObject| -> u64 {
        object
            .metadata
            .resource_version
            .clone()
            .unwrap()
            .parse()
            .unwrap()
    };
    assert!(revision(&again) > revision(&made));
    let text = fs::read_to_string(only_file(path.path())).unwrap();
    assert!(text.contains("b/b") && !text.contains("a/a"), "{text}");

    folder.delete(SIDECAR, &name(), "other").unwrap_err();
    folder.delete(SIDECAR, &name(), &uid).unwrap();
    folder.delete(SIDECAR, &name(), &uid).unwrap();
    assert!(
        fs::read_dir(path.path().join("mesh"))
            .unwrap()
            .next()
            .is_none()
    );
    assert_eq!(
        told(&mut folder).last().unwrap(),
        "-Sidecar shop/lazymesh-a"
    );
}

#[test]
fn another_controller_on_the_same_folder_knows_what_it_wrote() {
    let path = tempfile::tempdir().unwrap();
    let made = folder(path.path())
        .apply(SIDECAR, &name(), ours("a/a"), None, at(7))
        .unwrap();
    let uid = made.metadata.uid.unwrap();
    let mut later = folder(path.path());
    later
        .apply(SIDECAR, &name(), ours("b/b"), Some(&uid), at(8))
        .unwrap();
}

#[test]
fn what_a_user_has_edited_stays() {
    let path = tempfile::tempdir().unwrap();
    let mut folder = folder(path.path());
    let made = folder
        .apply(SIDECAR, &name(), ours("a/a"), None, at(7))
        .unwrap();
    let uid = made.metadata.uid.unwrap();
    let file = only_file(path.path());
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("a/a", "mine/mine")).unwrap();
    let fault = folder
        .apply(SIDECAR, &name(), ours("b/b"), Some(&uid), at(8))
        .unwrap_err();
    assert!(matches!(fault, Fault::Edited(_)), "{fault}");
    // What is as it is wanted conflicts with nothing, and is ours again.
    folder
        .apply(SIDECAR, &name(), ours("mine/mine"), Some(&uid), at(8))
        .unwrap();
    folder
        .apply(SIDECAR, &name(), ours("b/b"), Some(&uid), at(8))
        .unwrap();
}

#[test]
fn labels_and_annotations_of_others_stay() {
    let path = tempfile::tempdir().unwrap();
    let mut folder = folder(path.path());
    let made = folder
        .apply(SIDECAR, &name(), ours("a/a"), None, at(7))
        .unwrap();
    let file = only_file(path.path());
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replace("  labels:\n", "  labels:\n    theirs: x\n"),
    )
    .unwrap();
    let uid = made.metadata.uid;
    let again = folder
        .apply(SIDECAR, &name(), ours("b/b"), uid.as_deref(), at(8))
        .unwrap();
    let labels = again.metadata.labels.unwrap();
    assert_eq!(labels["theirs"], "x");
    assert_eq!(labels["app.kubernetes.io/managed-by"], "lazymesh");
}

#[test]
fn nothing_of_a_user_s_is_written_over() {
    let path = tempfile::tempdir().unwrap();
    fs::create_dir(path.path().join("mesh")).unwrap();
    let theirs = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: lazymesh-a, namespace: shop}\n";
    let file = path.path().join("mesh/mine.yaml");
    fs::write(&file, theirs).unwrap();
    let mut folder = folder(path.path());
    for uid in [None, Some("x")] {
        let fault = folder
            .apply(SIDECAR, &name(), ours("a/a"), uid, at(7))
            .unwrap_err();
        assert!(matches!(fault, Fault::Another(_)), "{fault}");
    }
    assert!(folder.delete(SIDECAR, &name(), "x").is_err());
    assert_eq!(fs::read_to_string(&file).unwrap(), theirs);
    fs::remove_file(&file).unwrap();
    let fault = folder
        .apply(SIDECAR, &name(), ours("a/a"), Some("x"), at(7))
        .unwrap_err();
    assert!(matches!(fault, Fault::Another(_)), "{fault}");
}

#[test]
fn among_other_documents_only_the_one_meant_changes() {
    let path = tempfile::tempdir().unwrap();
    let mut folder = folder(path.path());
    let made = folder
        .apply(SIDECAR, &name(), ours("a/a"), None, at(7))
        .unwrap();
    let file = only_file(path.path());
    let before =
        "# mine\nkind:   Service\napiVersion: v1\nmetadata: {name: a, namespace: shop}\n---\n";
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, before.to_owned() + &text).unwrap();
    let uid = made.metadata.uid.unwrap();
    folder
        .apply(SIDECAR, &name(), ours("b/b"), Some(&uid), at(8))
        .unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with(before) && text.contains("b/b"), "{text}");
    folder.delete(SIDECAR, &name(), &uid).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
}
