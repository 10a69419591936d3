//! The rules of RFC 9112 and RFC 9113 that hyper leaves to its users, and which a request must keep to be understood
//! by the next hop as it was by us.
//!
//! Pure. It repairs one thing only, as RFC 9112 3.2.2 demands: an absolute-form target becomes the `Host`.

use std::net::SocketAddr;

use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use crate::refuse::Refusal;

/// Where a request is addressed, in whatever form it was said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The host, with its port if it had one, exactly as it came.
    pub authority: HeaderValue,
    /// The scheme over HTTP/2; `http` otherwise.
    pub scheme: Scheme,
    /// Path and query; `*` of OPTIONS; none of CONNECT.
    pub path: Option<PathAndQuery>,
}

impl Target {
    /// The request target for HTTP/1: origin form, `*`, or the authority of CONNECT.
    #[must_use]
    pub fn for_h1(&self) -> Option<Uri> {
        match &self.path {
            Some(path) => Some(Uri::from(path.clone())),
            None => self.authority().map(Uri::from),
        }
    }

    /// The request target for HTTP/2, which its pseudo-headers are made of.
    #[must_use]
    pub fn for_h2(&self, extended: bool) -> Option<Uri> {
        let authority = self.authority()?;
        match &self.path {
            None if !extended => Some(Uri::from(authority)),
            path => Uri::builder()
                .scheme(self.scheme.clone())
                .authority(authority)
                .path_and_query(path.clone().unwrap_or(PathAndQuery::from_static("/")))
                .build()
                .ok(),
        }
    }

    fn authority(&self) -> Option<Authority> {
        Authority::from_maybe_shared(bytes::Bytes::copy_from_slice(self.authority.as_bytes())).ok()
    }
}

/// Checks a request's head, and says where it is addressed.
///
/// `fallback`: what an HTTP/1.0 request without `Host` is addressed to, its original destination.
///
/// # Errors
/// When the request is malformed, or framed in a way that is not understood.
pub fn target(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    fallback: Option<SocketAddr>,
) -> Result<Target, Refusal> {
    framing(headers)?;
    let host = host(headers)?;
    let connect = *method == Method::CONNECT;
    let authority = match (uri.authority(), host) {
        (Some(authority), host) => {
            let said = authority_value(authority)?;
            // HTTP/1: absolute form wins over Host. HTTP/2 and CONNECT: they must say the same.
            let must_agree = version == Version::HTTP_2 || connect;
            if must_agree && host.is_some_and(|host| !same(host, &said)) {
                return Err(Refusal::Malformed(
                    "Host and the request target name different hosts",
                ));
            }
            if version == Version::HTTP_11 && host.is_none() {
                return Err(Refusal::Malformed("no Host"));
            }
            said
        }
        (None, Some(host)) => {
            check_authority(host)?;
            host.clone()
        }
        (None, None) if version == Version::HTTP_10 => fallback
            .and_then(|address| HeaderValue::from_str(&address.to_string()).ok())
            .ok_or(Refusal::Malformed("no Host"))?,
        (None, None) => return Err(Refusal::Malformed("no Host")),
    };
    let path = path(method, uri)?;
    if connect && path.is_none() && uri.port_u16().is_none() {
        return Err(Refusal::Malformed("CONNECT needs a host with a port"));
    }
    Ok(Target {
        authority,
        scheme: uri.scheme().cloned().unwrap_or(Scheme::HTTP),
        path,
    })
}

/// RFC 9112 6.1: a coding that is not understood is answered 501. hyper has refused all but `chunked` last; what is
/// before it would be lost.
fn framing(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::NotImplemented(
            "a transfer coding other than chunked",
        )),
    }
}

fn host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (host, None) => Ok(host),
        _ => Err(Refusal::Malformed("more than one Host")),
    }
}

fn authority_value(authority: &Authority) -> Result<HeaderValue, Refusal> {
    let value = HeaderValue::from_str(authority.as_str())
        .map_err(|_| Refusal::Malformed("the host cannot be read"))?;
    check_authority(&value)?;
    Ok(value)
}

fn check_authority(value: &HeaderValue) -> Result<(), Refusal> {
    let unreadable = Refusal::Malformed("the host cannot be read");
    let text = value.to_str().map_err(|_| unreadable.clone())?;
    if text.contains('@') {
        return Err(Refusal::Malformed("a host with user information"));
    }
    if text.contains(['/', '?', '#', '\\', ',', ' ', '\t']) {
        return Err(unreadable);
    }
    let authority: Authority = text.parse().map_err(|_| unreadable.clone())?;
    // "host:" and "host:x" parse, but have no port.
    let after = authority.as_str().get(authority.host().len()..);
    match after.and_then(|rest| rest.strip_prefix(':')) {
        Some(_) if authority.port_u16().is_none() => Err(unreadable),
        _ if authority.host().is_empty() => Err(unreadable),
        _ => Ok(()),
    }
}

fn path(method: &Method, uri: &Uri) -> Result<Option<PathAndQuery>, Refusal> {
    let path = uri.path_and_query();
    match path.map(PathAndQuery::as_str) {
        None | Some("") => match *method {
            Method::CONNECT => Ok(None),
            _ => Ok(Some(PathAndQuery::from_static("/"))),
        },
        Some("*") if *method != Method::OPTIONS => {
            Err(Refusal::Malformed("only OPTIONS may ask for *"))
        }
        Some(text) if text.starts_with('/') || text == "*" => Ok(path.cloned()),
        Some(_) => Err(Refusal::Malformed("a target that is no path")),
    }
}

/// Whether two authorities are the same: hosts without regard to case.
fn same(one: &HeaderValue, other: &HeaderValue) -> bool {
    one.as_bytes().eq_ignore_ascii_case(other.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const H10: Version = Version::HTTP_10;
    const H1: Version = Version::HTTP_11;
    const H2: Version = Version::HTTP_2;

    fn read(
        method: &str,
        uri: &str,
        version: Version,
        hosts: &[&str],
    ) -> Result<(String, Option<String>), Refusal> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let target = target(
            &method,
            &uri.parse().unwrap(),
            version,
            &headers,
            Some(SocketAddr::from(([10, 0, 0, 1], 80))),
        )?;
        let authority = target.authority.to_str().unwrap().to_owned();
        Ok((authority, target.path.map(|path| path.to_string())))
    }

    fn ok(authority: &str, path: &str) -> Result<(String, Option<String>), Refusal> {
        Ok((authority.to_owned(), Some(path.to_owned())))
    }

    #[test]
    fn hosts() {
        assert_eq!(read("GET", "/a?b", H1, &["x:80"]), ok("x:80", "/a?b"));
        assert_eq!(
            read("GET", "/", H1, &["Reviews.Shop"]),
            ok("Reviews.Shop", "/")
        );
        assert_eq!(
            read("GET", "/", H1, &["[fd00::1]:80"]),
            ok("[fd00::1]:80", "/")
        );
        assert_eq!(read("GET", "/", H10, &[]), ok("10.0.0.1:80", "/"));
        for bad in [
            &[][..],
            &["a", "b"],
            &["a", "a"],
            &[""],
            &["a b"],
            &["a,b"],
            &["user@a"],
            &["a/b"],
            &["a:"],
            &["a:x"],
            &["a:99999"],
            &[":80"],
        ] {
            assert!(
                matches!(read("GET", "/", H1, bad), Err(Refusal::Malformed(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn absolute_form_wins_over_host() {
        assert_eq!(
            read("GET", "http://a:81/x?y", H1, &["b"]),
            ok("a:81", "/x?y")
        );
        assert_eq!(read("GET", "http://a", H1, &["a"]), ok("a", "/"));
        assert!(read("GET", "http://a/", H1, &[]).is_err());
        assert!(read("GET", "http://u@a/", H1, &["a"]).is_err());
        assert!(read("GET", "http://a/", H1, &["b", "c"]).is_err());
    }

    #[test]
    fn over_http2_host_and_authority_agree() {
        assert_eq!(read("GET", "http://a/x", H2, &[]), ok("a", "/x"));
        assert_eq!(read("GET", "http://a/x", H2, &["A"]), ok("a", "/x"));
        assert!(read("GET", "http://a/x", H2, &["b"]).is_err());
        assert_eq!(read("GET", "/x", H2, &["b"]), ok("b", "/x"));
        assert!(read("GET", "/x", H2, &[]).is_err());
    }

    #[test]
    fn star_and_connect() {
        assert_eq!(read("OPTIONS", "*", H1, &["a"]), ok("a", "*"));
        assert!(read("GET", "*", H1, &["a"]).is_err());
        assert_eq!(
            read("CONNECT", "a:443", H1, &["a:443"]),
            Ok(("a:443".into(), None))
        );
        assert!(read("CONNECT", "a", H1, &["a"]).is_err());
        assert!(read("CONNECT", "a:443", H1, &["b:443"]).is_err());
        assert_eq!(read("CONNECT", "http://a/chat", H2, &[]), ok("a", "/chat"));
    }

    #[test]
    fn only_chunked_is_understood() {
        let framed = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRANSFER_ENCODING, HeaderValue::from_str(value).unwrap());
            }
            framing(&headers)
        };
        assert!(framed(&[]).is_ok());
        assert!(framed(&["chunked"]).is_ok());
        assert!(framed(&["Chunked"]).is_ok());
        for bad in [
            &["gzip, chunked"][..],
            &["chunked", "chunked"],
            &["xchunked"],
        ] {
            assert!(matches!(framed(bad), Err(Refusal::NotImplemented(_))));
        }
    }

    #[test]
    fn targets_for_the_next_hop() {
        let target = |uri: &str, method: Method| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("a:443"));
            super::target(&method, &uri.parse().unwrap(), H1, &headers, None).unwrap()
        };
        let get = target("/x?y=1", Method::GET);
        assert_eq!(get.for_h1().unwrap().to_string(), "/x?y=1");
        assert_eq!(get.for_h2(false).unwrap().to_string(), "http://a:443/x?y=1");
        let connect = target("a:443", Method::CONNECT);
        assert_eq!(connect.for_h1().unwrap().to_string(), "a:443");
        assert_eq!(connect.for_h2(false).unwrap().to_string(), "a:443");
        assert_eq!(
            target("*", Method::OPTIONS).for_h1().unwrap().to_string(),
            "*"
        );
    }
}
