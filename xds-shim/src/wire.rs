//! Protobuf on the wire: looking into messages and editing them without decoding them.
//!
//! prost forgets fields it does not know, and istiod may be newer than our protos. So what must be
//! looked into is walked field by field, and what must be changed is copied record by record with
//! the one record that changes replaced; everything else comes out byte for byte as it came in.
//! Encoding: <https://protobuf.dev/programming-guides/encoding/>.

use bytes::Bytes;

/// Why bytes are not a protobuf message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The message ends inside a record.
    #[error("the message ends inside a field, at byte {0}")]
    Truncated(usize),
    /// A varint longer than ten bytes.
    #[error("a varint at byte {0} is longer than 64 bits")]
    Overlong(usize),
    /// Field number 0, or a wire type that proto3 does not have (groups included).
    #[error("the tag {tag} at byte {at} is not one proto3 uses")]
    BadTag {
        /// The tag as read.
        tag: u64,
        /// Where it stands.
        at: usize,
    },
    /// A string that is not UTF-8.
    #[error("field {0} is not valid UTF-8")]
    NotUtf8(u32),
}

/// One record of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Field number.
    pub number: u32,
    /// What it holds.
    pub value: Value<'a>,
    /// The whole record, tag included.
    pub record: &'a [u8],
}

/// The value of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Integers, booleans, enums.
    Varint(u64),
    /// Strings, bytes, messages, packed lists.
    Bytes(&'a [u8]),
    /// Fixed-width numbers, which nothing here looks into.
    Fixed,
}

impl<'a> Field<'a> {
    /// The payload of a length-delimited record; nothing for other wire types.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self.value {
            Value::Bytes(b) => Some(b),
            _ => None,
        }
    }

    /// The payload as a string; `None` for other wire types.
    pub fn str(&self) -> Result<Option<&'a str>, Error> {
        self.bytes()
            .map(|b| std::str::from_utf8(b).map_err(|_| Error::NotUtf8(self.number)))
            .transpose()
    }
}

/// The records of a message, in order. Ends after the first error.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { message, at: 0 }
}

/// See [`fields`].
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, Error> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.message.get(self.at).ok_or(Error::Truncated(start))?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                return Err(Error::Overlong(start));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Overlong(start))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Error> {
        let start = self.at;
        let end = usize::try_from(len).ok().and_then(|l| start.checked_add(l));
        let end = end
            .filter(|e| *e <= self.message.len())
            .ok_or(Error::Truncated(start))?;
        self.at = end;
        Ok(&self.message[start..end])
    }

    fn read(&mut self) -> Result<Field<'a>, Error> {
        let start = self.at;
        let tag = self.varint()?;
        let bad = Error::BadTag { tag, at: start };
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|n| *n != 0 && *n < 1 << 29)
            .ok_or(bad.clone())?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(bad),
        };
        Ok(Field {
            number,
            value,
            record: &self.message[start..self.at],
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.at = self.message.len();
        }
        Some(field)
    }
}

/// The payload of every length-delimited record with this number.
pub fn each(message: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], Error>> {
    fields(message).filter_map(move |field| match field {
        Ok(f) if f.number == number => f.bytes().map(Ok),
        Ok(_) => None,
        Err(e) => Some(Err(e)),
    })
}

/// The payload of the last record with this number: protobuf's rule for a field that occurs once.
pub fn last(message: &[u8], number: u32) -> Result<Option<&[u8]>, Error> {
    each(message, number).try_fold(None, |_, found| found.map(Some))
}

/// The string in the last record with this number; empty when there is none, as in proto3.
pub fn string(message: &[u8], number: u32) -> Result<&str, Error> {
    let payload = last(message, number)?.unwrap_or_default();
    std::str::from_utf8(payload).map_err(|_| Error::NotUtf8(number))
}

/// The integer in the last record with this number; 0 when there is none, as in proto3.
pub fn varint(message: &[u8], number: u32) -> Result<u64, Error> {
    fields(message).try_fold(0, |seen, field| {
        Ok(match field? {
            Field {
                number: n,
                value: Value::Varint(v),
                ..
            } if n == number => v,
            _ => seen,
        })
    })
}

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Stays as it came.
    Keep,
    /// Goes.
    Drop,
    /// Its payload is replaced.
    Replace(Vec<u8>),
}

/// Copies a message, giving every record to `edit`. `None`: nothing changed.
///
/// # Errors
/// Those of the walk, or whatever `edit` returns.
pub fn edit<'a, E: From<Error>>(
    message: &'a [u8],
    mut edit: impl FnMut(Field<'a>) -> Result<Edit, E>,
) -> Result<Option<Vec<u8>>, E> {
    let mut out = Vec::with_capacity(message.len() + 64);
    let mut changed = false;
    for field in fields(message) {
        let field = field?;
        match edit(field)? {
            Edit::Keep => out.extend_from_slice(field.record),
            Edit::Drop => changed = true,
            Edit::Replace(payload) => {
                put_bytes(&mut out, field.number, &payload);
                changed = true;
            }
        }
    }
    Ok(changed.then_some(out))
}

/// Replaces the payload of every record with this number for which `change` gives a new one.
pub fn edit_each<'a, E: From<Error>>(
    message: &'a [u8],
    number: u32,
    mut change: impl FnMut(&'a [u8]) -> Result<Option<Vec<u8>>, E>,
) -> Result<Option<Vec<u8>>, E> {
    edit(message, |field| match field.bytes() {
        Some(payload) if field.number == number => {
            Ok(change(payload)?.map_or(Edit::Keep, Edit::Replace))
        }
        _ => Ok(Edit::Keep),
    })
}

/// Appends a length-delimited record.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, payload: &[u8]) {
    put_header(out, number, payload.len());
    out.extend_from_slice(payload);
}

/// Appends the tag and the length of a length-delimited record whose payload follows.
pub fn put_header(out: &mut Vec<u8>, number: u32, length: usize) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, length as u64);
}

/// Appends a string unless it is empty, as proto3 encoders do.
pub fn put_string(out: &mut Vec<u8>, number: u32, value: &str) {
    if !value.is_empty() {
        put_bytes(out, number, value.as_bytes());
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A part of `whole` as a handle on the same memory.
pub fn share(whole: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() {
        Bytes::new()
    } else {
        whole.slice_ref(part)
    }
}

#[cfg(test)]
mod tests;
