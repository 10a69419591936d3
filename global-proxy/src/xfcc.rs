//! The grammar of `x-forwarded-client-cert`, as Envoy writes it.
//!
//! Elements are separated by commas, each is `key=value` pairs separated by semicolons; a value that has one of
//! `,;="` in it is quoted, with `\"` for a quote. Each proxy on the way appends its element. An application may send
//! elements of its own, so only the last one, which our own sidecar appended after verifying the peer, says who called.

use std::fmt;

use http::HeaderValue;
use memchr::memchr2;

/// A verified SPIFFE id as Istio makes them: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SpiffeId {
    uri: String,
    namespace: (usize, usize),
}

impl SpiffeId {
    /// Reads one; `None` when it is not of Istio's form.
    #[must_use]
    pub fn parse(uri: &str) -> Option<Self> {
        let rest = uri.strip_prefix("spiffe://")?;
        let mut parts = rest.split('/');
        let domain = parts.next().filter(|part| !part.is_empty())?;
        (parts.next() == Some("ns")).then_some(())?;
        let namespace = parts.next().filter(|part| !part.is_empty())?;
        (parts.next() == Some("sa")).then_some(())?;
        parts.next().filter(|part| !part.is_empty())?;
        if parts.next().is_some() || !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let start = "spiffe://".len() + domain.len() + "/ns/".len();
        Some(Self {
            uri: uri.to_owned(),
            namespace: (start, start + namespace.len()),
        })
    }

    /// The namespace of the workload.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.uri[self.namespace.0..self.namespace.1]
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// The `URI` of the last element. `None` when there is none, when there are several that differ, when it is not of
/// Istio's form, or when the value does not follow the grammar.
#[must_use]
pub fn verified_uri(xfcc: &HeaderValue) -> Option<SpiffeId> {
    let text = xfcc.to_str().ok()?;
    let mut found: Option<String> = None;
    for pair in split(split(text, b',')?.pop()?, b';')? {
        let (key, value) = pair.split_once('=')?;
        if !key.trim().eq_ignore_ascii_case("uri") {
            continue;
        }
        let value = unquoted(value.trim())?;
        if found.as_ref().is_some_and(|earlier| *earlier != value) {
            return None;
        }
        found = Some(value);
    }
    SpiffeId::parse(&found?)
}

/// Splits at `separator` outside of quotes. `None` when a quote is not closed.
fn split(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (bytes, mut parts) = (text.as_bytes(), Vec::new());
    let (mut start, mut at) = (0, 0);
    while let Some(found) = memchr2(separator, b'"', &bytes[at..]) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            at += quoted_length(&bytes[at..])?;
        } else {
            parts.push(&text[start..at - 1]);
            start = at;
        }
    }
    parts.push(&text[start..]);
    Some(parts)
}

/// The length of what is inside quotes, the closing one included. `None` when they are not closed.
fn quoted_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let found = at + memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[found] == b'"' {
            return Some(found + 1);
        }
        // A backslash, and what it escapes.
        at = found + 2;
    }
}

fn unquoted(value: &str) -> Option<String> {
    let Some(inner) = value.strip_prefix('"') else {
        return (!value.contains('"')).then(|| value.to_owned());
    };
    let inner = inner.strip_suffix('"')?;
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => out.push(chars.next()?),
            '"' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<String> {
        verified_uri(&HeaderValue::from_str(text).unwrap()).map(|id| id.to_string())
    }

    const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

    #[test]
    fn envoys_own_form() {
        let value = format!(
            "By=spiffe://cluster.local/ns/lazymesh-system/sa/global-proxy;Hash=ab12;\
             Subject=\"CN=x,OU=\\\"a;b\\\"\";URI={CLIENT}"
        );
        assert_eq!(read(&value).as_deref(), Some(CLIENT));
        let id = verified_uri(&HeaderValue::from_str(&value).unwrap()).unwrap();
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.as_str(), CLIENT);
    }

    #[test]
    fn only_the_last_element_counts() {
        let forged = "URI=spiffe://cluster.local/ns/admin/sa/root";
        assert_eq!(
            read(&format!("{forged},By=a;URI={CLIENT}")).as_deref(),
            Some(CLIENT)
        );
        assert_eq!(read(&format!("{forged},By=a;Hash=b;Subject=\"\"")), None);
        assert_eq!(read(&format!("{forged},")), None);
        // A comma inside quotes opens no element.
        assert_eq!(
            read(&format!("URI={CLIENT};Subject=\"a,{forged}\"")).as_deref(),
            Some(CLIENT)
        );
    }

    #[test]
    fn what_cannot_be_told_is_nobody() {
        for bad in [
            "",
            "URI=",
            "URI",
            "URI=http://x/ns/a/sa/b",
            "URI=spiffe://td/ns/a",
            "URI=spiffe://td/ns//sa/b",
            "URI=spiffe:///ns/a/sa/b",
            "URI=spiffe://td/ns/a/sa/b/c",
            "URI=\"spiffe://td/ns/a/sa/b",
            "URI=spiffe://td/ns/a/sa/b;URI=spiffe://td/ns/c/sa/d",
            "URI=spiffe://td/ns/a/sa/b\"",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert!(read("URI=\"spiffe://td/ns/a/sa/b\"").is_some());
        assert!(read("uri=spiffe://td/ns/a/sa/b").is_some());
    }

    /// The grammar, letter by letter.
    fn split_slowly(text: &str, separator: u8) -> Option<Vec<&str>> {
        let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                other if other == separator && !quoted => {
                    parts.push(&text[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(&text[start..]);
        (!quoted).then_some(parts)
    }

    proptest! {
        #[test]
        fn splits_as_the_grammar_says(text in r#"[ab,;="\\]{0,24}"#) {
            prop_assert_eq!(split(&text, b','), split_slowly(&text, b','));
            prop_assert_eq!(split(&text, b';'), split_slowly(&text, b';'));
        }

        /// Whatever an application writes before, our sidecar's element decides.
        #[test]
        fn whatever_is_forged_the_appended_element_decides(forged in "[ -~]{0,60}") {
            let value = format!("{forged},By=x;URI={CLIENT}");
            let read = read(&value);
            prop_assert!(read.is_none() || read.as_deref() == Some(CLIENT), "{value}: {read:?}");
        }
    }
}
