//! A request's body of which some was read before it was decided what is done with it: what was read comes first, then
//! the rest, exactly as they came.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::shape::BodySeen;

/// Bytes of bodies that one worker keeps at once; a body for which there is no room counts as too large.
const MOST_BYTES: usize = 32 << 20;

/// What all bodies of a worker keep.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room(Rc<Cell<usize>>);

/// One body's part of it.
#[derive(Debug)]
struct Share {
    room: Room,
    bytes: usize,
}

impl Share {
    fn new(room: &Room) -> Self {
        Self {
            room: room.clone(),
            bytes: 0,
        }
    }

    /// Takes some more; false when there is no room for it, taken all the same.
    fn take(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let all = &self.room.0;
        all.set(all.get() + bytes);
        all.get() <= MOST_BYTES
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        let all = &self.room.0;
        all.set(all.get() - bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

/// What was read.
#[derive(Debug)]
struct Read {
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    share: Share,
    /// Nothing follows.
    ended: bool,
    too_large: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Kept<B = Incoming> {
    rest: B,
    read: Option<Box<Read>>,
}

impl<B> Kept<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// One of which nothing has been read.
    pub(crate) fn new(body: B) -> Self {
        Self {
            rest: body,
            read: None,
        }
    }

    /// What is known of it. `most`: bytes that may be kept.
    pub(crate) fn seen(&self, most: usize) -> BodySeen {
        let announced = self.rest.size_hint().lower();
        match &self.read {
            None if self.rest.is_end_stream() => BodySeen::Empty,
            None if announced > most as u64 => BodySeen::TooLarge,
            None => BodySeen::Open { bytes: 0 },
            Some(read) if read.too_large => BodySeen::TooLarge,
            Some(read) if read.ended => BodySeen::Complete {
                bytes: read.share.bytes,
                trailers: read.trailers.is_some(),
            },
            Some(read) => BodySeen::Open {
                bytes: read.share.bytes,
            },
        }
    }

    /// Reads to its end, or until it is too large to be kept. Dropped meanwhile, what came is kept.
    ///
    /// # Errors
    /// When it breaks off.
    pub(crate) async fn read(&mut self, most: usize, room: &Room) -> Result<(), B::Error> {
        let read = self.read.get_or_insert_with(|| {
            Box::new(Read {
                data: VecDeque::new(),
                trailers: None,
                share: Share::new(room),
                ended: false,
                too_large: false,
            })
        });
        while !read.ended && !read.too_large {
            let frame = poll_fn(|cx| Pin::new(&mut self.rest).poll_frame(cx)).await;
            match frame.transpose()?.map(Frame::into_data) {
                None => read.ended = true,
                Some(Ok(data)) => {
                    let fits = read.share.take(data.len());
                    read.too_large = !fits || read.share.bytes > most;
                    read.data.push_back(data);
                    read.ended = self.rest.is_end_stream();
                }
                Some(Err(frame)) => {
                    read.trailers = frame.into_trailers().ok();
                    read.ended = true;
                }
            }
        }
        Ok(())
    }
}

impl Read {
    /// The next of what was read.
    fn next(&mut self) -> Option<Frame<Bytes>> {
        if let Some(data) = self.data.pop_front() {
            self.share.give_back(data.len());
            return Some(Frame::data(data));
        }
        self.trailers.take().map(Frame::trailers)
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }
}

impl<B> Body for Kept<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(read) = &mut self.read {
            if let Some(frame) = read.next() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if read.ended {
                return Poll::Ready(None);
            }
            self.read = None;
        }
        Poll::Ready(ready!(Pin::new(&mut self.rest).poll_frame(cx)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.read {
            None => self.rest.is_end_stream(),
            Some(read) => read.is_empty() && (read.ended || self.rest.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.rest.size_hint();
        if let Some(read) = &self.read {
            let kept = read.share.bytes as u64;
            let upper = hint.upper().map(|upper| upper + kept);
            hint = SizeHint::new();
            hint.set_lower(self.rest.size_hint().lower() + kept);
            if let Some(upper) = upper {
                hint.set_upper(upper);
            }
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::channel::mpsc;
    use futures::{FutureExt, StreamExt};
    use http_body_util::{BodyExt, Empty, Full, StreamBody};
    use std::convert::Infallible;

    type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, Infallible>>;
    type Fed = StreamBody<mpsc::UnboundedReceiver<Result<Frame<Bytes>, Infallible>>>;

    fn fed() -> (Frames, Kept<Fed>) {
        let (frames, fed) = mpsc::unbounded();
        (frames, Kept::new(StreamBody::new(fed)))
    }

    fn data(frames: &Frames, data: &'static str) {
        frames.unbounded_send(Ok(Frame::data(data.into()))).unwrap();
    }

    fn trailers() -> HeaderMap {
        HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("t"))])
    }

    const fn open(bytes: usize) -> BodySeen {
        BodySeen::Open { bytes }
    }

    /// Reads as far as there is something; whether that was all of it.
    fn read<B>(kept: &mut Kept<B>, most: usize, room: &Room) -> bool
    where
        B: Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        kept.read(most, room).now_or_never().is_some()
    }

    async fn replayed(kept: Kept<Fed>) -> (Bytes, Option<HeaderMap>) {
        let all = kept.collect().await.unwrap();
        let trailers = all.trailers().cloned();
        (all.to_bytes(), trailers)
    }

    #[tokio::test]
    async fn what_was_read_is_given_again_before_the_rest() {
        let ((frames, mut kept), room) = (fed(), Room::default());
        assert_eq!(kept.seen(9), open(0));
        data(&frames, "ab");
        assert!(!read(&mut kept, 9, &room));
        data(&frames, "cd");
        assert!(!read(&mut kept, 9, &room));
        assert_eq!((kept.seen(9), room.0.get()), (open(4), 4));
        assert_eq!(kept.size_hint().lower(), 4);
        assert!(!kept.is_end_stream());
        data(&frames, "ef");
        frames
            .unbounded_send(Ok(Frame::trailers(trailers())))
            .unwrap();
        drop(frames);
        assert_eq!(replayed(kept).await, ("abcdef".into(), Some(trailers())));
        assert_eq!(room.0.get(), 0);
    }

    #[tokio::test]
    async fn a_whole_body_is_given_again_with_its_trailers() {
        for with in [None, Some(trailers())] {
            let ((frames, mut kept), room) = (fed(), Room::default());
            data(&frames, "abc");
            if let Some(trailers) = with.clone() {
                frames
                    .unbounded_send(Ok(Frame::trailers(trailers)))
                    .unwrap();
            }
            drop(frames);
            assert!(read(&mut kept, 9, &room));
            let complete = BodySeen::Complete {
                bytes: 3,
                trailers: with.is_some(),
            };
            assert_eq!(kept.seen(9), complete);
            assert_eq!(replayed(kept).await, ("abc".into(), with));
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_read_further() {
        let ((frames, mut kept), room) = (fed(), Room::default());
        for _ in 0..9 {
            data(&frames, "abc");
        }
        drop(frames);
        assert!(read(&mut kept, 5, &room));
        assert_eq!((kept.seen(5), room.0.get()), (BodySeen::TooLarge, 6));
        assert_eq!(replayed(kept).await.0, "abc".repeat(9));
        // Nor is one read that says so beforehand.
        assert_eq!(
            Kept::new(Full::<Bytes>::from("abcdef")).seen(5),
            BodySeen::TooLarge
        );
    }

    #[tokio::test]
    async fn a_worker_keeps_no_more_than_it_has_room_for() {
        let room = Room::default();
        let mut others = Share::new(&room);
        assert!(others.take(MOST_BYTES - 2));
        let (frames, mut kept) = fed();
        data(&frames, "abc");
        drop(frames);
        assert!(read(&mut kept, 9, &room));
        assert_eq!(kept.seen(9), BodySeen::TooLarge);
        drop(others);
        assert_eq!(room.0.get(), 3);
        assert_eq!(replayed(kept).await.0, "abc");
        assert_eq!(room.0.get(), 0);
    }

    #[tokio::test]
    async fn lengths_are_those_of_the_whole() {
        let room = Room::default();
        let mut kept = Kept::new(Full::<Bytes>::from("abc"));
        assert_eq!((kept.seen(9), kept.size_hint().exact()), (open(0), Some(3)));
        assert!(read(&mut kept, 9, &room));
        assert_eq!(kept.size_hint().exact(), Some(3));
        assert!(!kept.is_end_stream());
        kept.frame().await.unwrap().unwrap();
        assert!(kept.is_end_stream());
        assert!(kept.frame().await.is_none());
        // One that is nothing but its end.
        let none = Kept::new(Empty::<Bytes>::new());
        assert_eq!(
            (none.seen(9), none.is_end_stream()),
            (BodySeen::Empty, true)
        );
        let (frames, mut kept) = fed();
        drop(frames);
        assert!(read(&mut kept, 9, &room));
        let complete = BodySeen::Complete {
            bytes: 0,
            trailers: false,
        };
        assert_eq!(kept.seen(9), complete);
        assert!(kept.into_data_stream().next().await.is_none());
    }
}
