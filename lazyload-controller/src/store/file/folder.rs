//! The folder itself: what is in it, what changed in it, and how a record gets into it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use dependency_graph::{Learned, Namespace, Timestamp, Workload};
use tempfile::NamedTempFile;
use tracing::{debug, warn};

use super::documents::{self, Document};
use crate::expiry::Verdict;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::resource::{
    Entry, Learning, Said, WorkloadDependencies, conditions, learn, new_record, revise,
};
use crate::state::{State, Versioned};
use crate::store::{Error, Stored};

/// The name of the lock; names that begin with a dot are no documents.
const LOCK: &str = ".lock";
/// The largest file that is read, in bytes. A record with 1000 dependencies has some 200 kB.
const LARGEST: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    metrics: Metrics,
    files: BTreeMap<PathBuf, Seen>,
    /// Grows with every change of a record, whoever made it.
    revision: u64,
    _lock: fs::File,
}

/// A file as it was last looked at.
#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    documents: Vec<Known>,
}

/// What of a document matters here.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    Namespace(String, Namespace),
    Record(Box<Entry>),
}

impl Known {
    fn same_subject(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Namespace(one, _), Self::Namespace(other, _)) => one == other,
            (Self::Record(one), Self::Record(other)) => one.workload == other.workload,
            _ => false,
        }
    }
}

/// What of a file changes when it does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Folder {
    pub(super) fn open(path: PathBuf, metrics: Metrics) -> Result<Self, Error> {
        let fault = |reason: String| Error::Folder {
            path: path.clone(),
            reason,
        };
        if !path.is_dir() {
            return Err(fault(
                "there is no such folder (hint: make it first)".into(),
            ));
        }
        let lock = fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(|error| fault(format!("cannot be written to: {error}")))?;
        lock.try_lock().map_err(|_| {
            fault("another controller has it (hint: one folder serves one controller)".into())
        })?;
        Ok(Self {
            path,
            metrics,
            files: BTreeMap::new(),
            revision: 0,
            _lock: lock,
        })
    }

    /// Looks at every file, and tells what changed since the last time.
    pub(super) fn look(&mut self, state: &State) -> Result<(), Error> {
        let paths = self.list()?;
        self.files
            .retain(|path, _| paths.binary_search(path).is_ok());
        for path in paths {
            match stamp(&path) {
                Ok(now) if self.files.get(&path).is_none_or(|seen| seen.stamp != now) => {
                    self.read(path, now);
                }
                Ok(_) => {}
                // Gone since it was listed; the next look sees that.
                Err(_) => {}
            }
        }
        self.tell(state);
        Ok(())
    }

    pub(super) fn list(&self) -> Result<Vec<PathBuf>, Error> {
        let fault = |e: std::io::Error| Error::Folder {
            path: self.path.clone(),
            reason: e.to_string(),
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
            if yaml && !name.starts_with('.') && path.is_file() {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// Reads one file. A document that cannot be read is skipped. Nobody knows which of those before it was; so what the
    /// file said before, and none of its documents says now, stays until all of them can be read.
    fn read(&mut self, path: PathBuf, stamp: Stamp) {
        let mut broken = false;
        let mut skip = |number: usize, error: &str| {
            broken = true;
            self.metrics.unreadable.inc();
            warn!(file = %path.display(), document = number, error, "skipping a document that cannot be read; what it said before stays");
        };
        let text = if stamp.length > LARGEST {
            Err(format!("it is larger than {LARGEST} bytes"))
        } else {
            fs::read_to_string(&path).map_err(|error| error.to_string())
        };
        let text = text.unwrap_or_else(|error| {
            skip(0, &error);
            String::new()
        });
        let mut documents = Vec::new();
        for (index, text) in documents::split(&text).into_iter().enumerate() {
            match documents::read(text) {
                Ok(Document::Namespace(name, says)) => documents.push(Known::Namespace(name, says)),
                Ok(Document::Record(record)) => documents.push(Known::Record(Box::new(record.1))),
                Ok(Document::Empty) => {}
                Err(error) => skip(index + 1, &error),
            }
        }
        if broken && let Some(before) = self.files.remove(&path) {
            for known in before.documents {
                if !documents.iter().any(|now| now.same_subject(&known)) {
                    documents.push(known);
                }
            }
        }
        self.files.insert(path, Seen { stamp, documents });
    }

    fn tell(&mut self, state: &State) {
        let (mut namespaces, mut workloads) = (HashSet::new(), HashSet::new());
        let known = self
            .files
            .iter()
            .flat_map(|(path, seen)| seen.documents.iter().map(move |document| (path, document)));
        for (path, document) in known {
            let first = match document {
                Known::Namespace(name, says) => {
                    let first = namespaces.insert(name.clone());
                    if first {
                        state.set_namespace(name, *says);
                    }
                    first
                }
                Known::Record(entry) => {
                    let first = workloads.insert(entry.workload.clone());
                    if first && !state.knows(entry) {
                        self.revision += 1;
                        let entry = (**entry).clone();
                        state.set_record(Versioned {
                            entry,
                            revision: self.revision,
                        });
                    }
                    first
                }
            };
            if !first {
                debug!(file = %path.display(), "says again what an earlier document says");
            }
        }
        state.retain_namespaces(&namespaces);
        state.retain_records(&workloads, self.revision);
    }

    /// Adds calls to the record of a workload, as it is in its file at this moment.
    pub(super) fn learn(
        &mut self,
        workload: &Workload,
        calls: &Learned,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<Stored, Error> {
        let (path, text, index, resource) = match self.find(workload)? {
            Some(found) => found,
            None => {
                let path = self.path.join(file_name(workload));
                if path.exists() {
                    // It holds something else, which is not to be written over.
                    return Err(Error::Unwritable(format!(
                        "{}: it has no record of {workload}",
                        path.display()
                    )));
                }
                (path, String::new(), 0, new_record(workload))
            }
        };
        let learning = learn(&resource, calls, limits, now)?;
        self.write(&path, (&text, index), resource, learning)
    }

    /// Does to the record of a workload, as it is in its file at this moment, what was judged.
    pub(super) fn revise(
        &mut self,
        workload: &Workload,
        verdict: &Verdict,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<Option<Stored>, Error> {
        let Some((path, text, index, resource)) = self.find(workload)? else {
            return Ok(None);
        };
        let learning = revise(&resource, verdict, limits, now)?;
        self.write(&path, (&text, index), resource, learning)
            .map(Some)
    }

    /// Writes what is said of a workload into its record, as it is in its file at this moment. None is made for it.
    pub(super) fn say(
        &mut self,
        workload: &Workload,
        said: &BTreeSet<Said>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some((path, text, index, resource)) = self.find(workload)? else {
            return Ok(());
        };
        let learning = conditions::say(&resource, said, now)?;
        self.write(&path, (&text, index), resource, learning)?;
        Ok(())
    }

    /// Writes a record in place of the document `index` of a file's text, if there is something to write.
    fn write(
        &mut self,
        path: &Path,
        (text, index): (&str, usize),
        resource: WorkloadDependencies,
        learning: Learning,
    ) -> Result<Stored, Error> {
        let wrote = learning.status.is_some();
        if let Some(status) = learning.status {
            let mut resource = resource;
            resource.status = Some(status);
            let document = documents::write(&resource).map_err(Error::Unwritable)?;
            self.put(path, &documents::replace(text, index, &document))?;
            self.revision += 1;
            if let Ok(stamp) = stamp(path) {
                self.read(path.to_owned(), stamp);
            }
        }
        let now = Versioned {
            entry: learning.entry,
            revision: self.revision,
        };
        Ok(Stored {
            now,
            refused: learning.refused,
            conflicts: 0,
            wrote,
        })
    }

    /// The file, its text, and the place in it of a workload's record. Read afresh: it may have been edited since the
    /// last look.
    #[allow(clippy::type_complexity)]
    fn find(
        &mut self,
        workload: &Workload,
    ) -> Result<Option<(PathBuf, String, usize, WorkloadDependencies)>, Error> {
        let has = |seen: &Seen| {
            let mut records = seen.documents.iter();
            records.any(|d| matches!(d, Known::Record(e) if e.workload == *workload))
        };
        let expected = self.path.join(file_name(workload));
        let known = self
            .files
            .iter()
            .find(|(_, seen)| has(seen))
            .map(|(path, _)| path.clone());
        for path in known.into_iter().chain([expected]) {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(Error::Unavailable(format!("{}: {error}", path.display())));
                }
            };
            let (mut found, mut broken) = (None, None);
            for (index, text) in documents::split(&text).into_iter().enumerate() {
                match documents::read(text) {
                    Ok(Document::Record(record)) if record.1.workload == *workload => {
                        found = found.or(Some((index, record.0)));
                    }
                    Ok(_) => {}
                    Err(error) => broken = Some(error),
                }
            }
            if let Some((index, resource)) = found {
                return Ok(Some((path, text, index, resource)));
            }
            if let Some(error) = broken {
                // It may be the record: a second one beside it would hide what someone wants to mend.
                return Err(Error::Unwritable(format!("{}: {error}", path.display())));
            }
        }
        Ok(None)
    }

    /// Puts a file in place whole: written and synced beside it, then renamed over it, then the folder synced.
    fn put(&self, path: &Path, text: &str) -> Result<(), Error> {
        let put = || -> std::io::Result<()> {
            let mut beside = NamedTempFile::with_prefix_in(".writing-", &self.path)?;
            beside.write_all(text.as_bytes())?;
            beside
                .as_file()
                .set_permissions(fs::Permissions::from_mode(0o644))?;
            beside.as_file().sync_all()?;
            beside.persist(path).map_err(|error| error.error)?;
            fs::File::open(&self.path)?.sync_all()
        };
        put().map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))?;
        debug!(file = %path.display(), "written");
        Ok(())
    }
}

/// `<namespace>.<record name>.yaml`: a namespace has no dot, so that two workloads never share one. Longer than file
/// names may be, the record's name makes way for its hash.
fn file_name(workload: &Workload) -> String {
    let (namespace, record) = (workload.namespace(), workload.record_name());
    let name = format!("{namespace}.{record}.yaml");
    if name.len() <= 255 {
        name
    } else {
        format!("{namespace}.{}.yaml", workload.record_hash())
    }
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    Ok(Stamp {
        inode: meta.ino(),
        length: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}
