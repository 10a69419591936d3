//! Says in records that are to settle that this controller cannot let them: where it writes no Sidecars.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dependency_graph::{Change, Workload};
use mesh_runtime::drain::Drain;
use tracing::warn;

use super::{CONDITION, Lack, Wish};
use crate::resource::Said;
use crate::state::State;
use crate::store::{Error, Store};

/// Changes taken in at once.
const CHANGES: usize = 64;
/// How long after a write that failed it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Says so until the drain starts. Any replica may: what a record says already is not written again.
///
/// # Errors
/// Never: what fails is tried again.
pub async fn run(state: State, store: Arc<dyn Store>, drain: Drain) -> Result<(), Infallible> {
    tokio::select! {
        () = state.synced() => {}
        () = drain.started() => return Ok(()),
    }
    let mut watcher = state.watch_within();
    let snapshot = std::mem::take(&mut watcher.snapshot);
    watcher.told().put_back(snapshot);
    while !drain.is_draining() {
        for change in watcher.told().take(CHANGES) {
            let Change::Workload(workload) = change else {
                continue;
            };
            if let Err(error) = say(&state, &*store, &workload).await {
                warn!(%workload, %error, "its record does not say that it never settles; trying again");
                watcher.told().put_back([Change::Workload(workload)]);
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    () = drain.started() => return Ok(()),
                }
            }
        }
        tokio::select! {
            () = watcher.told().changed() => {}
            () = drain.started() => {}
        }
    }
    Ok(())
}

async fn say(state: &State, store: &dyn Store, workload: &Workload) -> Result<(), Error> {
    let Some(said) = state.said(workload) else {
        return Ok(());
    };
    let wanted = wanted(&state.wish(workload), &said);
    if wanted == said {
        return Ok(());
    }
    match store.say(workload, &wanted, false).await {
        // It will never work: its namespace is going, say.
        Err(Error::Unwritable(_)) => Ok(()),
        other => other,
    }
}

/// What a record should say. What an earlier controller said of its Sidecar stays: so does that.
fn wanted(wish: &Wish, said: &BTreeSet<Said>) -> BTreeSet<Said> {
    let others = said.iter().filter(|one| one.kind != CONDITION).cloned();
    let asked = matches!(&wish.after, Some(Ok(after)) if !after.is_zero());
    others
        .chain(asked.then(|| Lack::SidecarsOff.said()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_is_told_and_nothing_else_is_taken_back() {
        let other = Said::new("SidecarWritten", true, "Written", "there");
        let settled = Said::new(CONDITION, true, "Quiet", "long ago");
        let said = BTreeSet::from([other.clone(), settled]);
        let asks = |after: Result<u64, &str>| Wish {
            after: Some(after.map(Duration::from_secs).map_err(str::to_owned)),
            begun: true,
        };
        let told = wanted(&asks(Ok(9)), &said);
        assert_eq!(
            told,
            BTreeSet::from([other.clone(), Lack::SidecarsOff.said()])
        );
        assert_eq!(wanted(&asks(Ok(9)), &told), told);
        for quiet in [asks(Ok(0)), asks(Err("soon")), Wish::default()] {
            assert_eq!(wanted(&quiet, &told), BTreeSet::from([other.clone()]));
        }
    }
}
