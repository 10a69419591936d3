//! What a tunnel carries, told by its first bytes.
//!
//! Pure. HTTP is what has a whole request line of HTTP/1, or HTTP/2's preface; everything else is bytes. That is never
//! wrong: HTTP that is taken for bytes reaches the global proxy's own sidecar, which knows it as HTTP. It only misses
//! being told to close once its service is learned.

use crate::accepted::{PREFACE, Spoken};

/// A request line longer than this is not waited for.
pub(super) const MOST: usize = 16 << 10;
/// No method is longer.
const METHOD: usize = 32;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sniffed {
    /// It may still turn out to be HTTP.
    Unsure,
    Http(Spoken),
    /// Anything else, TLS among it.
    Bytes,
}

/// Looks at what has come so far.
pub(crate) fn sniff(first: &[u8]) -> Sniffed {
    let known = first.len().min(PREFACE.len());
    if first[..known] == PREFACE[..known] {
        return if known == PREFACE.len() {
            Sniffed::Http(Spoken::Http2)
        } else {
            Sniffed::Unsure
        };
    }
    request_line(first)
}

/// `METHOD SP TARGET SP HTTP/1.x CRLF`. Redis and memcached have lines that begin as this does, and end otherwise.
fn request_line(first: &[u8]) -> Sniffed {
    let end = first.iter().position(|byte| *byte == b'\n');
    let line = &first[..end.unwrap_or(first.len())];
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let method = parts.next().unwrap_or_default();
    if method.len() > METHOD || !method.iter().all(|byte| is_token(*byte)) {
        return Sniffed::Bytes;
    }
    // After the method's space there is a target, and it has no control characters.
    let target = parts.next().unwrap_or_default();
    if target.iter().any(u8::is_ascii_control) {
        return Sniffed::Bytes;
    }
    let version = parts.next();
    let empty = method.is_empty() || (target.is_empty() && version.is_some());
    if !first.is_empty() && empty {
        return Sniffed::Bytes;
    }
    match (version, end) {
        (Some(b"HTTP/1.1\r" | b"HTTP/1.0\r"), Some(_)) => Sniffed::Http(Spoken::Http1),
        (_, Some(_)) => Sniffed::Bytes,
        (Some(version), None) if !begins_as_version(version) => Sniffed::Bytes,
        (_, None) if first.len() >= MOST => Sniffed::Bytes,
        (_, None) => Sniffed::Unsure,
    }
}

fn begins_as_version(text: &[u8]) -> bool {
    [b"HTTP/1.1\r", b"HTTP/1.0\r"]
        .iter()
        .any(|version| version.starts_with(text))
}

/// RFC 9110 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length from which on it is told, and as what: every shorter beginning is unsure.
    fn told(text: &[u8]) -> Option<(usize, Sniffed)> {
        let told = (0..=text.len())
            .map(|length| (length, sniff(&text[..length])))
            .find(|(_, sniffed)| *sniffed != Sniffed::Unsure)?;
        for longer in told.0..=text.len() {
            assert_eq!(sniff(&text[..longer]), told.1, "at {longer} of {text:?}");
        }
        Some(told)
    }

    #[test]
    fn nothing_says_nothing() {
        assert_eq!(sniff(b""), Sniffed::Unsure);
    }

    #[test]
    fn http1_is_told_by_its_whole_first_line() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "GET /index.html?a=b%20c HTTP/1.0\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "CONNECT db.shop:5432 HTTP/1.1\r\n",
            "GET http://server.shop/ HTTP/1.1\r\n",
            "VERSION-CONTROL /x HTTP/1.1\r\n",
            "PRI / HTTP/1.1\r\n",
            "P / HTTP/1.1\r\n",
        ] {
            let text = format!("{line}host: x\r\n\r\nbody");
            let expected = (line.len(), Sniffed::Http(Spoken::Http1));
            assert_eq!(told(text.as_bytes()), Some(expected), "{line}");
        }
    }

    #[test]
    fn http2_is_told_by_its_whole_preface() {
        let text = [&PREFACE[..], b"\0\0\0\x04\0\0\0\0\0"].concat();
        let expected = (PREFACE.len(), Sniffed::Http(Spoken::Http2));
        assert_eq!(told(&text), Some(expected));
        // What departs from it late is no HTTP/1 either.
        assert_eq!(
            told(b"PRI * HTTP/2.0\r\n\r\nXX"),
            Some((19, Sniffed::Bytes))
        );
        assert_eq!(told(b"PRI * HTTP/2.0\r\nHost"), Some((17, Sniffed::Bytes)));
    }

    #[test]
    fn everything_else_is_bytes_as_soon_as_it_can_be_told() {
        let cases: &[(&[u8], usize)] = &[
            (b"\x16\x03\x01\x02\0\x01", 1),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", 1),
            (b"*1\r\n$4\r\nPING\r\n", 3),
            (b"PING\r\n", 5),
            (b"GET key\r\n", 8),
            (b"get key\r\n", 8),
            (b"set key 0 900 4\r\n", 9),
            (b"SSH-2.0-OpenSSH_9.2\r\n", 20),
            (b"AMQP\0\0\x09\x01", 5),
            (b"GET / HTTP/2.0\r\n", 12),
            (b"GET / HTTP/1.2\r\n", 14),
            (b"GET / HTTP/1.1\n", 15),
            (b"GET /\r\n", 6),
            (b"GET  / HTTP/1.1\r\n", 5),
            (b"GET / x HTTP/1.1\r\n", 7),
            (b" GET / HTTP/1.1\r\n", 1),
            (b"\r\nGET / HTTP/1.1\r\n", 1),
            (b"GET /\tx HTTP/1.1\r\n", 6),
            (b"G\xc3\xa9T / HTTP/1.1\r\n", 2),
            (b"\n", 1),
        ];
        for (text, length) in cases {
            assert_eq!(told(text), Some((*length, Sniffed::Bytes)), "{text:?}");
        }
    }

    #[test]
    fn no_line_is_waited_for_without_end() {
        let method = [b'A'; METHOD + 1];
        assert_eq!(told(&method), Some((METHOD + 1, Sniffed::Bytes)));
        let mut line = b"GET /".to_vec();
        line.resize(MOST, b'a');
        assert_eq!(told(&line), Some((MOST, Sniffed::Bytes)));
    }
}
