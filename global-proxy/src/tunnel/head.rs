//! The heads of tunnels: a CONNECT over HTTP/1.1, and what is believed of the headers.
//!
//! Pure. The outer tunnel comes from our own sidecar and says who the caller is, as verified by it. The inner ones come
//! from the caller's Envoy and say where the application was going, and from which pod.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::incoming::{Caller, Incoming, Path, Trust, destination, nobody, pod};
use crate::refuse::Refusal;
use crate::xfcc::SpiffeId;

/// Who opened the connection, as our own sidecar verified: set by it, on outer tunnels only.
pub(super) const CALLER: HeaderName = HeaderName::from_static("x-lazymesh-caller");
/// The longest head of a tunnel, in bytes. Envoy writes some hundred.
pub(super) const MOST: usize = 8 << 10;
/// The most headers of one.
const HEADERS: usize = 32;

/// A CONNECT.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Connect {
    pub(crate) authority: String,
    pub(crate) headers: HeaderMap,
}

/// Reads the head of a CONNECT, and its length; `None` when more has to come.
///
/// # Errors
/// When it is something else, or too long.
pub(crate) fn connect(read: &[u8]) -> Result<Option<(Connect, usize)>, Refusal> {
    let looked_at = &read[..read.len().min(MOST)];
    let Some(end) = looked_at.windows(4).position(|end| end == b"\r\n\r\n") else {
        return if read.len() < MOST {
            Ok(None)
        } else {
            Err(Refusal::Malformed("the head of a tunnel is too long"))
        };
    };
    let length = end + 4;
    let mut lines = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut lines);
    let whole = parsed.parse(&read[..length]);
    if whole != Ok(httparse::Status::Complete(length)) {
        return Err(Refusal::Malformed("the head of a tunnel cannot be read"));
    }
    let headers = headers(parsed.headers)?;
    match (parsed.method, parsed.path, parsed.version) {
        (Some("CONNECT"), Some(authority), Some(1)) => {
            let authority = authority.to_owned();
            let connect = Connect { authority, headers };
            only_connect(&connect)?;
            Ok(Some((connect, length)))
        }
        _ => Err(Refusal::Malformed("a tunnel begins with CONNECT")),
    }
}

fn headers(lines: &[httparse::Header<'_>]) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let value = HeaderValue::from_bytes(line.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Refusal::Malformed("a header of a tunnel cannot be read"));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

/// What follows the head is the tunnel, and one thing says where it leads.
fn only_connect(connect: &Connect) -> Result<(), Refusal> {
    let headers = &connect.headers;
    if headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::Malformed("CONNECT has no body"));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let first = hosts.next();
    let differs = first.is_some_and(|host| host.as_bytes() != connect.authority.as_bytes());
    if differs || hosts.next().is_some() {
        return Err(Refusal::Malformed("Host differs from the tunnel's target"));
    }
    Ok(())
}

/// Who opened the connection.
///
/// # Errors
/// When our sidecar has verified nobody, or more than one.
pub(crate) fn caller(headers: &HeaderMap, trust: Trust) -> Result<SpiffeId, Refusal> {
    let mut values = headers.get_all(CALLER).iter();
    let spiffe = match (values.next(), values.next()) {
        (Some(value), None) => value
            .to_str()
            .ok()
            // Several names in a certificate are joined by commas.
            .filter(|uri| !uri.contains(','))
            .and_then(SpiffeId::parse),
        (None, _) if trust == Trust::NoSidecar => nobody(),
        _ => None,
    };
    spiffe.ok_or(Refusal::NoCaller)
}

/// What a tunnel of `spiffe` to `authority` is.
///
/// # Errors
/// When it leads to where nothing is carried to.
pub(crate) fn opened(
    authority: &str,
    headers: &HeaderMap,
    spiffe: &SpiffeId,
    trust: Trust,
) -> Result<Incoming, Refusal> {
    Ok(Incoming {
        caller: Caller {
            spiffe: spiffe.clone(),
            pod: pod(headers),
        },
        original: destination(authority, trust)?,
        tries: 0,
        // No route of HTTP is on the way that could follow a redirect.
        path: Path::Direct,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTER: &str = "CONNECT lazymesh.tunnel:1 HTTP/1.1\r\nhost: lazymesh.tunnel:1\r\n\
                         x-lazymesh-caller: spiffe://cluster.local/ns/shop/sa/client\r\n\r\n";

    #[test]
    fn every_beginning_of_a_head_needs_more() {
        for length in 0..OUTER.len() {
            assert_eq!(connect(&OUTER.as_bytes()[..length]), Ok(None), "{length}");
        }
        let early = [OUTER.as_bytes(), b"PRI * HTTP"].concat();
        let (head, length) = connect(&early).unwrap().unwrap();
        assert_eq!(length, OUTER.len());
        assert_eq!(head.authority, "lazymesh.tunnel:1");
        let caller = caller(&head.headers, Trust::Sidecar).unwrap();
        assert_eq!(caller.as_str(), "spiffe://cluster.local/ns/shop/sa/client");
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "CONNECT a:1 HTTP/1.0\r\n\r\n",
            "CONNECT a:1 HTTP/2.0\r\n\r\n",
            "connect a:1 HTTP/1.1\r\n\r\n",
            "CONNECT HTTP/1.1\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nhost: b:1\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\nhost: a:1\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
            "CONNECT a:1 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nno colon\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nx: a\r\n b\r\n\r\n",
            "\x16\x03\x01\r\n\r\n",
            "\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            assert!(
                matches!(connect(bad.as_bytes()), Err(Refusal::Malformed(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn heads_are_bounded() {
        let mut long = b"CONNECT a:1 HTTP/1.1\r\nx: ".to_vec();
        long.resize(MOST - 1, b'a');
        assert_eq!(connect(&long), Ok(None));
        long.push(b'a');
        assert!(connect(&long).is_err());
        long.extend(b"\r\n\r\n");
        assert!(connect(&long).is_err(), "an end beyond the limit is none");
        let many = format!("CONNECT a:1 HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(33));
        assert!(connect(many.as_bytes()).is_err());
    }

    fn named(values: &[&str], trust: Trust) -> Result<String, Refusal> {
        let values = values
            .iter()
            .map(|value| (CALLER, HeaderValue::from_str(value).unwrap()));
        caller(&values.collect(), trust).map(|caller| caller.to_string())
    }

    #[test]
    fn the_caller_is_one_and_verified() {
        let (a, b) = ("spiffe://td/ns/a/sa/a", "spiffe://td/ns/b/sa/b");
        assert_eq!(named(&[a], Trust::Sidecar).as_deref(), Ok(a));
        for bad in [
            &[][..],
            &["-"],
            &[""],
            &[a, b],
            &[a, a],
            &["spiffe://td/ns/a/sa/a,urn:x"],
            &["spiffe://td/ns/a/sa/a,spiffe://td/ns/b/sa/b"],
            &["https://a"],
        ] {
            assert_eq!(
                named(bad, Trust::Sidecar),
                Err(Refusal::NoCaller),
                "{bad:?}"
            );
        }
        assert!(named(&[], Trust::NoSidecar).is_ok());
        assert!(named(&["-"], Trust::NoSidecar).is_err());
    }

    #[test]
    fn where_a_tunnel_leads() {
        let spiffe = SpiffeId::parse("spiffe://td/ns/a/sa/a").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-lazymesh-pod", HeaderValue::from_static("client-1"));
        let to = |authority: &str| opened(authority, &headers, &spiffe, Trust::Sidecar);
        let incoming = to("10.96.0.7:9000").unwrap();
        assert_eq!(incoming.original, "10.96.0.7:9000".parse().unwrap());
        assert_eq!(incoming.caller.pod.as_deref(), Some("client-1"));
        assert_eq!((incoming.tries, incoming.path), (0, Path::Direct));
        for bad in ["", "-", "db.shop:5432", "10.96.0.7"] {
            assert!(matches!(to(bad), Err(Refusal::BadDestination(_))), "{bad}");
        }
        for forbidden in ["127.0.0.1:15000", "169.254.169.254:80", "10.0.0.1:0"] {
            assert!(
                matches!(to(forbidden), Err(Refusal::ForbiddenDestination(_))),
                "{forbidden}"
            );
        }
    }
}
