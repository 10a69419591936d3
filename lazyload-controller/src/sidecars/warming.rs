//! Which namespaces wait for their past to be learned before anything of them is written.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use crate::history::WarmStart;

/// See the module. As large as there are namespaces in the mode.
#[derive(Debug, Default)]
pub(super) struct Warming {
    /// Whether each is warm by now, or cannot be.
    namespaces: BTreeMap<String, bool>,
    waiting: JoinSet<String>,
}

impl Warming {
    /// Whether a namespace may be begun. The first question begins the waiting; [`Warming::next`] tells when it is over.
    pub(super) fn is_warm(&mut self, namespace: &str, warm: &WarmStart) -> bool {
        if let Some(is_warm) = self.namespaces.get(namespace) {
            return *is_warm;
        }
        self.namespaces.insert(namespace.to_owned(), false);
        let (namespace, warm) = (namespace.to_owned(), warm.clone());
        self.waiting.spawn(async move {
            // Learned or not: it never waits for ever.
            warm.warmed(&namespace).await;
            namespace
        });
        false
    }

    /// It is not in the mode any more: if it comes back, it is asked for anew.
    pub(super) fn forget(&mut self, namespace: &str) {
        if self.namespaces.get(namespace) == Some(&true) {
            self.namespaces.remove(namespace);
        }
    }

    /// The next namespace that need not wait any longer; none comes where none waits.
    pub(super) async fn next(&mut self) -> String {
        loop {
            match self.waiting.join_next().await {
                Some(Ok(namespace)) => {
                    self.namespaces.insert(namespace.clone(), true);
                    return namespace;
                }
                // Only a panic or the end of the process ends one badly.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}
