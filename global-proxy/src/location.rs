//! The `Location` of a redirect of ours: the URL the request came with, if it survives being one.
//!
//! Pure. Envoy takes a `Location` apart with its own URL parser and makes the request anew of the parts, so a target
//! that might not come out as it went in is not said.

use http::HeaderValue;

use crate::validate::Target;

/// The URL, or `None` when the target is not safely said as one.
#[must_use]
pub fn location(target: &Target) -> Option<HeaderValue> {
    let authority = target.authority.to_str().ok()?;
    let path = target.path.as_ref()?.as_str();
    (sayable_authority(authority) && sayable_path(path)).then_some(())?;
    HeaderValue::from_str(&format!("{}://{authority}{path}", target.scheme)).ok()
}

/// Names and addresses with an optional port. No user information, and no underscore: URL parsers differ about it.
fn sayable_authority(authority: &str) -> bool {
    !authority.is_empty()
        && authority
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
}

/// Origin form without a fragment and without what URL parsers change or refuse.
fn sayable_path(path: &str) -> bool {
    path.starts_with('/')
        && path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"#\\\"<>^`{|}".contains(&byte))
        && !path
            .split(['/', '?'])
            .any(|segment| segment == "." || segment == "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::uri::{PathAndQuery, Scheme};
    use proptest::prelude::*;

    fn said(authority: &str, path: &str) -> Option<String> {
        let target = Target {
            authority: HeaderValue::from_str(authority).unwrap(),
            scheme: Scheme::HTTP,
            path: path.parse::<PathAndQuery>().ok(),
        };
        location(&target).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn ordinary_targets_are_said() {
        assert_eq!(
            said("reviews.shop:9080", "/a/b?c=d&e=%20*").as_deref(),
            Some("http://reviews.shop:9080/a/b?c=d&e=%20*")
        );
        assert_eq!(
            said("[fd00::1]:80", "/").as_deref(),
            Some("http://[fd00::1]:80/")
        );
    }

    #[test]
    fn odd_ones_are_not() {
        for (authority, path) in [
            ("my_service", "/"),
            ("user@a", "/"),
            ("a", "*"),
            ("a", "/a/../b"),
            ("a", "/./b"),
            ("a", "/{x}"),
            ("a", "/a|b"),
            ("a", "/\u{e9}"),
        ] {
            assert_eq!(said(authority, path), None, "{authority}{path}");
        }
        let connect = Target {
            authority: HeaderValue::from_static("a:443"),
            scheme: Scheme::HTTP,
            path: None,
        };
        assert_eq!(location(&connect), None);
    }

    proptest! {
        /// What is said comes out as it went in. (A fragment is gone when a target has been read: none may be there.)
        #[test]
        fn round_trip(authority in "[a-zA-Z0-9.-]{1,20}(:[0-9]{1,4})?", path in "/[!\"$-~]{0,30}") {
            if let Some(said) = said(&authority, &path) {
                let rest = said.strip_prefix("http://").unwrap();
                let (host, tail) = rest.split_at(rest.find('/').unwrap());
                prop_assert_eq!(host, authority);
                prop_assert_eq!(tail, path);
            }
        }
    }
}
