//! Which headers end at us, and which go on: RFC 9110 7.6.1, RFC 9113 8.2.2, and our own.
//!
//! Pure. It never looks at a body, and adds nothing that says a proxy was on the way: the server's answer must be as
//! without one.

use dependency_graph::fallback;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, LOCATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use crate::incoming::{self, Path};
use crate::shape::Kind;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const ENDS_HERE: [HeaderName; 6] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
];
/// Written by our own sidecar about the hop to us, and of no meaning for the next.
const OF_OUR_SIDECAR: [&str; 5] = [
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-envoy-upstream-service-time",
];

/// Makes a request's headers those of the next hop, which speaks `version`.
///
/// `Proxy-Authorization` and `Proxy-Authenticate` stay: nobody chose us as a proxy, so they are meant for one further
/// on.
pub fn request_out(headers: &mut HeaderMap, version: Version, kind: Kind) {
    let trailers = wants_trailers(headers);
    let upgrade = (kind == Kind::Upgrade).then(|| values(headers, &UPGRADE));
    end_here(headers);
    incoming::strip(headers);
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if version == Version::HTTP_2 {
        // HTTP/2 has :authority, and a body there needs no leave to be sent.
        headers.remove(HOST);
        headers.remove(EXPECT);
        return;
    }
    if let Some(upgrade) = upgrade {
        put_upgrade_back(headers, upgrade);
    } else if trailers {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Makes a response's headers those for the caller.
///
/// On [`Path::Routed`] a redirect of the server must not be followed inside the caller's Envoy, as one of ours would
/// be. Envoy does not follow one without `location`, so it travels under our own name, and the fallback route puts it
/// back.
pub fn response_out(
    headers: &mut HeaderMap,
    status: StatusCode,
    version: Version,
    kind: Kind,
    path: Path,
) {
    let switching = status == StatusCode::SWITCHING_PROTOCOLS && kind == Kind::Upgrade;
    let upgrade = switching.then(|| values(headers, &UPGRADE));
    end_here(headers);
    incoming::strip(headers);
    if kind == Kind::Connect && status.is_success() {
        headers.remove(CONTENT_LENGTH);
    }
    if let Some(upgrade) = upgrade {
        put_upgrade_back(headers, upgrade);
    }
    if path == Path::Routed
        && status.is_redirection()
        && let Some(location) = headers.remove(LOCATION)
    {
        headers.insert(fallback::LOCATION, location);
    }
    if version == Version::HTTP_2 {
        headers.remove(UPGRADE);
    }
}

/// Takes out of trailers what may not be there: RFC 9110 6.5.1, whatever frames or routes a message.
pub fn trailers(trailers: &mut HeaderMap) {
    end_here(trailers);
    incoming::strip(trailers);
    for name in [CONTENT_LENGTH, HOST, TE, TRAILER] {
        trailers.remove(name);
    }
}

fn end_here(headers: &mut HeaderMap) {
    // Most messages have nothing to take out, and a look at each name costs less than a search for each of ours.
    if !headers.keys().any(ends_here) {
        return;
    }
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    for name in ENDS_HERE {
        headers.remove(name);
    }
    for name in OF_OUR_SIDECAR {
        headers.remove(name);
    }
}

fn ends_here(name: &HeaderName) -> bool {
    ENDS_HERE.contains(name) || OF_OUR_SIDECAR.contains(&name.as_str())
}

/// What `Connection` names. Never what a message is framed or routed by: RFC 9110 7.6.1 forbids naming those.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        let Ok(text) = value.to_str() else { continue };
        let names = text
            .split(',')
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
        named.extend(names.filter(|name| *name != HOST && *name != CONTENT_LENGTH));
    }
    named
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|value| {
        let text = value.to_str().unwrap_or("");
        text.split(',').any(|coding| {
            let coding = coding.split(';').next().unwrap_or("");
            coding.trim().eq_ignore_ascii_case("trailers")
        })
    })
}

fn values(headers: &HeaderMap, name: &HeaderName) -> Vec<HeaderValue> {
    headers.get_all(name).iter().cloned().collect()
}

fn put_upgrade_back(headers: &mut HeaderMap, upgrade: Vec<HeaderValue>) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    for value in upgrade {
        headers.append(UPGRADE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H1: Version = Version::HTTP_11;
    const H2: Version = Version::HTTP_2;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn request(pairs: &[(&'static str, &str)], version: Version, kind: Kind) -> HeaderMap {
        let mut map = map(pairs);
        request_out(&mut map, version, kind);
        map
    }

    fn response(pairs: &[(&'static str, &str)], status: u16, kind: Kind, path: Path) -> HeaderMap {
        let mut map = map(pairs);
        response_out(
            &mut map,
            StatusCode::from_u16(status).unwrap(),
            H1,
            kind,
            path,
        );
        map
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let sent = [
            ("host", "reviews:9080"),
            ("connection", "close, X-One"),
            ("connection", "x-two"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("te", "gzip"),
            ("x-forwarded-client-cert", "URI=spiffe://x"),
            ("x-lazymesh-pod", "a"),
            ("x-envoy-attempt-count", "1"),
            ("accept-encoding", "br"),
            ("cookie", "a=1"),
            ("proxy-authorization", "Basic eA=="),
            ("x-request-id", "7"),
        ];
        let out = request(&sent, H1, Kind::Plain);
        let wanted = map(&[
            ("host", "reviews:9080"),
            ("accept-encoding", "br"),
            ("cookie", "a=1"),
            ("proxy-authorization", "Basic eA=="),
            ("x-request-id", "7"),
        ]);
        assert_eq!(out, wanted);
    }

    #[test]
    fn connection_cannot_name_what_frames_or_routes() {
        let out = request(
            &[
                ("host", "a"),
                ("content-length", "3"),
                ("connection", "host, content-length"),
            ],
            H1,
            Kind::Plain,
        );
        assert_eq!(out, map(&[("host", "a"), ("content-length", "3")]));
    }

    #[test]
    fn te_is_made_anew() {
        let out = request(&[("te", "gzip;q=0.5, Trailers;q=1")], H1, Kind::Plain);
        assert_eq!(out, map(&[("te", "trailers"), ("connection", "te")]));
        let out = request(&[("te", "trailers")], H2, Kind::Grpc);
        assert_eq!(out, map(&[("te", "trailers")]));
    }

    #[test]
    fn an_upgrade_is_asked_for_again() {
        let asked = [
            ("connection", "Upgrade, x-a"),
            ("upgrade", "websocket"),
            ("x-a", "1"),
        ];
        let wanted = map(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        assert_eq!(request(&asked, H1, Kind::Upgrade), wanted);
        assert_eq!(response(&asked, 101, Kind::Upgrade, Path::Routed), wanted);
        assert!(response(&asked, 200, Kind::Upgrade, Path::Routed).is_empty());
        assert!(request(&asked, H1, Kind::Plain).is_empty());
    }

    #[test]
    fn http2_has_no_host_and_no_expectations() {
        let out = request(
            &[("host", "a"), ("expect", "100-continue")],
            H2,
            Kind::Plain,
        );
        assert!(out.is_empty());
        let out = request(&[("expect", "100-continue")], H1, Kind::Plain);
        assert_eq!(out, map(&[("expect", "100-continue")]));
    }

    #[test]
    fn a_redirect_of_the_server_is_not_followed_inside() {
        let sent = [("location", "http://elsewhere/"), ("set-cookie", "a=1")];
        let moved = map(&[
            ("x-lazymesh-location", "http://elsewhere/"),
            ("set-cookie", "a=1"),
        ]);
        for status in [301, 302, 303, 307, 308] {
            assert_eq!(response(&sent, status, Kind::Plain, Path::Routed), moved);
            assert_eq!(
                response(&sent, status, Kind::Plain, Path::Direct),
                map(&sent)
            );
        }
        assert_eq!(response(&sent, 201, Kind::Plain, Path::Routed), map(&sent));
    }

    #[test]
    fn a_server_cannot_speak_for_us() {
        let sent = [
            ("x-lazymesh-location", "http://evil/"),
            ("x-lazymesh-try", "1"),
        ];
        assert!(response(&sent, 307, Kind::Plain, Path::Routed).is_empty());
    }

    #[test]
    fn responses_keep_what_is_end_to_end() {
        let sent = [
            ("content-encoding", "gzip"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("trailer", "x-sum"),
            ("www-authenticate", "Negotiate"),
            ("proxy-authenticate", "Basic"),
            ("server", "nginx"),
            ("date", "Tue, 15 Nov 1994 08:12:31 GMT"),
        ];
        assert_eq!(response(&sent, 200, Kind::Plain, Path::Routed), map(&sent));
    }

    #[test]
    fn trailers_carry_no_framing() {
        let mut map_of = map(&[
            ("grpc-status", "0"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("host", "x"),
            ("x-lazymesh-try", "1"),
        ]);
        trailers(&mut map_of);
        assert_eq!(map_of, map(&[("grpc-status", "0")]));
    }
}
