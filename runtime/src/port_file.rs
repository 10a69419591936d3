//! Says which ports were bound, for tests that let the kernel choose them.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Map, Value};

/// Writes the ports as a JSON object, `{"NAME":PORT,..}`: beside and renamed, so that who waits for the file never reads
/// half of it.
///
/// # Errors
/// When the file cannot be written; the flag and the path are named.
pub fn write(path: &Path, ports: &[(&str, SocketAddr)]) -> io::Result<()> {
    let object: Map<String, Value> = ports
        .iter()
        .map(|(name, address)| ((*name).to_owned(), address.port().into()))
        .collect();
    let beside = path.with_extension("writing");
    std::fs::write(&beside, format!("{}\n", Value::Object(object)))
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(|error| {
            let text = format!("--port-file {}: {error}", path.display());
            io::Error::new(error.kind(), text)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ports.json");
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        write(&path, &[("xds", at(1)), ("admin", at(2))]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let ports: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(ports, serde_json::json!({"xds": 1, "admin": 2}));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let error = write(Path::new("/nowhere/ports"), &[]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("--port-file /nowhere/ports: ")
        );
    }
}
