//! What arrived: who called, where the request was going, and by which path it came. Takes our own headers and the
//! certificate's header out of the request, so that nothing later can pass them on.
//!
//! Pure. It believes nothing that an application could have written: the caller is what our own sidecar verified, and
//! the other headers are overwritten by the caller's own Envoy.

use std::net::{IpAddr, SocketAddr};

use dependency_graph::fallback::{HEADER_PREFIX, ORIGINAL_DESTINATION, ORIGINAL_URL, POD, TRIES};
use http::{HeaderMap, HeaderName};

use crate::refuse::Refusal;
use crate::xfcc::{SpiffeId, verified_uri};

/// Appended to by each sidecar on the way.
pub const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// A pod's name may be this long; a longer one is no name.
const POD_NAME: usize = 253;

/// What may be believed of the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trust {
    /// Only our own sidecar connects to us: a caller must be verified, and loopback is not the mesh.
    Sidecar,
    /// No sidecar, as in tests and benches on loopback: callers need not be verified, any destination goes.
    NoSidecar,
}

/// Who called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// As verified by our sidecar.
    pub spiffe: SpiffeId,
    /// As the caller's Envoy says: worth as much as its certificate, to be checked against it.
    pub pod: Option<String>,
}

/// How the request came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Path {
    /// By a fallback route that follows a redirect of ours inside the caller's Envoy, and counts them.
    Routed,
    /// By anything else: a redirect would reach the application.
    Direct,
}

/// What arrived.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Incoming {
    /// Who called.
    pub caller: Caller,
    /// Where it was going.
    pub original: SocketAddr,
    /// How often it has been redirected; the most when that cannot be read.
    pub tries: u8,
    /// How it came.
    pub path: Path,
}

/// Reads and takes out what is ours.
///
/// # Errors
/// When there is no verified caller, no destination that traffic may be carried to, or, where a sidecar speaks for what
/// comes, no route that it came by.
pub fn incoming(headers: &mut HeaderMap, trust: Trust) -> Result<Incoming, Refusal> {
    let caller = caller(headers, trust);
    let original = original(headers, trust);
    let (tries, path) = tries(headers);
    strip(headers);
    if tries > 0 {
        // Envoy's, of the redirect that brought the request back.
        headers.remove(ORIGINAL_URL);
    }
    let (caller, original) = (caller?, original?);
    // The fallback route always sets it.
    if trust == Trust::Sidecar && path == Path::Direct {
        return Err(Refusal::NotRouted);
    }
    Ok(Incoming {
        caller,
        original,
        tries,
        path,
    })
}

/// Takes out all headers that are ours or our sidecar's.
pub fn strip(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(HEADER_PREFIX) || **name == XFCC)
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
}

fn caller(headers: &HeaderMap, trust: Trust) -> Result<Caller, Refusal> {
    // Our sidecar appends to the last one, should there be several.
    let spiffe = match headers.get_all(XFCC).iter().next_back() {
        Some(value) => verified_uri(value),
        None if trust == Trust::NoSidecar => nobody(),
        None => None,
    };
    let pod = pod(headers);
    spiffe
        .map(|spiffe| Caller { spiffe, pod })
        .ok_or(Refusal::NoCaller)
}

/// Whom [`Trust::NoSidecar`] takes for the caller where none is named.
pub(crate) fn nobody() -> Option<SpiffeId> {
    SpiffeId::parse("spiffe://none/ns/none/sa/none")
}

/// The caller's pod, as its Envoy says.
pub(crate) fn pod(headers: &HeaderMap) -> Option<String> {
    headers
        .get(POD)
        .and_then(|value| value.to_str().ok())
        .filter(|name| !name.is_empty() && *name != "-" && name.len() <= POD_NAME)
        .map(str::to_owned)
}

fn original(headers: &HeaderMap, trust: Trust) -> Result<SocketAddr, Refusal> {
    let mut values = headers.get_all(ORIGINAL_DESTINATION).iter();
    let value = values.next().ok_or(Refusal::NoDestination)?;
    let text = String::from_utf8_lossy(value.as_bytes());
    if values.next().is_some() {
        return Err(bad_destination(&text));
    }
    destination(&text, trust)
}

fn bad_destination(text: &str) -> Refusal {
    Refusal::BadDestination(text.chars().take(80).collect())
}

/// Reads an original destination.
///
/// # Errors
/// When it is none, or none that traffic may be carried to.
pub(crate) fn destination(text: &str, trust: Trust) -> Result<SocketAddr, Refusal> {
    let address: SocketAddr = text.parse().map_err(|_| bad_destination(text))?;
    // ::ffff:10.0.0.1 is 10.0.0.1, also when it is looked at below.
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    if allowed(address, trust) {
        Ok(address)
    } else {
        Err(Refusal::ForbiddenDestination(address))
    }
}

/// Loopback is our own pod, its sidecar's admin port among it; link-local is the node's, a cloud's metadata server
/// among it. No service of a mesh is there.
fn allowed(address: SocketAddr, trust: Trust) -> bool {
    if address.port() == 0 {
        return false;
    }
    if trust == Trust::NoSidecar {
        return true;
    }
    match address.ip() {
        IpAddr::V4(ip) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast())
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || ip.is_multicast())
        }
    }
}

fn tries(headers: &HeaderMap) -> (u8, Path) {
    let Some(value) = headers.get(TRIES) else {
        return (0, Path::Direct);
    };
    let tries = match value.as_bytes() {
        b"" | b"-" => 0,
        _ => value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(u8::MAX),
    };
    (tries, Path::Routed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const XFCC_OF_CLIENT: &str = "By=spiffe://cluster.local/ns/lazymesh-system/sa/global-proxy;\
                                  URI=spiffe://cluster.local/ns/shop/sa/client";

    const XFCC: &str = "x-forwarded-client-cert";
    const ORIGINAL_DST: &str = ORIGINAL_DESTINATION;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).unwrap())
        });
        pairs.collect()
    }

    fn read(destination: &str, trust: Trust) -> Result<SocketAddr, Refusal> {
        let mut headers = headers(&[
            (XFCC, XFCC_OF_CLIENT),
            (ORIGINAL_DST, destination),
            (TRIES, ""),
        ]);
        incoming(&mut headers, trust).map(|incoming| incoming.original)
    }

    #[test]
    fn reads_and_removes_what_is_ours() {
        let mut headers = headers(&[
            (XFCC, XFCC_OF_CLIENT),
            (ORIGINAL_DST, "10.96.0.7:8080"),
            (POD, "client-7d4b9-x2x"),
            (TRIES, "2"),
            ("x-lazymesh-anything", "1"),
            (ORIGINAL_URL, "http://reviews/"),
            ("x-request-id", "7"),
        ]);
        let incoming = incoming(&mut headers, Trust::Sidecar).unwrap();
        assert_eq!(incoming.caller.spiffe.namespace(), "shop");
        assert_eq!(incoming.caller.pod.as_deref(), Some("client-7d4b9-x2x"));
        assert_eq!(incoming.original, "10.96.0.7:8080".parse().unwrap());
        assert_eq!((incoming.tries, incoming.path), (2, Path::Routed));
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-request-id"]);
    }

    #[test]
    fn a_request_that_was_not_redirected_keeps_its_own_url_header() {
        let sent = [
            (XFCC, XFCC_OF_CLIENT),
            (ORIGINAL_DST, "10.96.0.7:80"),
            (TRIES, ""),
            (ORIGINAL_URL, "http://reviews/"),
        ];
        let mut headers = headers(&sent);
        incoming(&mut headers, Trust::Sidecar).unwrap();
        assert!(headers.contains_key(ORIGINAL_URL));
    }

    #[test]
    fn nobody_is_refused_and_still_stripped() {
        for xfcc in [None, Some("By=a;Hash=b"), Some("URI=spiffe://x")] {
            let mut headers = headers(&[(ORIGINAL_DST, "10.96.0.7:80")]);
            if let Some(xfcc) = xfcc {
                headers.insert(XFCC, HeaderValue::from_static(xfcc));
            }
            assert_eq!(
                incoming(&mut headers, Trust::Sidecar),
                Err(Refusal::NoCaller)
            );
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn of_several_certificates_headers_the_last_counts() {
        let mut headers = headers(&[(ORIGINAL_DST, "10.96.0.7:80"), (TRIES, "")]);
        headers.append(
            XFCC,
            HeaderValue::from_static("URI=spiffe://td/ns/admin/sa/a"),
        );
        headers.append(XFCC, HeaderValue::from_static(XFCC_OF_CLIENT));
        let incoming = incoming(&mut headers, Trust::Sidecar).unwrap();
        assert_eq!(incoming.caller.spiffe.namespace(), "shop");
    }

    #[test]
    fn destinations() {
        for good in ["10.96.0.7:80", "[fd00::1]:443", "240.240.0.1:15010"] {
            assert_eq!(read(good, Trust::Sidecar), Ok(good.parse().unwrap()));
        }
        assert_eq!(
            read("[::ffff:10.0.0.1]:80", Trust::Sidecar),
            Ok("10.0.0.1:80".parse().unwrap())
        );
        for bad in ["", "-", "reviews:80", "10.0.0.1", "10.0.0.1:80,10.0.0.2:80"] {
            assert!(
                matches!(read(bad, Trust::Sidecar), Err(Refusal::BadDestination(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn our_own_pod_and_node_are_no_destinations() {
        for forbidden in [
            "127.0.0.1:15000",
            "127.9.9.9:80",
            "[::1]:15000",
            "[::ffff:127.0.0.1]:15000",
            "0.0.0.0:80",
            "[::]:80",
            "169.254.169.254:80",
            "[fe80::1]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "10.0.0.1:0",
        ] {
            assert!(
                matches!(
                    read(forbidden, Trust::Sidecar),
                    Err(Refusal::ForbiddenDestination(_))
                ),
                "{forbidden}"
            );
        }
        assert!(read("127.0.0.1:15000", Trust::NoSidecar).is_ok());
        assert!(read("127.0.0.1:0", Trust::NoSidecar).is_err());
    }

    #[test]
    fn two_destinations_are_none() {
        let mut headers = headers(&[(XFCC, XFCC_OF_CLIENT), (ORIGINAL_DST, "10.0.0.1:80")]);
        headers.append(ORIGINAL_DST, HeaderValue::from_static("10.0.0.2:80"));
        assert!(matches!(
            incoming(&mut headers, Trust::Sidecar),
            Err(Refusal::BadDestination(_))
        ));
    }

    #[test]
    fn a_route_that_does_not_count_is_not_redirected() {
        let tries_of = |value: Option<&str>| {
            let mut map = HeaderMap::new();
            if let Some(value) = value {
                map.insert(TRIES, HeaderValue::from_str(value).unwrap());
            }
            tries(&map)
        };
        assert_eq!(tries_of(None), (0, Path::Direct));
        assert_eq!(tries_of(Some("")), (0, Path::Routed));
        assert_eq!(tries_of(Some("-")), (0, Path::Routed));
        assert_eq!(tries_of(Some("3")), (3, Path::Routed));
        assert_eq!(tries_of(Some("many")), (u8::MAX, Path::Routed));
        assert_eq!(tries_of(Some("256")), (u8::MAX, Path::Routed));
    }

    #[test]
    fn what_comes_past_the_fallback_route_is_refused() {
        let sent = [(XFCC, XFCC_OF_CLIENT), (ORIGINAL_DST, "10.96.0.7:80")];
        let of = |trust| incoming(&mut headers(&sent), trust).map(|incoming| incoming.path);
        assert_eq!(of(Trust::Sidecar), Err(Refusal::NotRouted));
        assert_eq!(of(Trust::NoSidecar), Ok(Path::Direct));
    }

    #[test]
    fn without_a_sidecar_nobody_is_a_caller_too() {
        let mut map = headers(&[(ORIGINAL_DST, "127.0.0.1:80")]);
        let incoming = incoming(&mut map, Trust::NoSidecar).unwrap();
        assert_eq!(incoming.caller.spiffe.namespace(), "none");
    }
}
