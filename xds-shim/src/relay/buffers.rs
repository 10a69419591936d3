//! Buffers for istiod's large messages, used again: tens of megabytes of fresh memory for each push are a third of what a push
//! takes, all of it the kernel's. None stays for long when there are no pushes.

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Smaller messages have buffers of their own.
pub(super) const LARGE: usize = 1 << 20;
/// So many are kept: streams take in their messages on as many cores.
const MOST: usize = 8;
/// One that is larger is not kept.
const MOST_BYTES: usize = 64 << 20;
/// How long one is kept that nobody uses.
const KEPT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default, Clone)]
pub struct Buffers(Arc<Mutex<Vec<(BytesMut, Instant)>>>);

impl Buffers {
    /// An empty one for so many bytes, if one is kept: the one that was used last.
    pub(super) fn take(&self, bytes: usize) -> Option<BytesMut> {
        let mut kept = self.0.lock();
        let last = kept.iter_mut().rev();
        let at = last
            .enumerate()
            .find_map(|(at, (one, _))| one.try_reclaim(bytes).then_some(at))?;
        let at = kept.len() - 1 - at;
        Some(kept.remove(at).0)
    }

    /// Keeps the buffer of a message, unless somebody still has a part of it.
    pub(super) fn give_back(&self, message: Bytes, now: Instant) {
        if message.len() < LARGE {
            return;
        }
        let Ok(mut buffer) = message.try_into_mut() else {
            return;
        };
        buffer.clear();
        let mut kept = self.0.lock();
        if kept.len() < MOST && (LARGE..=MOST_BYTES).contains(&buffer.capacity()) {
            kept.push((buffer, now));
        }
    }

    /// Lets go of what a stream that ended leaves behind: nobody may be left to tidy.
    pub(super) async fn tidy_later(self) {
        tokio::time::sleep(KEPT).await;
        self.tidy(Instant::now());
    }

    /// Lets go of those that nobody used for a while. To be called now and then.
    pub(super) fn tidy(&self, now: Instant) {
        let mut kept = self.0.lock();
        kept.retain(|(_, since)| now.saturating_duration_since(*since) < KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Bytes {
        BytesMut::zeroed(bytes).freeze()
    }

    #[test]
    fn a_buffer_is_used_again_when_it_is_large_enough() {
        let (buffers, now) = (Buffers::default(), Instant::now());
        let large = message(3 * LARGE);
        let place = large.as_ptr();
        buffers.give_back(large, now);
        assert!(buffers.take(4 * LARGE).is_none());
        let mut again = buffers.take(2 * LARGE).unwrap();
        assert!(again.is_empty() && again.capacity() >= 2 * LARGE);
        again.extend_from_slice(b"x");
        assert_eq!(again.as_ptr(), place);
        assert!(buffers.take(LARGE).is_none(), "it is in use");
    }

    #[test]
    fn none_is_kept_that_is_small_or_huge_or_in_use_or_too_many_or_old() {
        let (buffers, now) = (Buffers::default(), Instant::now());
        buffers.give_back(message(LARGE - 1), now);
        buffers.give_back(message(MOST_BYTES + 1), now);
        let shared = message(LARGE);
        let part = shared.slice(..5);
        buffers.give_back(shared, now);
        assert_eq!((part.len(), buffers.0.lock().len()), (5, 0));
        for _ in 0..2 * MOST {
            buffers.give_back(message(LARGE), now);
        }
        assert_eq!(buffers.0.lock().len(), MOST);
        buffers.give_back(buffers.take(LARGE).unwrap().freeze(), now);
        buffers.tidy(now + KEPT / 2);
        assert_eq!(
            buffers.0.lock().len(),
            MOST - 1,
            "an empty one is no message"
        );
        buffers.tidy(now + KEPT);
        assert!(buffers.take(LARGE).is_none());
    }
}
