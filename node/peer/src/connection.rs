//! One connection to one peer: the handshake on a fresh socket, then the session until it ends.
//!
//! A session is a reader and a writer on one socket, driven by one task. The writer drains the
//! peer's queue in batches, one system call each, and pings once per interval; the reader gives
//! messages to the handler. Any byte from the peer proves it alive; silence longer than the bound
//! ends the session (fault N7), and so does a peer that lets our bytes stand still that long.
//!
//! Promises: `connected` before the first message, `disconnected` after the last, once each, even
//! when the task is dropped or the handler panics. Bytes that fail a check end the session.
//!
//! Must never know: how the socket came about, what to do next (that is `link`). Reads the clock
//! through tokio. Tested by `node/peer/tests/peer/`.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    task::yield_now,
    time::{Instant, timeout, timeout_at},
};

use super::{
    about,
    frame::{
        self, CONTROL_BYTES_MAX, Frame, FrameError, HEADER_BYTES, Kind, MESSAGE_BYTES_MAX, Taken,
    },
    handshake::{self, Dial, HandshakeError, Hello, Purpose, Refusal},
    link::Peer,
    net::Context,
    queue::{Batch, Idle},
    stats::add,
};

/// Room for one read, in bytes; a frame that needs more gets more.
const READ_BYTES: usize = 64 * 1024;

/// After this many reads in a row the reader lets the writer and the other peers have a turn.
const READS_PER_TURN: u32 = 8;
/// How long a session that said goodbye waits for its peer to close.
const LINGER_MAX: Duration = Duration::from_millis(250);

/// I/O vectors per write.
const SLICES_MAX: usize = 32;

/// [`Kind::Goodbye`]: the sender is shutting down.
const GOODBYE_STOPPING: u64 = 1;

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("no address given for it")]
    NoAddress,
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("cannot connect to {address}: {source}")]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("no answer from {0}")]
    NoAnswer(SocketAddr),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("handshake not finished in time")]
    HandshakeTimeout,
    #[error("closed by the peer")]
    Closed,
    #[error("the peer is shutting down")]
    Goodbye,
    #[error("refused by the peer: {0}")]
    Refused(Refusal),
    #[error("silent for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("took no bytes for {} ms", .0.as_millis())]
    Stalled(Duration),
    #[error("bad frame: {0}")]
    Frame(#[from] FrameError),
    #[error("frame {0:?} is out of place")]
    OutOfPlace(Kind),
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    #[error("replaced by a newer connection of the same peer")]
    Replaced,
    #[error("the message handler panicked")]
    HandlerPanicked,
    #[error("this node is shutting down")]
    Stopped,
}

/// A socket past its handshake. The buffer holds what was read beyond it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) buffer: BytesMut,
    pub(super) hello: Hello,
    /// Where the peer's clients reach it, if it told.
    pub(super) client_urls: Option<Vec<String>>,
}

/// Dials one address and shakes hands with node `to`.
pub(super) async fn dial(
    context: &Context,
    address: SocketAddr,
    to: u64,
    purpose: Purpose,
) -> Result<Connection, End> {
    let mut stream = timeout(context.timing.connect_max, TcpStream::connect(address))
        .await
        .map_err(|_| End::NoAnswer(address))?
        .map_err(|source| End::Connect { address, source })?;
    let talk = async {
        stream.set_nodelay(true)?;
        let (dial, first) = Dial::start(context.local, to, purpose);
        write_frame(&mut stream, &about::tell(first, &context.client_urls)).await?;
        let mut buffer = BytesMut::with_capacity(HEADER_BYTES + CONTROL_BYTES_MAX);
        let answer = read_frame(&mut stream, &mut buffer).await?;
        match dial.answer(&answer) {
            Ok(hello) => Ok((buffer, hello, about::client_urls(&answer))),
            Err(error) => {
                if let Some(frame) = error.answer() {
                    write_frame(&mut stream, &frame).await?;
                }
                Err(End::Handshake(error))
            }
        }
    };
    let (buffer, hello, client_urls) = timeout(context.timing.handshake_max, talk)
        .await
        .map_err(|_| End::HandshakeTimeout)??;
    Ok(Connection {
        stream,
        buffer,
        hello,
        client_urls,
    })
}

/// Shakes hands with a caller; it gets its answer before this returns.
pub(super) async fn welcome(context: &Context, mut stream: TcpStream) -> Result<Connection, End> {
    let talk = async {
        stream.set_nodelay(true)?;
        let mut buffer = BytesMut::with_capacity(HEADER_BYTES + CONTROL_BYTES_MAX);
        let first = read_frame(&mut stream, &mut buffer).await?;
        let known = |id| context.peer(id).is_some();
        match handshake::accept(context.local, known, &first) {
            Ok((hello, answer)) => {
                write_frame(&mut stream, &about::tell(answer, &context.client_urls)).await?;
                Ok((buffer, hello, about::client_urls(&first)))
            }
            Err(error) => {
                if let Some(frame) = error.answer() {
                    write_frame(&mut stream, &frame).await?;
                }
                Err(End::Handshake(error))
            }
        }
    };
    let (buffer, hello, client_urls) = timeout(context.timing.handshake_max, talk)
        .await
        .map_err(|_| End::HandshakeTimeout)??;
    Ok(Connection {
        stream,
        buffer,
        hello,
        client_urls,
    })
}

async fn write_frame(stream: &mut TcpStream, frame: &Frame) -> Result<(), End> {
    let bytes = frame::encode(frame.kind, &frame.payload)?;
    Ok(stream.write_all(&bytes).await?)
}

/// Reads the one frame of a handshake; a stranger can make us hold a kilobyte, not more.
async fn read_frame(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<Frame, End> {
    loop {
        match frame::take(buffer, CONTROL_BYTES_MAX)? {
            Taken::Frame(frame) => return Ok(frame),
            Taken::Need(more) => buffer.reserve(more),
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(End::Closed);
        }
    }
}

/// Runs a session until it ends by itself or `cut` says so; returns why.
pub(super) async fn run(
    context: &Context,
    peer: &Peer,
    connection: Connection,
    cut: impl Future<Output = End>,
) -> End {
    let Connection {
        mut stream,
        buffer,
        hello: _,
        client_urls,
    } = connection;
    if let Some(urls) = client_urls {
        context.tell(|handler| handler.introduced(peer.id, &urls));
    }
    let mut announced = Announced::new(context, peer);
    let ping = Ping::default();
    let (reader, writer) = stream.split();
    let end = tokio::select! {
        biased;
        end = cut => end,
        end = read(context, peer, reader, buffer, &ping) => end,
        end = write(context, peer, writer, &ping) => end,
    };
    announced.why = end.to_string();
    drop(announced);
    if matches!(end, End::Stopped) {
        let _ = timeout(LINGER_MAX, hear_out(&mut stream)).await;
    }
    end
}

/// Says that nothing more will be said, and reads on until the peer has closed its side. A socket that is
/// closed with something unread in it is reset, and the reset takes along what the peer has not read yet: the
/// last messages and the goodbye.
async fn hear_out(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut nobody_wants_it = BytesMut::with_capacity(READ_BYTES);
    while stream.read_buf(&mut nobody_wants_it).await? > 0 {
        nobody_wants_it.clear();
    }
    Ok(())
}

/// Between `connected` and `disconnected`; dropping it says the latter, whatever ends the session.
struct Announced<'a> {
    context: &'a Context,
    peer: &'a Peer,
    why: String,
}

impl<'a> Announced<'a> {
    fn new(context: &'a Context, peer: &'a Peer) -> Announced<'a> {
        // Messages are taken before the handler hears of it, so that it can answer with some.
        peer.queue.connect();
        add(&peer.counters.sessions, 1);
        context.tell(|handler| handler.connected(peer.id));
        Announced {
            context,
            peer,
            why: "dropped".to_owned(),
        }
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let dropped = self.peer.queue.disconnect();
        add(&self.peer.counters.dropped_frames, dropped as u64);
        self.context
            .tell(|handler| handler.disconnected(self.peer.id, &self.why));
    }
}

/// The ping under way: its number is the time it left, in microseconds since the start. And whether one of
/// this session was answered.
#[derive(Debug, Default)]
struct Ping(AtomicU64, AtomicBool);

async fn read(
    context: &Context,
    peer: &Peer,
    mut reader: ReadHalf<'_>,
    mut buffer: BytesMut,
    ping: &Ping,
) -> End {
    let silence_max = context.timing.silence_max;
    let mut reads = 0_u32;
    loop {
        let needed = match take_all(context, peer, &mut buffer, ping) {
            Ok(needed) => needed,
            Err(end) => return end,
        };
        // A large frame gets its room at once: growing step by step would copy it again and again.
        if buffer.capacity() - buffer.len() < needed.max(READ_BYTES / 4) {
            buffer.reserve(needed.max(READ_BYTES));
        }
        match timeout(silence_max, reader.read_buf(&mut buffer)).await {
            Err(_) => return End::Silent(silence_max),
            Ok(Err(error)) => return End::Io(error),
            Ok(Ok(0)) => return End::Closed,
            Ok(Ok(bytes)) => add(&peer.counters.received_bytes, bytes as u64),
        }
        reads += 1;
        if reads.is_multiple_of(READS_PER_TURN) {
            yield_now().await;
        }
    }
}

/// Handles every whole frame in the buffer; returns how many bytes the next one still lacks.
fn take_all(
    context: &Context,
    peer: &Peer,
    buffer: &mut BytesMut,
    ping: &Ping,
) -> Result<usize, End> {
    loop {
        let frame = match frame::take(buffer, MESSAGE_BYTES_MAX)? {
            Taken::Frame(frame) => frame,
            Taken::Need(more) => return Ok(more),
        };
        add(&peer.counters.received_frames, 1);
        match frame.kind {
            Kind::Message => {
                if !context.tell(|handler| handler.message(peer.id, frame.payload)) {
                    return Err(End::HandlerPanicked);
                }
            }
            Kind::Ping => peer.queue.pong(number(&frame)?),
            Kind::Pong => {
                let number = number(&frame)?;
                // Only an answer to the ping under way says something about time.
                if number != 0 && ping.0.swap(0, Relaxed) == number {
                    let rtt_us = context.now_us().saturating_sub(number);
                    peer.counters
                        .rtt_us_plus_one
                        .store(rtt_us.saturating_add(1), Relaxed);
                    let rtt = Duration::from_micros(rtt_us);
                    context.tell(|handler| handler.round_trip(peer.id, rtt));
                    if !ping.1.swap(true, Relaxed) {
                        context.tell(|handler| handler.answered(peer.id, rtt));
                    }
                }
            }
            Kind::Goodbye if number(&frame)? == GOODBYE_STOPPING => return Err(End::Goodbye),
            Kind::Goodbye => return Err(End::Closed),
            Kind::Refuse => return Err(End::Refused(Refusal::decode(&frame.payload)?)),
            Kind::Hello => return Err(End::OutOfPlace(Kind::Hello)),
        }
    }
}

/// The one number of a ping, pong or goodbye.
fn number(frame: &Frame) -> Result<u64, End> {
    match frame.payload.first_chunk() {
        Some(bytes) => Ok(u64::from_le_bytes(*bytes)),
        None => Err(End::OutOfPlace(frame.kind)),
    }
}

async fn write(context: &Context, peer: &Peer, mut writer: WriteHalf<'_>, ping: &Ping) -> End {
    let mut batch = Batch::default();
    let mut next_ping = Instant::now(); // at once: the first round trip proves the path
    loop {
        let now = Instant::now();
        if now >= next_ping {
            next_ping = now + context.timing.ping_every;
            let number = context.now_us().max(1);
            ping.0.store(number, Relaxed);
            batch.push(Kind::Ping, Bytes::copy_from_slice(&number.to_le_bytes()));
        }
        let idle = peer.queue.fill(&mut batch);
        if batch.is_empty() {
            match idle {
                Idle::Close => return say_goodbye(context, peer, &mut writer).await,
                // Elapsed or woken: both lead round the loop.
                Idle::Wait => drop(timeout_at(next_ping, peer.queue.ready()).await),
            }
            continue;
        }
        if let Err(end) = write_batch(context, peer, &mut writer, &mut batch).await {
            return end;
        }
    }
}

async fn write_batch(
    context: &Context,
    peer: &Peer,
    writer: &mut WriteHalf<'_>,
    batch: &mut Batch,
) -> Result<(), End> {
    let stall_max = context.timing.silence_max;
    batch.seal();
    add(&peer.counters.sent_frames, batch.take_frames());
    while !batch.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = batch.slices(&mut slices);
        let written = timeout(stall_max, writer.write_vectored(&slices[..used]))
            .await
            .map_err(|_| End::Stalled(stall_max))??;
        if written == 0 {
            return Err(End::Closed);
        }
        add(&peer.counters.sent_bytes, written as u64);
        batch.advance(written);
    }
    peer.queue.written(batch);
    Ok(())
}

async fn say_goodbye(context: &Context, peer: &Peer, writer: &mut WriteHalf<'_>) -> End {
    let mut batch = Batch::default();
    batch.push(
        Kind::Goodbye,
        Bytes::copy_from_slice(&GOODBYE_STOPPING.to_le_bytes()),
    );
    match write_batch(context, peer, writer, &mut batch).await {
        Ok(()) => End::Stopped,
        Err(end) => end,
    }
}
