//! Istio's resources from folders of YAML, as istiod has them from Kubernetes: changes are gathered before they are
//! pushed.

use super::istio::Documents;
use super::plane::Shared;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often folders are looked at.
const POLL: Duration = Duration::from_millis(10);
/// What istiod does unless told otherwise (`PILOT_DEBOUNCE_AFTER`, `PILOT_DEBOUNCE_MAX`): it pushes when nothing has
/// changed for the first, and after the second in any case.
const QUIET: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Folders that are followed until this is dropped.
#[derive(Debug)]
pub struct Following {
    task: tokio::task::JoinHandle<()>,
    fault: Arc<Mutex<Option<String>>>,
}

impl Following {
    pub(super) fn start(shared: Arc<Shared>, folders: Vec<PathBuf>) -> Self {
        let fault: Arc<Mutex<Option<String>>> = Arc::default();
        let of_task = Arc::clone(&fault);
        let task = tokio::spawn(async move {
            let mut files = Files::default();
            let mut waiting: Option<(Instant, Instant)> = None;
            loop {
                let now = Instant::now();
                let changed = files.look(&folders);
                match changed {
                    Ok(true) => waiting = Some((waiting.map_or(now, |(first, _)| first), now)),
                    Ok(false) => {}
                    Err(error) => *of_task.lock() = Some(error.to_string()),
                }
                if waiting
                    .is_some_and(|(first, last)| now - last >= QUIET || now - first >= LONGEST)
                {
                    waiting = None;
                    match files.documents() {
                        Ok(documents) => {
                            shared.put_documents(documents);
                        }
                        Err(error) => *of_task.lock() = Some(error),
                    }
                }
                tokio::time::sleep(POLL).await;
            }
        });
        Self { task, fault }
    }

    /// The last thing that was not understood or could not be read, if there was one.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What changes when a file does: inode, length and time of the last change.
type Stamp = (u64, u64, i64, i64);

#[derive(Default)]
struct Files(BTreeMap<PathBuf, (Stamp, Result<Documents, String>)>);

impl Files {
    /// Whether anything is not as it was.
    fn look(&mut self, folders: &[PathBuf]) -> io::Result<bool> {
        let mut found = BTreeMap::new();
        for folder in folders {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
                let yaml = path.extension().is_some_and(|end| end == "yaml");
                if yaml && !path.file_name().is_some_and(hidden) {
                    found.extend(stamp(&path)?.map(|stamp| (path, stamp)));
                }
            }
        }
        let before = self.0.len();
        self.0.retain(|path, _| found.contains_key(path));
        let mut changed = before != self.0.len();
        for (path, stamp) in found {
            if self.0.get(&path).is_none_or(|(known, _)| *known != stamp) {
                // One that goes in the meantime is missed with the next look.
                let Ok(text) = fs::read_to_string(&path) else {
                    continue;
                };
                let read = Documents::read([text.as_str()]);
                let read = read.map_err(|error| format!("{}: {error}", path.display()));
                self.0.insert(path, (stamp, read));
                changed = true;
            }
        }
        Ok(changed)
    }

    fn documents(&self) -> Result<Documents, String> {
        let mut all = Documents::default();
        for (_, read) in self.0.values() {
            all.extend(read.clone()?);
        }
        Ok(all)
    }
}

fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some((
            found.ino(),
            found.len(),
            found.ctime(),
            found.ctime_nsec(),
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDECAR: &str = "apiVersion: networking.istio.io/v1\nkind: Sidecar\n\
                           metadata: {name: a, namespace: shop}\nspec: {egress: [{hosts: ['~/*']}]}\n";

    #[test]
    fn a_change_is_seen_once_and_a_file_that_goes_takes_its_documents() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        let mut files = Files::default();
        assert!(!files.look(&folders).unwrap());
        let file = folder.path().join("a.yaml");
        fs::write(&file, SIDECAR).unwrap();
        fs::write(folder.path().join(".hidden.yaml"), "}{").unwrap();
        assert!(files.look(&folders).unwrap());
        assert!(!files.look(&folders).unwrap());
        assert_eq!(
            files.documents().unwrap(),
            Documents::read([SIDECAR]).unwrap()
        );
        fs::remove_file(&file).unwrap();
        assert!(files.look(&folders).unwrap());
        assert_eq!(files.documents(), Ok(Documents::default()));
    }

    #[test]
    fn a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "}{").unwrap();
        let mut files = Files::default();
        assert!(files.look(&[folder.path().to_owned()]).unwrap());
        assert!(files.documents().unwrap_err().contains("a.yaml"));
    }
}
