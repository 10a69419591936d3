//! Documents, and what a folder survives.

use dependency_graph::fallback::Policy;
use dependency_graph::{Dependency, Mode, Namespace, Port, Protocol, Source, Timestamp};
use prometheus::Registry;

use super::documents::{Document, read, replace, split};
use super::*;

fn workload(name: &str) -> Workload {
    Workload::new("shop", "Deployment", name).unwrap()
}

fn calls(host: &str) -> Learned {
    let (host, port) = (host.parse().unwrap(), Port::try_from(80).unwrap());
    let mut learned = Learned::new();
    let dependency = Dependency {
        host,
        port,
        protocol: Protocol::Http,
    };
    learned.see(&dependency, Timestamp::from_seconds(7), Source::OnDemand);
    learned
}

fn metrics() -> Metrics {
    Metrics::new(&Registry::new()).unwrap()
}

fn learn(folder: &mut Folder, name: &str, host: &str) -> Result<Stored, Error> {
    let now = Timestamp::from_seconds(9);
    folder.learn(&workload(name), &calls(host), &Limits::default(), now)
}

#[test]
fn documents_are_split_at_their_markers_only() {
    assert_eq!(split("a\n---\nb\n"), ["a\n", "b\n"]);
    assert_eq!(split("---\na: '---'\n--- # c\nb"), ["", "a: '---'\n", "b"]);
    assert_eq!(split(""), [""]);
    assert_eq!(split("a: |\n  ---\n"), ["a: |\n  ---\n"]);
    assert_eq!(
        replace("# x\n---\nb\n---\nc\n", 1, "new\n"),
        "# x\n---\nnew\n---\nc\n"
    );
    assert_eq!(replace("", 0, "new\n"), "new\n");
}

#[test]
fn namespaces_are_read() {
    let of = |labels: &str| read(&format!("kind: Namespace\nmetadata: {{name: a{labels}}}"));
    let says = |mode, fallback| {
        Ok(Document::Namespace(
            "a".into(),
            Namespace {
                mode,
                fallback,
                ..Namespace::default()
            },
        ))
    };
    let mode = |mode| says(mode, Policy::default());
    assert_eq!(of(""), mode(None));
    assert_eq!(of(", labels: {other: x}"), mode(None));
    assert_eq!(
        of(", labels: {lazymesh.dev/mode: on-demand}"),
        mode(Some(Mode::OnDemand))
    );
    assert_eq!(
        of(", labels: {lazymesh.dev/mode: off}"),
        mode(Some(Mode::Off))
    );
    assert_eq!(
        of(", labels: {lazymesh.dev/mode: false}"),
        mode(Some(Mode::Off))
    );
    assert!(of(", labels: {lazymesh.dev/mode: lazy}").is_err());
    for (value, policy) in [
        ("relay-only", Policy::RelayOnly),
        ("redirect-only", Policy::RedirectOnly),
        ("redirect_only", Policy::RedirectOnly),
        ("true", Policy::RedirectOnly),
    ] {
        let annotated = format!(", annotations: {{lazymesh.dev/fallback: {value}}}");
        assert_eq!(of(&annotated), says(None, policy), "{value}");
    }
    assert!(read("kind: Namespace").is_err());
}

#[test]
fn other_documents_are_named_or_nothing() {
    assert_eq!(read("# only this\n"), Ok(Document::Empty));
    assert!(read("kind: Pod").unwrap_err().contains("Pod"));
    assert!(read("just text").is_err());
    assert!(read("a: [").is_err());
}

#[test]
fn what_is_learned_is_there_after_opening_again() {
    let path = tempfile::tempdir().unwrap();
    let mut folder = Folder::open(path.path().into(), metrics()).unwrap();
    learn(&mut folder, "reviews", "a.b").unwrap();
    assert!(learn(&mut folder, "reviews", "c.d").unwrap().wrote);
    assert!(!learn(&mut folder, "reviews", "c.d").unwrap().wrote);
    drop(folder);
    let mut folder = Folder::open(path.path().into(), metrics()).unwrap();
    let state = State::new(metrics());
    folder.look(&state).unwrap();
    assert_eq!(state.record(&workload("reviews")).unwrap().learned.len(), 2);
    let names = std::fs::read_dir(path.path())
        .unwrap()
        .map(|e| e.unwrap().file_name());
    let names: std::collections::BTreeSet<_> = names.collect();
    assert_eq!(
        names,
        [".lock", "shop.deployment-reviews.yaml"]
            .map(Into::into)
            .into()
    );
}

#[test]
fn a_record_among_other_documents_is_replaced_alone() {
    let path = tempfile::tempdir().unwrap();
    let file = path.path().join("all.yaml");
    let record = "kind: WorkloadDependencies\napiVersion: lazymesh.dev/v1alpha1\n\
        metadata: {name: deployment-reviews, namespace: shop}\n\
        spec: {workloadRef: {kind: Deployment, name: reviews}}\n";
    let before = "# mine\nkind:   Namespace\nmetadata: {name: shop}\n---\n";
    let after = "---\nkind: Namespace\nmetadata: {name:   other} # stays\n";
    std::fs::write(&file, [before, record, after].concat()).unwrap();
    let mut folder = Folder::open(path.path().into(), metrics()).unwrap();
    folder.look(&State::new(metrics())).unwrap();
    learn(&mut folder, "reviews", "a.b").unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with(before) && text.ends_with(after), "{text}");
    assert!(text.contains("host: a.b"), "{text}");
    assert!(!path.path().join("shop.deployment-reviews.yaml").exists());
}

#[test]
fn a_malformed_document_hides_no_other_and_is_not_written_over() {
    let path = tempfile::tempdir().unwrap();
    let broken = path.path().join("shop.deployment-reviews.yaml");
    std::fs::write(&broken, "kind: WorkloadDependencies\nspec: {").unwrap();
    let good =
        "kind: Namespace\nmetadata: {name: shop, labels: {lazymesh.dev/mode: observe}}\n---\n}{\n";
    std::fs::write(path.path().join("a.yaml"), good).unwrap();
    let metrics = metrics();
    let mut folder = Folder::open(path.path().into(), metrics.clone()).unwrap();
    let state = State::new(metrics.clone());
    folder.look(&state).unwrap();
    assert_eq!(state.namespace("shop").mode, Some(Mode::Observe));
    assert_eq!(metrics.unreadable.get(), 2);
    folder.look(&state).unwrap();
    assert_eq!(metrics.unreadable.get(), 2, "said once only");
    assert!(matches!(
        learn(&mut folder, "reviews", "a.b"),
        Err(Error::Unwritable(_))
    ));
    assert_eq!(
        std::fs::read_to_string(&broken).unwrap(),
        "kind: WorkloadDependencies\nspec: {"
    );
    learn(&mut folder, "web", "a.b").unwrap();
}

#[test]
fn an_edit_between_looks_is_not_lost_by_a_write() {
    let path = tempfile::tempdir().unwrap();
    let mut folder = Folder::open(path.path().into(), metrics()).unwrap();
    learn(&mut folder, "reviews", "a.b").unwrap();
    let file = path.path().join("shop.deployment-reviews.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("spec:\n", "spec:\n  mode: observe\n")).unwrap();
    let stored = learn(&mut folder, "reviews", "c.d").unwrap();
    assert_eq!(stored.now.entry.record.mode, Some(Mode::Observe));
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .contains("mode: observe")
    );
}

#[test]
fn a_folder_that_is_none_is_said() {
    let path = tempfile::tempdir().unwrap();
    let error = Folder::open(path.path().join("none"), metrics()).unwrap_err();
    assert!(error.to_string().contains("no such folder"), "{error}");
}

#[test]
fn a_document_broken_by_hand_keeps_its_last_good_state() {
    let path = tempfile::tempdir().unwrap();
    let file = path.path().join("all.yaml");
    let namespace = |name| {
        format!(
            "kind: Namespace\nmetadata: {{name: {name}, labels: {{lazymesh.dev/mode: observe}}}}\n---\n"
        )
    };
    let record = "kind: WorkloadDependencies\napiVersion: lazymesh.dev/v1alpha1\n\
        metadata: {name: deployment-reviews, namespace: shop}\n\
        spec: {workloadRef: {kind: Deployment, name: reviews}}\n";
    std::fs::write(&file, namespace("shop") + record).unwrap();
    let mut folder = Folder::open(path.path().into(), metrics()).unwrap();
    let state = State::new(metrics());
    folder.look(&state).unwrap();
    learn(&mut folder, "reviews", "a.b").unwrap();
    folder.look(&state).unwrap();

    // Broken, and the other document changed.
    std::fs::write(
        &file,
        namespace("other") + "kind: WorkloadDependencies\nspec: {",
    )
    .unwrap();
    for _ in 0..2 {
        folder.look(&state).unwrap();
        assert_eq!(state.record(&workload("reviews")).unwrap().learned.len(), 1);
        assert_eq!(state.namespace("other").mode, Some(Mode::Observe));
    }
    assert!(matches!(
        learn(&mut folder, "reviews", "c.d"),
        Err(Error::Unwritable(_))
    ));
    assert!(!path.path().join("shop.deployment-reviews.yaml").exists());

    // Mended without it, it is gone.
    std::fs::write(&file, namespace("other")).unwrap();
    folder.look(&state).unwrap();
    assert!(state.record(&workload("reviews")).is_none());
    assert_eq!(state.namespace("shop").mode, None);
}

#[test]
fn what_is_said_is_kept_where_there_is_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Folder::open(folder.path().to_owned(), metrics()).unwrap();
    let said: BTreeSet<Said> = [crate::settle::said(Ok("shop/x"))].into();
    let mut first = open();
    let now = Timestamp::from_seconds(9);
    first.say(&workload("cart"), &said, now).unwrap();
    assert_eq!(first.list().unwrap().len(), 0);
    learn(&mut first, "cart", "a.shop").unwrap();
    let state = State::new(metrics());
    first.look(&state).unwrap();
    first.say(&workload("cart"), &said, now).unwrap();
    first.look(&state).unwrap();
    assert_eq!(state.said(&workload("cart")), Some(said.clone()));
    drop(first);
    let anew = State::new(metrics());
    open().look(&anew).unwrap();
    assert!(anew.wish(&workload("cart")).begun);
}

#[test]
fn a_folder_that_takes_long_to_look_at_is_looked_at_less_often() {
    let ms = Duration::from_millis;
    let after = |took| pause(POLL_PERIOD, took);
    assert_eq!(after(ms(0)), POLL_PERIOD);
    assert_eq!(after(ms(20)), POLL_PERIOD);
    assert_eq!(after(ms(100)), ms(900));
    assert_eq!(after(Duration::MAX), LONGEST_PAUSE);
    assert_eq!(pause(ms(60_000), ms(100)), ms(60_000));
}
