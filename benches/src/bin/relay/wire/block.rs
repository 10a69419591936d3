//! Header blocks of HPACK (RFC 7541), written as a client or server writes them that says the same again and again.

/// The entries of the static table that are used by name here.
const NAMES: [(&str, u8); 8] = [
    (":authority", 1),
    (":path", 4),
    ("accept", 19),
    ("content-length", 28),
    ("content-type", 31),
    ("date", 33),
    ("server", 54),
    ("user-agent", 58),
];
/// The first index of what was remembered, which is what was remembered last.
const DYNAMIC: usize = 62;
/// The index of `:status: 200`, as an indexed field.
const OK: u8 = 0x80 | 8;

/// A header block: as it is said the first time on a connection, and after that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    pub(crate) first: Vec<u8>,
    pub(crate) later: Vec<u8>,
    fields: Vec<Field>,
    remembered: usize,
}

#[derive(Clone, Debug)]
enum Field {
    Same(Vec<u8>),
    /// Number so and so of what was remembered.
    Remembered(usize),
}

impl Block {
    /// A field of the static table.
    pub(crate) fn indexed(&mut self, index: u8) {
        self.said(vec![0x80 | index]);
    }

    /// A field whose value is another one in each message.
    pub(crate) fn literal(&mut self, name: &str, value: &str) {
        self.said(field(0, 4, name, value));
    }

    /// A field that stays the same, so that it is said once and referred to later.
    pub(crate) fn remembered(&mut self, name: &str, value: &str) {
        self.first.extend(field(0x40, 6, name, value));
        self.fields.push(Field::Remembered(self.remembered));
        self.remembered += 1;
        self.write_later();
    }

    fn said(&mut self, field: Vec<u8>) {
        self.first.extend(&field);
        self.fields.push(Field::Same(field));
        self.write_later();
    }

    fn write_later(&mut self) {
        self.later.clear();
        for field in &self.fields {
            match field {
                Field::Same(field) => self.later.extend(field),
                Field::Remembered(number) => {
                    let index = DYNAMIC + self.remembered - 1 - number;
                    integer(&mut self.later, 0x80, 7, index);
                }
            }
        }
    }
}

/// A literal field; `prefix` bits of the first byte are the index of its name.
fn field(first: u8, prefix: u8, name: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    match NAMES.iter().find(|(known, _)| *known == name) {
        Some((_, index)) => integer(&mut out, first, prefix, usize::from(*index)),
        None => {
            out.push(first);
            string(&mut out, name);
        }
    }
    string(&mut out, value);
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    integer(out, 0, 7, text.len());
    out.extend(text.as_bytes());
}

/// RFC 7541 5.1.
fn integer(out: &mut Vec<u8>, first: u8, prefix: u8, value: usize) {
    let most = (1_usize << prefix) - 1;
    let byte = |value: usize| u8::try_from(value & 0xff).unwrap_or(0);
    if value < most {
        out.push(first | byte(value));
        return;
    }
    out.push(first | byte(most));
    let mut left = value - most;
    while left >= 128 {
        out.push(byte(left % 128) | 0x80);
        left /= 128;
    }
    out.push(byte(left));
}

/// Whether an answer's header block says 200. The status comes first, after updates of the table's size.
pub(crate) fn is_ok(block: &[u8]) -> bool {
    let mut rest = block;
    while let [first, after @ ..] = rest {
        if first >> 5 != 1 {
            return *first == OK;
        }
        rest = after;
        if first & 0x1f == 0x1f {
            let more = rest.iter().take_while(|byte| **byte >= 128).count();
            rest = rest.get(more + 1..).unwrap_or_default();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_referred_to_the_latest_first() {
        let mut block = Block::default();
        block.indexed(2);
        block.remembered(":path", "/a");
        block.literal("x", "1");
        block.remembered("y", "2");
        let first = b"\x82\x44\x02/a\x00\x01x\x011\x40\x01y\x012";
        assert_eq!(block.first, first);
        assert_eq!(block.later, b"\x82\xbf\x00\x01x\x011\xbe");
    }

    #[test]
    fn long_numbers_go_on() {
        let mut out = Vec::new();
        integer(&mut out, 0, 5, 1337);
        assert_eq!(out, [31, 154, 10]);
    }

    #[test]
    fn only_200_is_right() {
        assert!(is_ok(b"\x88"));
        assert!(is_ok(b"\x20\x3f\xe1\x1f\x88\x00"));
        for other in [&b"\x8d"[..], b"", b"\x20", b"\x3f\xe1", b"\x48\x03503"] {
            assert!(!is_ok(other), "{other:?}");
        }
    }
}
