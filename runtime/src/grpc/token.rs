//! The token a caller shows: a service account's, from a file that the kubelet writes anew before it expires.

use std::path::PathBuf;

use thiserror::Error;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

/// Why a request has no token.
#[derive(Debug, Error)]
#[error("token file {path}: {reason}")]
pub struct TokenError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// A file with a token in it.
#[derive(Clone, Debug)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// The file at `path`; it is read when a request is made.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Puts the token of this moment into the metadata of a request, as `authorization: Bearer TOKEN`.
    ///
    /// # Errors
    /// When the file cannot be read, or holds what no header can carry.
    pub fn authorize<T>(&self, request: &mut Request<T>) -> Result<(), TokenError> {
        let failed = |reason: String| TokenError {
            path: self.0.clone(),
            reason,
        };
        let token = std::fs::read_to_string(&self.0).map_err(|e| failed(e.to_string()))?;
        let value: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| failed("holds no token".into()))?;
        request.metadata_mut().insert("authorization", value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_token_of_the_moment_goes_along() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = TokenFile::new(file.path());
        for text in ["one\n", "two"] {
            std::fs::write(file.path(), text).unwrap();
            let mut request = Request::new(());
            token.authorize(&mut request).unwrap();
            let shown = request.metadata().get("authorization").unwrap();
            assert_eq!(shown.to_str().unwrap(), format!("Bearer {}", text.trim()));
        }
    }

    #[test]
    fn a_file_without_a_token_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a\u{7f}b").unwrap();
        let of = |path: &Path| {
            let error = TokenFile::new(path).authorize(&mut Request::new(()));
            error.unwrap_err().to_string()
        };
        assert!(of(file.path()).ends_with(": holds no token"));
        assert!(of(Path::new("/nowhere/token")).starts_with("token file /nowhere/token: "));
    }
}
