//! What is claimed, and whether what was found bears it.

pub(crate) mod scale;
mod ways;

use crate::found::Found;

/// Whether a claim holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Holds,
    Fails,
    /// Nothing that it could be judged by, or not all of it.
    NotMeasured,
}

impl Verdict {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "**fails**",
            Self::NotMeasured => crate::show::NOT_MEASURED,
        }
    }

    fn of(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Fails }
    }

    /// Of all of these together: one that fails is enough, and so is one that is missing.
    fn of_all(all: impl IntoIterator<Item = Self>) -> Self {
        let all: Vec<_> = all.into_iter().collect();
        if all.contains(&Self::Fails) {
            Self::Fails
        } else if all.is_empty() || all.contains(&Self::NotMeasured) {
            Self::NotMeasured
        } else {
            Self::Holds
        }
    }
}

/// One of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Claim {
    pub(crate) text: String,
    /// What was found.
    pub(crate) shown: String,
    pub(crate) verdict: Verdict,
}

/// All claims, in order.
pub(crate) fn all(found: &Found) -> Vec<Claim> {
    let mut claims = ways::all(found);
    claims.extend(scale::all(found.scale.as_ref()));
    claims
}

#[cfg(test)]
mod tests {
    use super::Verdict::{self, *};

    #[test]
    fn a_verdict_of_many_is_the_worst() {
        assert_eq!(Verdict::of_all([Holds, NotMeasured, Fails]), Fails);
        assert_eq!(Verdict::of_all([Holds, NotMeasured]), NotMeasured);
        assert_eq!(Verdict::of_all([Holds, Holds]), Holds);
        assert_eq!(Verdict::of_all([]), NotMeasured);
    }
}
