//! What a bench claims of what it found.

use serde::Serialize;

/// A claim, and whether it holds.
#[derive(Debug, Serialize)]
pub struct Claim {
    /// What is claimed.
    pub claim: String,
    /// Whether it holds.
    pub holds: bool,
    /// What was found.
    pub shown: String,
}

/// The claims, one a line.
#[must_use]
pub fn list(claims: &[Claim]) -> String {
    let line = |claim: &Claim| {
        let word = if claim.holds { "holds" } else { "FAILS" };
        format!("{word}  {} ({})\n", claim.claim, claim.shown)
    };
    claims.iter().map(line).collect()
}
