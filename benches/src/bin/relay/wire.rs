//! As much of HTTP/2 as two ends need that know what they will be told: frames, flow control, header blocks without
//! decoding them. It is meant to be cheap, so that what is measured is the relay between them.

mod block;

use std::collections::VecDeque;

use anyhow::{Result, bail, ensure};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub(crate) use block::{Block, is_ok};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// What is read at once, at the most.
const INPUT: usize = 256 << 10;
/// The longest frame every peer takes.
const FRAME: usize = 16 << 10;
const WINDOW: i64 = 65_535;
const WINDOW_MOST: u32 = (1 << 31) - 1;
/// After so many bytes the peer is told that it may send as many more.
const TOP_UP: u32 = 64 << 20;

/// A frame that came, its payload still in the buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    flags: u8,
    pub(crate) stream: u32,
    begin: usize,
    end: usize,
}

impl Frame {
    pub(crate) fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }
}

/// A body on its way out.
#[derive(Debug)]
struct Sending {
    stream: u32,
    at: usize,
    window: i64,
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
    at: usize,
    filled: usize,
    out: Vec<u8>,
    body: Vec<u8>,
    sending: VecDeque<Sending>,
    window: i64,
    stream_window: i64,
    received: u32,
    /// Whether a header block went out: what it said to remember can be referred to.
    told: bool,
}

impl Wire {
    /// `body`: what each message sent has for a body.
    pub(crate) fn new(stream: TcpStream, body: Vec<u8>) -> Self {
        let mut wire = Self {
            stream,
            input: vec![0; INPUT],
            at: 0,
            filled: 0,
            out: Vec::with_capacity(INPUT),
            body,
            sending: VecDeque::new(),
            window: WINDOW,
            stream_window: WINDOW,
            received: 0,
            told: false,
        };
        let mut settings = Vec::new();
        for (id, value) in [(3_u16, 1000_u32), (4, WINDOW_MOST)] {
            settings.extend(id.to_be_bytes());
            settings.extend(value.to_be_bytes());
        }
        wire.frame_out(SETTINGS, 0, 0, &settings);
        wire.grant(WINDOW_MOST - 65_535);
        wire
    }

    /// Puts the client's preface before all else.
    pub(crate) fn preface(&mut self) {
        self.out.splice(0..0, PREFACE.iter().copied());
    }

    /// Skips the client's preface.
    pub(crate) async fn expect_preface(&mut self) -> Result<bool> {
        while self.filled < PREFACE.len() {
            if !self.read().await? {
                return Ok(false);
            }
        }
        ensure!(self.input.starts_with(PREFACE), "no HTTP/2 preface");
        self.at = PREFACE.len();
        Ok(true)
    }

    /// Sends a message: its head now, its body as the peer takes it.
    pub(crate) fn send(&mut self, stream: u32, head: &Block) {
        let end = if self.body.is_empty() { END_STREAM } else { 0 };
        let block = if self.told { &head.later } else { &head.first };
        frame(&mut self.out, HEADERS, END_HEADERS | end, stream, block);
        self.told = true;
        if !self.body.is_empty() {
            let window = self.stream_window;
            self.sending.push_back(Sending {
                stream,
                at: 0,
                window,
            });
        }
    }

    /// Writes what there is to write.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        self.fill_frames();
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Waits for bytes. `false`: there are no more.
    pub(crate) async fn read(&mut self) -> Result<bool> {
        use tokio::io::AsyncReadExt;
        if self.at == self.filled {
            (self.at, self.filled) = (0, 0);
        } else if self.at > 0 {
            self.input.copy_within(self.at..self.filled, 0);
            (self.at, self.filled) = (0, self.filled - self.at);
        }
        let read = self.stream.read(&mut self.input[self.filled..]).await?;
        self.filled += read;
        Ok(read > 0)
    }

    /// The next head or piece of a body among the bytes that came. Answers itself what is the connection's.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>> {
        while let Some(frame) = self.parse() {
            ensure!(frame.flags & PADDED == 0 || frame.kind > HEADERS, "padding");
            match frame.kind {
                DATA => {
                    self.received += u32::try_from(frame.end - frame.begin)?;
                    if self.received >= TOP_UP {
                        let received = std::mem::take(&mut self.received);
                        self.grant(received);
                    }
                    return Ok(Some(frame));
                }
                HEADERS => {
                    ensure!(frame.flags & END_HEADERS != 0, "a head in several frames");
                    return Ok(Some(frame));
                }
                RST_STREAM => bail!("stream {} was reset", frame.stream),
                GOAWAY => bail!("the peer ends the connection"),
                SETTINGS if frame.flags & ACK == 0 => self.settings(frame),
                PING if frame.flags & ACK == 0 => {
                    let payload = self.payload(frame).to_vec();
                    self.frame_out(PING, ACK, 0, &payload);
                }
                WINDOW_UPDATE => self.granted(frame),
                _ => {}
            }
        }
        Ok(None)
    }

    pub(crate) fn payload(&self, frame: Frame) -> &[u8] {
        &self.input[frame.begin..frame.end]
    }

    fn parse(&mut self) -> Option<Frame> {
        let head = self.input[self.at..self.filled].first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let begin = self.at + head.len();
        let frame = Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
            begin,
            end: begin + length,
        };
        if frame.end > self.filled {
            return None;
        }
        self.at = frame.end;
        Some(frame)
    }

    fn settings(&mut self, frame: Frame) {
        let mut initial = None;
        for setting in self.payload(frame).chunks_exact(6) {
            if setting[..2] == [0, 4] {
                let value = [setting[2], setting[3], setting[4], setting[5]];
                initial = Some(i64::from(u32::from_be_bytes(value)));
            }
        }
        if let Some(initial) = initial {
            let more = initial - self.stream_window;
            self.stream_window = initial;
            for sending in &mut self.sending {
                sending.window += more;
            }
        }
        self.frame_out(SETTINGS, ACK, 0, &[]);
    }

    fn granted(&mut self, frame: Frame) {
        let Some(more) = self.payload(frame).first_chunk::<4>() else {
            return;
        };
        let more = i64::from(u32::from_be_bytes(*more) & WINDOW_MOST);
        if frame.stream == 0 {
            self.window += more;
            return;
        }
        let mut all = self.sending.iter_mut();
        if let Some(sending) = all.find(|sending| sending.stream == frame.stream) {
            sending.window += more;
        }
    }

    fn grant(&mut self, more: u32) {
        self.frame_out(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
    }

    /// Makes frames of bodies as far as the peer takes them, in the order in which they were begun.
    fn fill_frames(&mut self) {
        for sending in &mut self.sending {
            while sending.at < self.body.len() {
                let left = &self.body[sending.at..];
                let most = usize::try_from(self.window.min(sending.window)).unwrap_or(0);
                let length = left.len().min(FRAME).min(most);
                if length == 0 {
                    break;
                }
                let end = u8::from(length == left.len()) * END_STREAM;
                frame(&mut self.out, DATA, end, sending.stream, &left[..length]);
                sending.at += length;
                let sent = i64::try_from(length).unwrap_or(0);
                sending.window -= sent;
                self.window -= sent;
            }
        }
        let length = self.body.len();
        self.sending.retain(|sending| sending.at < length);
    }

    fn frame_out(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        frame(&mut self.out, kind, flags, stream, payload);
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.extend(&length[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}
