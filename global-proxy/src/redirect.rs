//! The answer that makes a caller's Envoy send its request again, itself.
//!
//! Pure. It carries what Envoy needs and nothing else: should it ever reach an application, there is nothing in it to act
//! on but a `Location` that is the request's own URL.

use bytes::Bytes;
use dependency_graph::fallback::{PLAIN, TRY};
use http::header::LOCATION;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// What a redirect says besides where to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mark {
    /// It is this redirect of the request, from 1.
    Try(u8),
    /// The fallback is to be passed by.
    Plain,
}

/// The answer. 307, so that the method stays; nothing of gRPC, so that Envoy takes it for no end of a call.
pub(crate) fn redirect(location: HeaderValue, mark: Mark) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(LOCATION, location);
    match mark {
        Mark::Try(number) => headers.insert(TRY, u16::from(number).into()),
        Mark::Plain => headers.insert(PLAIN, HeaderValue::from_static("1")),
    };
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_where_to_and_its_mark_only() {
        let location = HeaderValue::from_static("http://reviews:80/a");
        for (mark, name, value) in [(Mark::Try(3), TRY, "3"), (Mark::Plain, PLAIN, "1")] {
            let response = redirect(location.clone(), mark);
            assert_eq!(response.status(), 307);
            assert_eq!(response.headers().len(), 2);
            assert_eq!(response.headers()["location"], "http://reviews:80/a");
            assert_eq!(response.headers()[name], value);
        }
    }
}
