//! What HTTP/2 needs on both sides: tasks on this thread, and how much a peer may have under way.

/// Runs hyper's tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExec;

impl<F> hyper::rt::Executor<F> for LocalExec
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Settings of HTTP/2 connections, the same towards callers and servers.
pub(crate) mod http2 {
    use std::time::Duration;

    /// Bytes a peer may send on a stream before it must wait for us: more than the usual large body of
    /// 64 KiB, which else would wait for a word of ours in its midst.
    pub(crate) const STREAM_WINDOW: u32 = 128 << 10;
    /// Room for all streams of a connection at once, so that none that stalls can stall another.
    pub(crate) const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;
    /// Bytes of a stream that wait in memory to be written.
    pub(crate) const SEND_BUFFER: usize = 256 << 10;
    /// Bytes of an answer's headers.
    pub(crate) const HEADER_LIST: u32 = 64 << 10;
    /// Streams a caller may have open on one connection; to a server there are no more than that either.
    pub(crate) const STREAMS: u32 = 1000;
    /// Silence after which a peer is asked whether it is there, while streams are open.
    pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
    /// How long it may take to say so.
    pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
}
