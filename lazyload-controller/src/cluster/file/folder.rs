//! The folder itself: what is in it, what changed in it, and how an object gets into it and out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::Value;
use tempfile::NamedTempFile;
use tracing::{debug, warn};

use crate::cluster::Fault;
use crate::mesh::sidecar::MANAGED_BY;
use crate::mesh::{Kind, Name};
use crate::store::file::documents;

/// Where the mesh's objects are, below the folder of the graph.
const MESH: &str = "mesh";
/// The largest file that is read, in bytes.
const LARGEST: u64 = 64 << 20;
/// The annotation by which an edit by hand is told from what was written: a hash of the `spec`.
const APPLIED: &str = "lazymesh.dev/applied";

/// What changed.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// An object is so.
    Is(Kind, Arc<DynamicObject>),
    /// An object is gone; this is what it was.
    Gone(Kind, Arc<DynamicObject>),
}

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    mesh_config: Name,
    files: BTreeMap<PathBuf, Seen>,
    known: BTreeMap<(Kind, Name), Known>,
    /// What was found out since it was last told.
    news: Vec<Told>,
}

/// A file as it was last looked at.
#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    objects: Vec<(Kind, Known)>,
}

/// An object, and which document of which file it is.
#[derive(Clone, Debug)]
struct Known {
    file: PathBuf,
    document: usize,
    object: Arc<DynamicObject>,
}

/// What of a file changes when it does: its inode, length and time of the last change.
type Stamp = (u64, u64, i64, i64);

impl Folder {
    pub(super) fn new(path: PathBuf, mesh_config: Name) -> Self {
        Self {
            path,
            mesh_config,
            files: BTreeMap::new(),
            known: BTreeMap::new(),
            news: Vec::new(),
        }
    }

    /// What changed since the last time.
    pub(super) fn look(&mut self) -> io::Result<Vec<Told>> {
        self.refresh()?;
        Ok(std::mem::take(&mut self.news))
    }

    /// All there is.
    pub(super) fn names(&self) -> BTreeSet<(Kind, Name)> {
        self.known.keys().cloned().collect()
    }

    /// Makes an object, or with `uid` changes that very one.
    pub(super) fn apply(
        &mut self,
        kind: Kind,
        name: &Name,
        object: Value,
        uid: Option<&str>,
        now: SystemTime,
    ) -> Result<DynamicObject, Fault> {
        let mut object: DynamicObject =
            serde_json::from_value(object).map_err(|error| Fault::Refused(error.to_string()))?;
        self.refresh().map_err(|error| unavailable(&error))?;
        let there = self.known.get(&(kind, name.clone())).cloned();
        if let Some(there) = &there {
            may_change(there, &object, uid)?;
        } else if uid.is_some() {
            return Err(Fault::Another("it is gone".to_owned()));
        }
        let before = there.as_ref().map(|there| there.object.as_ref());
        stamp_with(&mut object, before, now);
        let text =
            serde_yaml_ng::to_string(&object).map_err(|error| Fault::Refused(error.to_string()))?;
        match there {
            Some(there) => self.replace(&there, &text),
            None => self.create(kind, name, &text),
        }?;
        self.refresh().map_err(|error| unavailable(&error))?;
        Ok(object)
    }

    /// Deletes this very object.
    pub(super) fn delete(&mut self, kind: Kind, name: &Name, uid: &str) -> Result<(), Fault> {
        self.refresh().map_err(|error| unavailable(&error))?;
        let Some(there) = self.known.get(&(kind, name.clone())).cloned() else {
            return Ok(());
        };
        if there.object.metadata.uid.as_deref() != Some(uid) {
            return Err(Fault::Another("it has another uid".to_owned()));
        }
        self.replace(&there, "")?;
        self.refresh().map_err(|error| unavailable(&error))
    }

    fn create(&self, kind: Kind, name: &Name, text: &str) -> Result<(), Fault> {
        let folder = self.path.join(MESH);
        fs::create_dir_all(&folder).map_err(|error| unavailable(&error))?;
        let path = folder.join(file_name(kind, name));
        if path.exists() {
            let path = path.display();
            return Err(Fault::Refused(format!("{path}: it holds something else")));
        }
        put(&path, text).map_err(|error| unavailable(&error))
    }

    /// Puts a text in the place of a document; a file in which no other is left goes.
    fn replace(&self, there: &Known, text: &str) -> Result<(), Fault> {
        let path = &there.file;
        let old = fs::read_to_string(path).map_err(|error| unavailable(&error))?;
        let new = documents::replace(&old, there.document, text);
        let empty = documents::split(&new)
            .iter()
            .all(|document| document.trim().is_empty());
        let done = if empty {
            fs::remove_file(path)
        } else {
            put(path, &new)
        };
        done.map_err(|error| unavailable(&error))
    }

    /// Reads what changed, and notes what that means.
    fn refresh(&mut self) -> io::Result<()> {
        let found = self.files_now()?;
        let before = self.files.len();
        self.files.retain(|path, _| found.contains_key(path));
        let mut changed = before != self.files.len();
        for (path, stamp) in found {
            if self.files.get(&path).is_none_or(|seen| seen.stamp != stamp) {
                self.read(path, stamp);
                changed = true;
            }
        }
        if changed {
            self.note_changes();
        }
        Ok(())
    }

    fn files_now(&self) -> io::Result<BTreeMap<PathBuf, Stamp>> {
        let mut found = BTreeMap::new();
        for folder in [self.path.clone(), self.path.join(MESH)] {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let path = entry?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                let name = name.unwrap_or_default();
                let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
                if yaml && !name.starts_with('.') {
                    // One that went in the meantime is gone.
                    if let Ok(meta) = fs::metadata(&path) {
                        let stamp = (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec());
                        found.insert(path, stamp);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Reads a file. One that has a document that cannot be read stays as it was before.
    fn read(&mut self, path: PathBuf, stamp: Stamp) {
        let beside_graph = path.parent() == Some(&self.path);
        match self.objects(&path, stamp) {
            Ok(mut objects) => {
                // The rest of that folder is the graph's.
                objects.retain(|(kind, _)| !beside_graph || *kind == Kind::Namespace);
                self.files.insert(path, Seen { stamp, objects });
            }
            Err(error) => {
                warn!(file = %path.display(), error, "cannot be read; what it said before stays");
                let objects = self.files.remove(&path).map(|seen| seen.objects);
                let objects = objects.unwrap_or_default();
                self.files.insert(path, Seen { stamp, objects });
            }
        }
    }

    fn objects(&self, path: &Path, stamp: Stamp) -> Result<Vec<(Kind, Known)>, String> {
        if stamp.1 > LARGEST {
            return Err(format!("it is larger than {LARGEST} bytes"));
        }
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let mut objects = Vec::new();
        for (document, text) in documents::split(&text).into_iter().enumerate() {
            let object: Option<DynamicObject> = serde_yaml_ng::from_str(text)
                .map_err(|error| format!("document {}: {error}", document + 1))?;
            let Some(mut object) = object else { continue };
            if let Some(kind) = self.kind_of(&object) {
                self.date(kind, &mut object, stamp);
                let known = Known {
                    file: path.to_owned(),
                    document,
                    object: Arc::new(object),
                };
                objects.push((kind, known));
            }
        }
        Ok(objects)
    }

    /// A pod is as old as what first told of it, unless it says so itself: by that it is judged whether it may be trimmed.
    fn date(&self, kind: Kind, object: &mut DynamicObject, stamp: Stamp) {
        if kind != Kind::Pod || object.metadata.creation_timestamp.is_some() {
            return;
        }
        let before = self.known.get(&(kind, Name::of(&object.metadata)));
        let before = before.and_then(|known| known.object.metadata.creation_timestamp.clone());
        let now = || Timestamp::from_second(stamp.2).ok().map(Time);
        object.metadata.creation_timestamp = before.or_else(now);
    }

    /// What an object is here; `None` for what does not matter.
    fn kind_of(&self, object: &DynamicObject) -> Option<Kind> {
        let types = object.types.as_ref()?;
        let (group, _) = types.api_version.split_once('/').unwrap_or_default();
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.to_string() == types.kind && group_of(*kind) == group)?;
        let other_map = kind == Kind::MeshConfig && Name::of(&object.metadata) != self.mesh_config;
        (!other_map).then_some(kind)
    }

    fn note_changes(&mut self) {
        let mut now: BTreeMap<(Kind, Name), Known> = BTreeMap::new();
        for (kind, known) in self.files.values().flat_map(|seen| &seen.objects) {
            let key = (*kind, Name::of(&known.object.metadata));
            match now.get(&key) {
                None => _ = now.insert(key, known.clone()),
                Some(first) => {
                    let (file, first) = (known.file.display(), first.file.display());
                    debug!(%file, %first, object = %key.1, "said by an earlier file");
                }
            }
        }
        for (key, known) in &now {
            let before = self.known.get(key);
            if before.is_none_or(|before| before.object != known.object) {
                self.news.push(Told::Is(key.0, known.object.clone()));
            }
        }
        for (key, known) in &self.known {
            if !now.contains_key(key) {
                self.news.push(Told::Gone(key.0, known.object.clone()));
            }
        }
        self.known = now;
    }
}

fn group_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace | Kind::Service | Kind::Pod | Kind::MeshConfig => "",
        Kind::ServiceEntry | Kind::VirtualService | Kind::Sidecar | Kind::EnvoyFilter => {
            "networking.istio.io"
        }
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
            "gateway.networking.k8s.io"
        }
        Kind::ServiceCidr => "networking.k8s.io",
    }
}

/// Whether an object that is there may be written over, as server-side apply without force would have it.
fn may_change(there: &Known, object: &DynamicObject, uid: Option<&str>) -> Result<(), Fault> {
    let meta = &there.object.metadata;
    let label = meta.labels.as_ref().and_then(|all| all.get(MANAGED_BY.0));
    if label.map(String::as_str) != Some(MANAGED_BY.1) {
        return Err(Fault::Another("it has not our label".to_owned()));
    }
    if uid.is_some() && meta.uid.as_deref() != uid {
        return Err(Fault::Another("it has another uid".to_owned()));
    }
    let (is, wanted) = (&there.object.data["spec"], &object.data["spec"]);
    let applied = meta.annotations.as_ref().and_then(|all| all.get(APPLIED));
    if is != wanted && applied != Some(&hash(is)) {
        let file = there.file.display();
        return Err(Fault::Edited(format!("its spec in {file}")));
    }
    Ok(())
}

/// Gives an object what the API server would, and keeps the labels and annotations of others.
fn stamp_with(object: &mut DynamicObject, before: Option<&DynamicObject>, now: SystemTime) {
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let spec = hash(&object.data["spec"]);
    let meta = &mut object.metadata;
    let old = before.map(|before| before.metadata.clone());
    let old = old.unwrap_or_default();
    let revision = old.resource_version.as_deref();
    let next = revision.and_then(|text| text.parse::<u64>().ok());
    let next = next.map_or(0, |revision| revision.saturating_add(1));
    let millis = u64::try_from(since.as_millis()).unwrap_or_default();
    meta.resource_version = Some(next.max(millis).to_string());
    meta.uid = old.uid.or_else(|| Some(format!("{:x}", since.as_nanos())));
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    let made = Timestamp::from_second(seconds).ok().map(Time);
    meta.creation_timestamp = old.creation_timestamp.or(made);
    let mut labels = old.labels.unwrap_or_default();
    labels.extend(meta.labels.take().unwrap_or_default());
    meta.labels = Some(labels);
    let mut annotations = old.annotations.unwrap_or_default();
    annotations.extend(meta.annotations.take().unwrap_or_default());
    annotations.insert(APPLIED.to_owned(), spec);
    meta.annotations = Some(annotations);
}

fn hash(value: &Value) -> String {
    let text = value.to_string();
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

/// `<namespace>.<kind>-<name>.yaml`: a namespace has no dot. Longer than file names may be, the name makes way for its
/// hash.
fn file_name(kind: Kind, name: &Name) -> String {
    let kind = kind.to_string().to_ascii_lowercase();
    let full = format!("{}.{kind}-{}.yaml", name.namespace, name.name);
    if full.len() <= 255 {
        return full;
    }
    let hash = blake3::hash(name.name.as_bytes()).to_hex();
    format!("{}.{kind}-{}.yaml", name.namespace, &hash[..32])
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut beside = NamedTempFile::with_prefix_in(".writing-", folder)?;
    beside.write_all(text.as_bytes())?;
    let all_may_read = fs::Permissions::from_mode(0o644);
    beside.as_file().set_permissions(all_may_read)?;
    beside.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn unavailable(error: &io::Error) -> Fault {
    Fault::Unavailable(error.to_string())
}
