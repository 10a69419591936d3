//! What keeps a request from being redirected.

/// Why a request is relayed, or refused, and not redirected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// Its namespace is `relay-only`.
    RelayOnly,
    /// A redirect would reach the application.
    Direct,
    /// It turns into another protocol.
    Upgrade,
    /// Its body waits for `100 Continue`.
    Expects,
    /// No `Location` can say where it goes.
    Unsayable,
    /// Its body is longer than may be kept.
    TooLarge,
    /// Trailers follow its body.
    Trailers,
    /// Its body was not there in time.
    SlowBody,
    /// It has had all its redirects.
    UsedUp,
    /// The Sidecar was not written in time.
    NotWritten,
    /// There is no controller to ask.
    ControllerAway,
    /// The Sidecar will not have the service.
    Refused,
    /// The controller does not know who called.
    UnknownCaller,
}

impl Why {
    /// Every reason, in order.
    pub const ALL: [Self; 13] = [
        Self::RelayOnly,
        Self::Direct,
        Self::Upgrade,
        Self::Expects,
        Self::Unsayable,
        Self::TooLarge,
        Self::Trailers,
        Self::SlowBody,
        Self::UsedUp,
        Self::NotWritten,
        Self::ControllerAway,
        Self::Refused,
        Self::UnknownCaller,
    ];

    /// A short name, for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RelayOnly => "relay_only",
            Self::Direct => "direct",
            Self::Upgrade => "upgrade",
            Self::Expects => "expects_continue",
            Self::Unsayable => "unsayable",
            Self::TooLarge => "body_too_large",
            Self::Trailers => "trailers",
            Self::SlowBody => "body_slow",
            Self::UsedUp => "redirects_used_up",
            Self::NotWritten => "not_written",
            Self::ControllerAway => "controller_away",
            Self::Refused => "refused",
            Self::UnknownCaller => "unknown_caller",
        }
    }

    /// For a person.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::RelayOnly => "its namespace is relay-only",
            Self::Direct => "it did not come by a route that redirects",
            Self::Upgrade => "it turns into another protocol",
            Self::Expects => "it expects 100-continue",
            Self::Unsayable => "its URL cannot be said in a Location",
            Self::TooLarge => "its body is too large",
            Self::Trailers => "its body has trailers",
            Self::SlowBody => "its body did not come in time",
            Self::UsedUp => "its redirects are used up",
            Self::NotWritten => "its Sidecar was not written in time",
            Self::ControllerAway => "the lazyload controller is away",
            Self::Refused => "its Sidecar will not have the service",
            Self::UnknownCaller => "the lazyload controller does not know its pod",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn reasons_are_in_order_and_differ() {
        for (number, why) in Why::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, number);
        }
        let names: BTreeSet<_> = Why::ALL.into_iter().map(Why::as_str).collect();
        let texts: BTreeSet<_> = Why::ALL.into_iter().map(Why::text).collect();
        assert_eq!((names.len(), texts.len()), (Why::ALL.len(), Why::ALL.len()));
    }
}
