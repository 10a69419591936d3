//! Whether a workload of mode `on-demand` has settled: nothing new was learned of it for so long that it gets a Sidecar as
//! well, so that istiod stops generating the rest (docs/adr/0008-a-settled-workload-is-planned-like-mode-sidecar.md).
//!
//! What counts is when something was first seen, which the record says: a restart neither loses nor resets it. A port
//! more of a known host is nothing new: a Sidecar is about hosts. Once settled a workload stays so while it grows, and
//! its condition in the record is what remembers that.

pub mod off;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dependency_graph::{Record, Timestamp, Workload};

use crate::resource::{Phase, Said};

/// The type of the condition.
pub const CONDITION: &str = "Settled";
/// Its reason while it holds.
const QUIET: &str = "Quiet";
/// Its reason until the first Sidecar is there.
pub const STARTING: &str = "Starting";

/// What a record says of settling.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Wish {
    /// `spec.settleAfter`: absent if it is not said, else the duration, or the text if it is none.
    pub after: Option<Result<Duration, String>>,
    /// Whether it was found to have settled before, as its condition says.
    pub begun: bool,
}

/// Why a workload that is to settle never does, as it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Lack {
    /// Nothing was learned of it: nothing tells it from one whose proxies are not behind a shim.
    NothingLearned,
    /// What its record says is no duration.
    InvalidSettleAfter,
    /// This controller writes no Sidecars.
    SidecarsOff,
}

impl Lack {
    /// Every reason.
    pub const ALL: [Self; 3] = [
        Self::NothingLearned,
        Self::InvalidSettleAfter,
        Self::SidecarsOff,
    ];

    /// As the condition says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NothingLearned => "NothingLearned",
            Self::InvalidSettleAfter => "InvalidSettleAfter",
            Self::SidecarsOff => "SidecarsOff",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::NothingLearned => {
                "Nothing was learned of it, and nothing tells that from proxies that are not behind a shim: it keeps all \
                 that istiod sends. See that its pods are at the shim (/debug/streams); one that calls nothing at all can \
                 be given spec.mode: sidecar."
            }
            Self::InvalidSettleAfter => {
                "It never settles: spec.settleAfter is no duration. Write one such as 24h, or 0s for never."
            }
            Self::SidecarsOff => {
                "It never settles: this controller writes no Sidecars. Run it without --sidecars off and install the global \
                 proxy, or take spec.settleAfter away."
            }
        }
    }

    /// The condition that says it.
    #[must_use]
    pub fn said(self) -> Said {
        Said::new(CONDITION, false, self.as_str(), self.hint())
    }
}

/// Whether a workload has settled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is not to settle.
    NotAsked,
    /// It is to settle and never does, as it is.
    Lacks(Lack),
    /// It settles then, if nothing new is learned before.
    Waits(Timestamp),
    /// It has.
    Settled,
}

/// Judges a workload that is in mode `on-demand`. `default`: the time for records that say none; no time is never.
#[must_use]
pub fn judge(
    record: Option<&Record>,
    wish: &Wish,
    default: Option<Duration>,
    now: Timestamp,
) -> Verdict {
    let after = match wish.after {
        Some(Err(_)) => return Verdict::Lacks(Lack::InvalidSettleAfter),
        Some(Ok(after)) => Some(after),
        None => default,
    };
    let Some(after) = after.filter(|after| !after.is_zero()) else {
        return Verdict::NotAsked;
    };
    if wish.begun {
        return Verdict::Settled;
    }
    match record.and_then(|record| record.learned.last_learned()) {
        None => Verdict::Lacks(Lack::NothingLearned),
        Some(last) => {
            let due = quiet_at(last, after);
            if now < due {
                Verdict::Waits(due)
            } else {
                Verdict::Settled
            }
        }
    }
}

/// Records have whole seconds: a part of one counts as one.
fn quiet_at(last: Timestamp, after: Duration) -> Timestamp {
    let part = u64::from(after.subsec_nanos() > 0);
    let seconds = after.as_secs().saturating_add(part);
    Timestamp::from_seconds(last.seconds().saturating_add(seconds))
}

/// What records say of settling, and the moment they are judged at.
#[derive(Clone, Debug, Default)]
pub struct Settling {
    /// What they say, of those that say anything.
    pub wishes: BTreeMap<Workload, Wish>,
    /// The moment.
    pub now: Timestamp,
}

impl Settling {
    /// As [`judge`].
    #[must_use]
    pub fn of(
        &self,
        workload: &Workload,
        record: Option<&Record>,
        default: Option<Duration>,
    ) -> Verdict {
        let none = Wish::default();
        let wish = self.wishes.get(workload).unwrap_or(&none);
        judge(record, wish, default, self.now)
    }
}

/// The condition of a workload that has settled. `gives`: the Sidecar that is there; or why there is none.
#[must_use]
pub fn said(gives: Result<&str, &str>) -> Said {
    match gives {
        Ok(sidecar) => {
            let message = format!(
                "Nothing new was learned for long: by Sidecar {sidecar} istiod generates what it is known to use, and a first \
                 call to anything else falls back."
            );
            Said::new(CONDITION, true, QUIET, &message)
        }
        Err(STARTING) => {
            let message =
                "Nothing new was learned for long: its fallback is being set up, then its Sidecar.";
            Said::new(CONDITION, false, STARTING, message)
        }
        Err(why) => {
            let message = format!("It would have settled; {why} says why it has not");
            Said::new(CONDITION, false, why, &message)
        }
    }
}

/// Where a workload is in its life, by what is said of it.
#[must_use]
pub fn phase(said: &BTreeSet<Said>) -> Phase {
    match said.iter().find(|said| said.kind == CONDITION) {
        Some(said) if said.holds => Phase::Settled,
        Some(said) if Lack::ALL.iter().all(|lack| lack.as_str() != said.reason) => Phase::Settling,
        _ => Phase::Learning,
    }
}

/// Whether a workload was found to have settled, by what is said of it.
#[must_use]
pub fn begun(said: &BTreeSet<Said>) -> bool {
    phase(said) != Phase::Learning
}
