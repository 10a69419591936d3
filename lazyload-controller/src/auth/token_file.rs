//! A token shared by all callers, in a file.

use std::path::PathBuf;

use super::Error;

/// See the module. The file is read at each check, so that it can change.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
}

impl TokenFile {
    /// Takes the token of a file, which must be there and not empty.
    ///
    /// # Errors
    /// When it is not.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let file = Self { path: path.into() };
        file.token().map(|_| file)
    }

    fn token(&self) -> Result<String, Error> {
        let fault = |reason: &str| Error::Unavailable(format!("{}: {reason}", self.path.display()));
        let text = std::fs::read_to_string(&self.path).map_err(|e| fault(&e.to_string()))?;
        match text.trim() {
            "" => Err(fault("it is empty")),
            token => Ok(token.to_owned()),
        }
    }

    /// Compares hashes, and those in constant time: how long it takes tells nothing of the token.
    pub(super) fn check(&self, token: &str) -> Result<(), Error> {
        let expected = self.token().map_err(|error| {
            tracing::error!(%error, "no caller can be checked");
            Error::Unavailable("the token file cannot be read".into())
        })?;
        // The comparison of blake3's hashes is in constant time.
        if blake3::hash(token.as_bytes()) == blake3::hash(expected.as_bytes()) {
            Ok(())
        } else {
            Err(Error::Invalid("it is not the one in the token file".into()))
        }
    }
}
