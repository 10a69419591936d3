//! The texts of a route configuration, where they stand in its bytes: a mesh of thousands of services has tens of thousands of
//! domains in each of them, and each namespace's configuration is another one.

use crate::wire::Error;
use bytes::Bytes;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// A text in the bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    at: u32,
    len: u32,
}

/// The bytes that texts are in.
#[derive(Debug)]
pub(super) struct Texts(Bytes);

impl Texts {
    /// `None`: they are too many to be counted so.
    pub(super) fn new(bytes: Bytes) -> Option<Self> {
        u32::try_from(bytes.len()).ok()?;
        Some(Self(bytes))
    }

    /// Where a part of the bytes is that is UTF-8.
    ///
    /// # Errors
    /// It is not, which is told with the number of its field.
    pub(super) fn span(&self, part: &[u8], field: u32) -> Result<Span, Error> {
        let part = std::str::from_utf8(part).map_err(|_| Error::NotUtf8(field))?;
        Ok(self.place(part).unwrap_or_default())
    }

    /// Where a part of the bytes is; an empty one is anywhere.
    pub(super) fn place(&self, part: &str) -> Option<Span> {
        if part.is_empty() {
            return Some(Span::default());
        }
        let at = part.as_ptr().addr().checked_sub(self.0.as_ptr().addr())?;
        self.0.get(at..at.checked_add(part.len())?)?;
        Some(Span {
            at: u32::try_from(at).ok()?,
            len: u32::try_from(part.len()).ok()?,
        })
    }

    pub(super) fn get(&self, span: Span) -> &str {
        // It was one when it was found.
        std::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }

    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        let at = span.at as usize;
        self.0.get(at..at + span.len as usize).unwrap_or_default()
    }
}

/// Finds numbers by the bytes of texts, of which it keeps none.
#[derive(Debug, Default)]
pub(super) struct Index {
    numbers: HashTable<u32>,
    hasher: RandomState,
}

impl Index {
    /// The number that has this text. `text_of`: a number's.
    pub(super) fn get<'a>(&self, text: &[u8], text_of: impl Fn(u32) -> &'a [u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        let found = self.numbers.find(hash, |number| text_of(*number) == text);
        found.copied()
    }

    /// Adds a number, if none has its text; whether that is so.
    pub(super) fn insert<'a>(&mut self, number: u32, text_of: impl Fn(u32) -> &'a [u8]) -> bool {
        let text = text_of(number);
        if self.get(text, &text_of).is_some() {
            return false;
        }
        let (hasher, hash) = (&self.hasher, self.hasher.hash_one(text));
        let rehash = |number: &u32| hasher.hash_one(text_of(*number));
        self.numbers.insert_unique(hash, number, rehash);
        true
    }

    /// Keeps some.
    pub(super) fn retain<'a>(
        &mut self,
        keep: impl Fn(u32) -> bool,
        text_of: impl Fn(u32) -> &'a [u8],
    ) {
        self.numbers.retain(|number| keep(*number));
        let hasher = &self.hasher;
        let rehash = |number: &u32| hasher.hash_one(text_of(*number));
        self.numbers.shrink_to_fit(rehash);
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_where_they_are() {
        let bytes = Bytes::from_static(b"one two three");
        let texts = Texts::new(bytes.clone()).unwrap();
        let part = &bytes[4..];
        assert_eq!(texts.get(texts.span(&part[..3], 1).unwrap()), "two");
        // Of other bytes, and none at all.
        assert!(texts.place("two").is_none());
        assert_eq!(texts.get(texts.place("").unwrap()), "");
        assert_eq!(texts.get(Span::default()), "");
        let wild = Span { at: 9, len: 50 };
        assert_eq!(texts.get(wild), "");
        assert!(matches!(texts.span(b"\xff", 7), Err(Error::NotUtf8(7))));
    }

    #[test]
    fn numbers_are_found_by_their_texts() {
        let words = ["a", "b", "a", "c"];
        let text_of = |number: u32| words[number as usize].as_bytes();
        let mut index = Index::default();
        let new: Vec<_> = (0..4).map(|n| index.insert(n, text_of)).collect();
        assert_eq!(new, [true, true, false, true]);
        assert_eq!(index.get(b"a", text_of), Some(0));
        assert_eq!((index.get(b"d", text_of), index.len()), (None, 3));
        index.retain(|n| n != 0, text_of);
        assert_eq!((index.get(b"a", text_of), index.len()), (None, 2));
        assert_eq!(index.get(b"c", text_of), Some(3));
    }
}
