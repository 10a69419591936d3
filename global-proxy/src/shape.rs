//! What kind of request it is, as far as carrying it goes.
//!
//! Pure. It never decides what is done with the request.

use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, UPGRADE};
use http::{HeaderMap, Method, Request, Version};

/// The class of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An ordinary exchange.
    Plain,
    /// A gRPC call.
    Grpc,
    /// HTTP/1.1 that asks to become another protocol.
    Upgrade,
    /// CONNECT.
    Connect,
    /// CONNECT with `:protocol`, RFC 8441.
    ExtendedConnect,
}

/// What is known of a request's body at some moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BodySeen {
    /// There is none.
    Empty,
    /// All of it has come.
    Complete {
        /// Its length.
        bytes: usize,
        /// Whether trailers followed it.
        trailers: bool,
    },
    /// Some of it may still come.
    Open {
        /// What has come.
        bytes: usize,
    },
    /// It is longer than may be kept.
    TooLarge,
}

/// What carrying a request has to heed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// Its class.
    pub kind: Kind,
    /// The version it came in.
    pub version: Version,
    /// Whether the caller waits for `100 Continue` before it sends the body.
    pub expects_100: bool,
}

impl Shape {
    /// Looks at a request's head.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        let (headers, version) = (request.headers(), request.version());
        Self {
            kind: kind(request),
            version,
            // RFC 9110 10.1.1: ignored in HTTP/1.0.
            expects_100: version > Version::HTTP_10
                && headers
                    .get(EXPECT)
                    .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")),
        }
    }

    /// Whether it is gRPC.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.kind == Kind::Grpc
    }

    /// Whether it turns into bytes both ways.
    #[must_use]
    pub fn becomes_bytes(&self) -> bool {
        matches!(
            self.kind,
            Kind::Upgrade | Kind::Connect | Kind::ExtendedConnect
        )
    }
}

fn kind<B>(request: &Request<B>) -> Kind {
    if request.method() == Method::CONNECT {
        return match request.extensions().get::<hyper::ext::Protocol>() {
            Some(_) => Kind::ExtendedConnect,
            None => Kind::Connect,
        };
    }
    let headers = request.headers();
    if request.version() == Version::HTTP_11 && upgrades(headers) {
        return Kind::Upgrade;
    }
    let grpc = headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        let rest = value.strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
    });
    if grpc { Kind::Grpc } else { Kind::Plain }
}

/// RFC 9110 7.8: an upgrade is asked for by `Upgrade` *and* `Connection: upgrade`. `h2c` is not passed on: RFC 9113
/// retired it, and what follows it would be HTTP that was never looked at.
fn upgrades(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter().peekable();
    if protocols.peek().is_none() || !lists(headers, "upgrade") {
        return false;
    }
    protocols.all(|value| {
        let text = value.to_str().unwrap_or("");
        text.split(',')
            .all(|one| !one.trim().eq_ignore_ascii_case("h2c") && !one.trim().is_empty())
    })
}

/// Whether `Connection` lists `token`.
#[must_use]
pub fn lists(headers: &HeaderMap, token: &str) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        let text = value.to_str().unwrap_or("");
        text.split(',')
            .any(|one| one.trim().eq_ignore_ascii_case(token))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(version: Version, method: &str, headers: &[(&str, &str)]) -> Shape {
        let mut request = Request::builder().version(version).method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Shape::of(&request.body(()).unwrap())
    }

    #[test]
    fn kinds() {
        let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
        let upgrade = ("connection", "keep-alive, Upgrade");
        let websocket = ("upgrade", "websocket");
        type Case<'a> = (Version, &'a str, &'a [(&'a str, &'a str)], Kind);
        let cases: &[Case<'_>] = &[
            (h1, "GET", &[], Kind::Plain),
            (h1, "GET", &[upgrade, websocket], Kind::Upgrade),
            (h1, "GET", &[websocket], Kind::Plain),
            (h1, "GET", &[upgrade], Kind::Plain),
            (h1, "GET", &[upgrade, ("upgrade", "h2c")], Kind::Plain),
            (
                h1,
                "GET",
                &[upgrade, ("upgrade", "websocket, H2C")],
                Kind::Plain,
            ),
            (Version::HTTP_10, "GET", &[upgrade, websocket], Kind::Plain),
            (h1, "CONNECT", &[], Kind::Connect),
            (h2, "CONNECT", &[], Kind::Connect),
            (
                h2,
                "POST",
                &[("content-type", "application/grpc")],
                Kind::Grpc,
            ),
            (
                h2,
                "POST",
                &[("content-type", "application/grpc+proto")],
                Kind::Grpc,
            ),
            (
                h2,
                "POST",
                &[("content-type", "application/grpc-web")],
                Kind::Plain,
            ),
        ];
        for (version, method, headers, kind) in cases {
            assert_eq!(
                shape(*version, method, headers).kind,
                *kind,
                "{method} {headers:?}"
            );
        }
    }

    #[test]
    fn extended_connect_is_told_by_its_protocol() {
        let mut request = Request::builder()
            .version(Version::HTTP_2)
            .method("CONNECT")
            .body(())
            .unwrap();
        request
            .extensions_mut()
            .insert(hyper::ext::Protocol::from_static("websocket"));
        assert_eq!(Shape::of(&request).kind, Kind::ExtendedConnect);
    }

    #[test]
    fn expectations() {
        let expect = [("expect", "100-Continue")];
        assert!(shape(Version::HTTP_11, "POST", &expect).expects_100);
        assert!(!shape(Version::HTTP_10, "POST", &expect).expects_100);
        assert!(!shape(Version::HTTP_11, "POST", &[("expect", "gold")]).expects_100);
    }
}
