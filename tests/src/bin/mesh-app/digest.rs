//! Counts and hashes bytes as they come.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// A running count and SHA-256.
#[derive(Default)]
pub(crate) struct Digest {
    bytes: u64,
    sha256: Sha256,
}

impl Digest {
    /// The digest of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> (u64, String) {
        let mut digest = Self::default();
        digest.add(bytes);
        digest.finish()
    }

    /// More bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.sha256.update(bytes);
    }

    /// How many, and their hash in hex.
    pub(crate) fn finish(self) -> (u64, String) {
        let mut hex = String::with_capacity(64);
        for byte in self.sha256.finalize() {
            let _ = write!(hex, "{byte:02x}");
        }
        (self.bytes, hex)
    }
}
