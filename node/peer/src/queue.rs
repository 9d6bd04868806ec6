//! The queue of one peer: what is to be sent, bounded in bytes, in three lanes.
//!
//! Senders push from any thread and never wait; one writer takes batches. Bytes count against the
//! bound until they are written to the socket, so a peer that does not read costs at most the
//! bound. Urgent frames overtake all bulk frames that are not yet in a batch, and a batch ends
//! with the bulk frame that fills it: an urgent frame waits behind one bulk write at most. Snapshot frames go
//! one at a time, and only while nothing else waits.
//!
//! Promises: a frame is in the queue, in the writer's batch, or dropped with the connection
//! (raft sends again); nothing of an old connection appears on a new one.
//!
//! Must never know: sockets and clocks. Tested below.

use std::{
    collections::VecDeque,
    io::IoSlice,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::sync::Notify;

use super::frame::{self, Kind, MESSAGE_BYTES_MAX};

/// Bound of the urgent lane, in bytes: heartbeats of 10,000 groups fit, a lost habit does not.
pub(super) const URGENT_BYTES_MAX: usize = 1024 * 1024;

/// Bound of the snapshot lane, in bytes: a few chunks, so that the next is there when one is written.
const SNAPSHOT_BYTES_MAX: usize = 1024 * 1024;

/// A batch takes no further bulk frame from here on, in bytes.
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// What a frame costs beside its payload, in bytes: header, handle, slot. Without it a bound in
/// bytes would not bound empty frames.
const FRAME_COST: usize = 64;

/// Payloads up to this long are copied next to their header: a copy of 16 KiB is cheaper than an
/// extra I/O vector for the kernel to walk.
const COPY_BYTES_MAX: usize = 16 * 1024;

/// Why a message was not taken. The caller keeps nothing queued; raft will send again.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The peer does not take its messages fast enough; wait for some to drain.
    #[error("queue to the peer is full: {queued} bytes wait, at most {max} may")]
    Full {
        /// Bytes queued or being written in this lane.
        queued: usize,
        /// Bound of the lane.
        max: usize,
    },
    /// There is no connection at the moment; the transport is trying.
    #[error("not connected to the peer")]
    NotConnected,
    /// Longer than any message may be: the caller's mistake, send it in pieces.
    #[error("message of {bytes} bytes, at most {max} allowed")]
    TooLong {
        /// Length of the message.
        bytes: usize,
        /// [`MESSAGE_BYTES_MAX`].
        max: usize,
    },
    /// Not a member of the configured cluster, or this node itself.
    #[error("unknown peer")]
    UnknownPeer,
}

/// Frames on their way to one peer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Debug)]
struct State {
    connected: bool,
    closing: bool,
    /// The number of the last ping: one slot, so that a flood of pings cannot queue pongs.
    pong: Option<u64>,
    /// By [`Lane`].
    lanes: [Waiting; Lane::ALL.len()],
}

/// Which frames overtake which. Each lane has a bound of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What raft's timers wait for: heartbeats, votes.
    Urgent,
    /// Everything that groups say beside that.
    Bulk,
    /// Pieces of images: they may wait for ever.
    Snapshot,
}

impl Lane {
    /// All of them, in the order in which they are served.
    pub const ALL: [Lane; 3] = [Lane::Urgent, Lane::Bulk, Lane::Snapshot];
}

#[derive(Debug)]
struct Waiting {
    frames: VecDeque<Bytes>,
    /// Cost of what is queued or in the writer's batch.
    bytes: usize,
    max: usize,
}

/// What the writer finds when a batch is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// More may come.
    Wait,
    /// Nothing more will come: say goodbye.
    Close,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Queue {
        let lane = |lane| Waiting {
            frames: VecDeque::new(),
            bytes: 0,
            max: match lane {
                Lane::Urgent => URGENT_BYTES_MAX,
                Lane::Bulk => bytes_max,
                Lane::Snapshot => SNAPSHOT_BYTES_MAX,
            },
        };
        Queue {
            state: Mutex::new(State {
                connected: false,
                closing: false,
                pong: None,
                lanes: Lane::ALL.map(lane),
            }),
            ready: Notify::new(),
        }
    }

    /// Queues a message.
    pub(super) fn push(&self, message: Bytes, lane: Lane) -> Result<(), SendError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLong {
                bytes: message.len(),
                max: MESSAGE_BYTES_MAX,
            });
        }
        let mut state = self.lock();
        if !state.connected || state.closing {
            return Err(SendError::NotConnected);
        }
        state.lanes[lane as usize].push(message)?;
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// Answers a ping as soon as the writer comes round.
    pub(super) fn pong(&self, number: u64) {
        self.lock().pong = Some(number);
        self.ready.notify_one();
    }

    /// From now on messages are taken.
    pub(super) fn connect(&self) {
        self.lock().connected = true;
    }

    /// From now on messages are refused; what was queued is dropped. Returns how many frames.
    pub(super) fn disconnect(&self) -> usize {
        let mut state = self.lock();
        state.connected = false;
        state.pong = None;
        state.lanes.iter_mut().map(Waiting::clear).sum()
    }

    /// From now on messages are refused; what is queued is still written.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.ready.notify_one();
    }

    pub(super) fn connected(&self) -> bool {
        self.lock().connected
    }

    /// Bytes queued or being written, in all lanes.
    pub(super) fn bytes(&self) -> usize {
        self.lock().lanes.iter().map(|lane| lane.bytes).sum()
    }

    /// Moves the next frames into `batch`; when there are none, says what to do.
    pub(super) fn fill(&self, batch: &mut Batch) -> Idle {
        let mut frames = mem::take(&mut batch.taken);
        let mut state = self.lock();
        let pong = state.pong.take();
        for lane in Lane::ALL {
            let mut bytes = 0;
            let waiting = &mut state.lanes[lane as usize].frames;
            let is_full = |bytes, frames: &[Bytes]| match lane {
                Lane::Urgent => false,
                Lane::Bulk => bytes >= BATCH_BYTES_MAX,
                Lane::Snapshot => !frames.is_empty(),
            };
            while !is_full(bytes, &frames) {
                let Some(message) = waiting.pop_front() else {
                    break;
                };
                bytes += cost(&message);
                frames.push(message);
            }
            batch.costs[lane as usize] += bytes;
        }
        let idle = if state.closing {
            Idle::Close
        } else {
            Idle::Wait
        };
        drop(state); // checksums and copies are made outside the lock
        if let Some(number) = pong {
            batch.push(Kind::Pong, Bytes::copy_from_slice(&number.to_le_bytes()));
        }
        for message in frames.drain(..) {
            batch.push(Kind::Message, message);
        }
        batch.taken = frames;
        idle
    }

    /// Gives back the room of a batch that is written.
    pub(super) fn written(&self, batch: &mut Batch) {
        let mut state = self.lock();
        let costs = mem::take(&mut batch.costs);
        for (lane, cost) in state.lanes.iter_mut().zip(costs) {
            lane.release(cost);
        }
    }

    /// Waits until something was pushed since the last wait.
    pub(super) async fn ready(&self) {
        self.ready.notified().await;
    }

    /// No code under this lock can panic, and the state is whole at each step: a poisoned lock is
    /// taken as it is.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// An empty lane takes any message, so that a small bound delays but never forbids.
    fn push(&mut self, message: Bytes) -> Result<(), SendError> {
        let after = self.bytes.saturating_add(cost(&message));
        if after > self.max && self.bytes > 0 {
            return Err(SendError::Full {
                queued: self.bytes,
                max: self.max,
            });
        }
        self.bytes = after;
        self.frames.push_back(message);
        Ok(())
    }

    fn release(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn clear(&mut self) -> usize {
        self.bytes = 0;
        mem::take(&mut self.frames).len()
    }
}

fn cost(message: &Bytes) -> usize {
    message.len() + FRAME_COST
}

/// Frames being written: headers and small payloads side by side, large payloads as they are.
#[derive(Debug, Default)]
pub(super) struct Batch {
    segments: VecDeque<Bytes>,
    tail: BytesMut,
    remaining: usize,
    frames: u64,
    /// Of what is in it, by [`Lane`].
    costs: [usize; Lane::ALL.len()],
    /// Kept for its capacity.
    taken: Vec<Bytes>,
}

impl Batch {
    /// Adds one frame. A payload beyond its kind's bound never gets here ([`Queue::push`]).
    pub(super) fn push(&mut self, kind: Kind, payload: Bytes) {
        let Ok(header) = frame::header(kind, &payload) else {
            return;
        };
        self.tail.put_slice(&header);
        if payload.len() <= COPY_BYTES_MAX {
            self.tail.put_slice(&payload);
        } else {
            self.segments.push_back(self.tail.split().freeze());
            self.segments.push_back(payload.clone());
        }
        self.remaining += header.len() + payload.len();
        self.frames += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    /// Frames pushed since the last call.
    pub(super) fn take_frames(&mut self) -> u64 {
        mem::take(&mut self.frames)
    }

    /// Closes the batch for writing: after this the slices cover all of it.
    pub(super) fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.segments.push_back(self.tail.split().freeze());
        }
    }

    /// Fills `slices` from the front; returns how many are used.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let used = slices.len().min(self.segments.len());
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = IoSlice::new(segment);
        }
        used
    }

    /// Forgets the first `bytes` of the sealed part.
    pub(super) fn advance(&mut self, mut bytes: usize) {
        while let Some(front) = self.segments.front_mut() {
            let step = bytes.min(front.len());
            front.advance(step);
            self.remaining -= step;
            bytes -= step;
            if !front.is_empty() {
                break;
            }
            self.segments.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Taken, take};

    fn open(bytes_max: usize) -> Queue {
        let queue = Queue::new(bytes_max);
        queue.connect();
        queue
    }

    fn message(length: usize, mark: u8) -> Bytes {
        Bytes::from(vec![mark; length])
    }

    /// Writes a batch out in odd pieces and reads the frames back: (kind, length, first byte).
    fn drain(batch: &mut Batch) -> Vec<(Kind, usize, u8)> {
        batch.seal();
        let mut wire = BytesMut::new();
        while !batch.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let used = batch.slices(&mut slices);
            let piece: Vec<u8> = slices[..used]
                .iter()
                .flat_map(|s| s.iter().copied())
                .collect();
            let written = piece.len().min(10_007);
            wire.extend_from_slice(&piece[..written]);
            batch.advance(written);
        }
        let mut seen = Vec::new();
        while let Ok(Taken::Frame(frame)) = take(&mut wire, MESSAGE_BYTES_MAX) {
            seen.push((
                frame.kind,
                frame.payload.len(),
                frame.payload.first().copied().unwrap_or(0),
            ));
        }
        assert!(wire.is_empty(), "whole frames only");
        seen
    }

    #[test]
    fn urgent_overtakes_and_a_batch_ends_with_the_frame_that_fills_it() {
        let queue = open(usize::MAX);
        for mark in 1..=4 {
            queue
                .push(message(200_000, mark), Lane::Bulk)
                .expect("room");
        }
        queue.push(message(10, 9), Lane::Urgent).expect("room");
        queue.pong(5);
        let mut batch = Batch::default();
        assert_eq!(queue.fill(&mut batch), Idle::Wait);
        let (pong, bulk) = ((Kind::Pong, 8, 5), |mark| (Kind::Message, 200_000, mark));
        assert_eq!(
            drain(&mut batch),
            [pong, (Kind::Message, 10, 9), bulk(1), bulk(2)]
        );
        queue.push(message(10, 8), Lane::Urgent).expect("room");
        queue.fill(&mut batch);
        assert_eq!(
            drain(&mut batch),
            [(Kind::Message, 10, 8), bulk(3), bulk(4)]
        );
    }

    #[test]
    fn small_and_large_frames_keep_their_order_in_a_batch() {
        let queue = open(usize::MAX);
        let lengths = [0, 1, COPY_BYTES_MAX, COPY_BYTES_MAX + 1, 3, 70_000, 2];
        for (mark, length) in (1..).zip(lengths) {
            queue.push(message(length, mark), Lane::Bulk).expect("room");
        }
        let mut batch = Batch::default();
        queue.fill(&mut batch);
        assert_eq!(batch.take_frames(), 7);
        let seen: Vec<_> = drain(&mut batch).iter().map(|frame| frame.1).collect();
        assert_eq!(seen, lengths);
    }

    /// N8: bytes count until they are written, and each lane has its own bound.
    #[test]
    fn a_peer_that_does_not_read_costs_at_most_the_bound() {
        let queue = open(10_000);
        let mut taken = 0;
        while queue.push(message(936, 1), Lane::Bulk).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 10);
        let full = Err(SendError::Full {
            queued: 10_000,
            max: 10_000,
        });
        assert_eq!(
            queue.push(Bytes::new(), Lane::Bulk),
            full,
            "an empty frame costs too"
        );
        let mut batch = Batch::default();
        queue.fill(&mut batch);
        assert_eq!(
            queue.push(message(1, 1), Lane::Bulk),
            full,
            "being written is not written"
        );
        queue
            .push(message(1, 1), Lane::Urgent)
            .expect("its own bound");
        queue.written(&mut batch);
        queue.push(message(1, 1), Lane::Bulk).expect("room again");
        let mut urgent = 0;
        while queue.push(message(4_096, 1), Lane::Urgent).is_ok() {
            urgent += 4_096;
        }
        assert!(urgent < URGENT_BYTES_MAX && queue.bytes() < URGENT_BYTES_MAX + 10_000);
    }

    #[test]
    fn an_empty_lane_takes_one_message_above_its_bound() {
        let queue = open(100);
        queue.push(message(5_000, 1), Lane::Bulk).expect("alone");
        assert!(matches!(
            queue.push(message(1, 1), Lane::Bulk),
            Err(SendError::Full { .. })
        ));
        let bytes = MESSAGE_BYTES_MAX + 1;
        assert_eq!(
            queue.push(message(bytes, 1), Lane::Bulk),
            Err(SendError::TooLong {
                bytes,
                max: MESSAGE_BYTES_MAX
            })
        );
    }

    #[test]
    fn nothing_of_an_old_connection_reaches_a_new_one() {
        let queue = Queue::new(10_000);
        assert_eq!(
            queue.push(message(1, 1), Lane::Bulk),
            Err(SendError::NotConnected)
        );
        queue.connect();
        queue.push(message(1, 1), Lane::Bulk).expect("room");
        queue.push(message(1, 1), Lane::Urgent).expect("room");
        queue.pong(1);
        assert_eq!(queue.disconnect(), 2);
        assert_eq!((queue.bytes(), queue.connected()), (0, false));
        queue.connect();
        let mut batch = Batch::default();
        queue.fill(&mut batch);
        assert!(batch.is_empty());
    }

    #[test]
    fn closing_writes_what_is_queued_and_takes_no_more() {
        let queue = open(10_000);
        queue.push(message(3, 1), Lane::Bulk).expect("room");
        queue.close();
        assert_eq!(
            queue.push(message(1, 1), Lane::Bulk),
            Err(SendError::NotConnected)
        );
        let mut batch = Batch::default();
        assert_eq!(queue.fill(&mut batch), Idle::Close);
        assert_eq!(drain(&mut batch), [(Kind::Message, 3, 1)]);
    }

    #[test]
    fn pieces_of_images_wait_for_everything_else_and_go_one_at_a_time() {
        let queue = open(usize::MAX);
        for mark in [1, 2] {
            queue
                .push(message(9_000, mark), Lane::Snapshot)
                .expect("room");
        }
        queue.push(message(10, 3), Lane::Bulk).expect("room");
        let mut batch = Batch::default();
        let mut next = || {
            queue.fill(&mut batch);
            let seen = drain(&mut batch);
            queue.written(&mut batch);
            seen
        };
        assert_eq!(next(), [(Kind::Message, 10, 3)]);
        assert_eq!(next(), [(Kind::Message, 9_000, 1)]);
        queue.push(message(10, 4), Lane::Urgent).expect("room");
        assert_eq!(next(), [(Kind::Message, 10, 4)]);
        assert_eq!(next(), [(Kind::Message, 9_000, 2)]);
        assert_eq!((next().len(), queue.bytes()), (0, 0));
        while queue.push(message(100_000, 5), Lane::Snapshot).is_ok() {}
        assert!(queue.bytes() <= SNAPSHOT_BYTES_MAX);
    }
}
