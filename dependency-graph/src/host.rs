//! The full name of a service, as istiod uses it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::name::{MAX_NAME, name_fault};

/// A full lower-case DNS name such as `reviews.shop.svc.cluster.local`; it may begin with `*.`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Host(Arc<str>);

/// A text that is no host.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("host {host:?}: {reason}")]
pub struct Error {
    /// What was given, cut short if long.
    pub host: String,
    /// Why it is none.
    pub reason: &'static str,
}

impl Host {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it begins with `*.`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(host: &str) -> Result<Self, Error> {
        let fault = if host.len() > MAX_NAME {
            Some("it is longer than 253 characters")
        } else if host.ends_with('.') {
            Some("it ends with a dot")
        } else {
            name_fault(host.strip_prefix("*.").unwrap_or(host))
        };
        match fault {
            None => Ok(Self(host.into())),
            Some(reason) => Err(Error {
                host: host.chars().take(MAX_NAME).collect(),
                reason,
            }),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_full_names() {
        let label = "a".repeat(63);
        let longest = [label.as_str(), &label, &label, &label[..61]].join(".");
        assert_eq!(longest.len(), 253);
        for good in [
            "reviews.shop.svc.cluster.local",
            "*.example.com",
            "db",
            "1.2.3.4",
            "a-b.c0",
            &longest,
        ] {
            assert_eq!(good.parse::<Host>().unwrap().as_str(), good);
        }
        assert!("*.example.com".parse::<Host>().unwrap().is_wildcard());
        assert!(!"example.com".parse::<Host>().unwrap().is_wildcard());
    }

    #[test]
    fn refuses_the_rest() {
        let long = format!("{}.com", "a.".repeat(130));
        for bad in [
            "",
            ".",
            "*",
            "*.",
            "*a.com",
            "a.*.com",
            "*.*.com",
            "a..com",
            ".com",
            "a.com.",
            "A.com",
            "-a.com",
            "a-.com",
            "a_b.com",
            "a b",
            "a/b",
            "a|b",
            "ä.com",
            "a\0",
            &"a".repeat(64),
            &long,
        ] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_does_not_carry_a_huge_name() {
        let error = "x".repeat(1 << 20).parse::<Host>().unwrap_err();
        assert!(error.host.len() <= 253);
    }
}
