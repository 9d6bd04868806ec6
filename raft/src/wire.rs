//! Messages as bytes.
//!
//! Promises: `decode(encode(m)) == m`; decoding any bytes gives messages or an error, never a panic,
//! and allocates no more than a small multiple of the input's length; payloads are slices of the input
//! and not copied. Several messages can follow each other in one buffer: each says how long it is.
//! Must never know: sockets, checksums (the frame around has one), or which group a message is for.
//! Tests: round trips and garbage by proptest below.
//!
//! One message, little-endian:
//!
//! ```text
//! u32 length of what follows | u8 version=1 | u8 kind | u16 flags
//! u64 to | u64 from | u64 term | u64 log_term | u64 index | u64 commit
//! [REJECT_HINT]  u64                 [VOTE] u64
//! [CONTEXT]      u32 length, bytes
//! [ENTRIES]      u32 count, count × (u64 term | u64 index | u8 kind | u32 length | bytes)
//! [SNAPSHOT]     u64 index | u64 term | u8 auto_leave | 4 × (u32 count, count × u64) | u32 length, bytes
//! [RESPONSES]    u32 count, count × message
//! ```
//!
//! `flags` says which bracketed parts are there; bit 0 is `reject`.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::entries::Entries;
use crate::message::{ConfState, Entry, EntryKind, Message, MessageKind, Snapshot, SnapshotMeta};

/// The version written, and the only one read.
pub const VERSION: u8 = 1;
/// Responses within responses: raft itself needs one level.
const DEPTH_MAX: usize = 4;
const ENTRY_BYTES_MIN: usize = 21;
const MESSAGE_BYTES_MIN: usize = 4 + FIXED_BYTES;
const FIXED_BYTES: usize = 4 + 6 * 8;

const REJECT: u16 = 1 << 0;
const REJECT_HINT: u16 = 1 << 1;
const VOTE: u16 = 1 << 2;
const CONTEXT: u16 = 1 << 3;
const ENTRIES: u16 = 1 << 4;
const SNAPSHOT: u16 = 1 << 5;
const RESPONSES: u16 = 1 << 6;
const FLAGS_KNOWN: u16 = (1 << 7) - 1;

/// Why bytes are not a message. The sender's fault, or the network's.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The input ends early, or a length in it is too large.
    Short,
    /// Bytes are left after the last part.
    Trailing(usize),
    /// Written by a newer version.
    Version(u8),
    /// Not a kind of message.
    Kind(u8),
    /// Not a kind of entry.
    EntryKind(u8),
    /// Parts nobody knows.
    Flags(u16),
    /// Responses in responses in responses.
    Depth,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Short => f.write_str(
                "raft message ends early: a length in it is wrong, or bytes are missing",
            ),
            WireError::Trailing(inner) => write!(f, "raft message has {inner} bytes too many"),
            WireError::Version(inner) => write!(
                f,
                "raft message version {inner} is not known here: upgrade this node first"
            ),
            WireError::Kind(inner) => write!(f, "{inner} is not a kind of raft message"),
            WireError::EntryKind(inner) => write!(f, "{inner} is not a kind of entry"),
            WireError::Flags(inner) => write!(f, "raft message has unknown flags {inner:#x}"),
            WireError::Depth => f.write_str("raft message nests responses too deeply"),
        }
    }
}

impl std::error::Error for WireError {}

/// Appends `message` to `out`. A message must encode to less than 4 GiB, as every message within the
/// limits of [`Config`](crate::Config) does.
pub fn encode(message: &Message, out: &mut BytesMut) {
    out.reserve(encoded_len(message));
    put_message(message, out);
}

/// How many bytes [`encode`] appends.
pub fn encoded_len(message: &Message) -> usize {
    let mut size = MESSAGE_BYTES_MIN;
    size += if message.reject_hint != 0 { 8 } else { 0 };
    size += if message.vote != 0 { 8 } else { 0 };
    if !message.context.is_empty() {
        size += 4 + message.context.len();
    }
    if !message.entries.is_empty() {
        let entries = message.entries.iter();
        size += 4 + entries
            .map(|entry| ENTRY_BYTES_MIN + entry.data.len())
            .sum::<usize>();
    }
    if let Some(snapshot) = &message.snapshot {
        let lists = conf_lists(&snapshot.meta.conf_state);
        size += 17 + lists.iter().map(|ids| 4 + 8 * ids.len()).sum::<usize>();
        size += 4 + snapshot.data.len();
    }
    if !message.responses.is_empty() {
        size += 4 + message.responses.iter().map(encoded_len).sum::<usize>();
    }
    size
}

/// Takes the next message off `input`. After an error what is left of `input` means nothing.
///
/// # Errors
/// [`WireError`] if it is not one.
pub fn decode(input: &mut Bytes) -> Result<Message, WireError> {
    get_message(input, 0)
}

fn put_message(message: &Message, out: &mut BytesMut) {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u8(VERSION);
    out.put_u8(message.kind as u8);
    out.put_u16_le(flags(message));
    for field in [message.to, message.from, message.term, message.log_term] {
        out.put_u64_le(field);
    }
    out.put_u64_le(message.index);
    out.put_u64_le(message.commit);
    if message.reject_hint != 0 {
        out.put_u64_le(message.reject_hint);
    }
    if message.vote != 0 {
        out.put_u64_le(message.vote);
    }
    if !message.context.is_empty() {
        put_bytes(&message.context, out);
    }
    if !message.entries.is_empty() {
        out.put_u32_le(message.entries.len() as u32);
        for entry in &message.entries {
            out.put_u64_le(entry.term);
            out.put_u64_le(entry.index);
            out.put_u8(entry.kind as u8);
            put_bytes(&entry.data, out);
        }
    }
    if let Some(snapshot) = &message.snapshot {
        put_snapshot(snapshot, out);
    }
    if !message.responses.is_empty() {
        out.put_u32_le(message.responses.len() as u32);
        message
            .responses
            .iter()
            .for_each(|response| put_message(response, out));
    }
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

fn flags(message: &Message) -> u16 {
    let part = |is_there: bool, flag: u16| if is_there { flag } else { 0 };
    part(message.reject, REJECT)
        | part(message.reject_hint != 0, REJECT_HINT)
        | part(message.vote != 0, VOTE)
        | part(!message.context.is_empty(), CONTEXT)
        | part(!message.entries.is_empty(), ENTRIES)
        | part(message.snapshot.is_some(), SNAPSHOT)
        | part(!message.responses.is_empty(), RESPONSES)
}

fn put_snapshot(snapshot: &Snapshot, out: &mut BytesMut) {
    out.put_u64_le(snapshot.meta.index);
    out.put_u64_le(snapshot.meta.term);
    out.put_u8(u8::from(snapshot.meta.conf_state.auto_leave));
    for ids in conf_lists(&snapshot.meta.conf_state) {
        out.put_u32_le(ids.len() as u32);
        ids.iter().for_each(|id| out.put_u64_le(*id));
    }
    put_bytes(&snapshot.data, out);
}

fn conf_lists(state: &ConfState) -> [&Vec<u64>; 4] {
    [
        &state.voters,
        &state.learners,
        &state.voters_outgoing,
        &state.learners_next,
    ]
}

fn put_bytes(bytes: &Bytes, out: &mut BytesMut) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn get_message(input: &mut Bytes, depth: usize) -> Result<Message, WireError> {
    let mut body = get_bytes(input)?;
    if body.len() < FIXED_BYTES {
        return Err(WireError::Short);
    }
    match body.get_u8() {
        VERSION => {}
        other => return Err(WireError::Version(other)),
    }
    let kind = body.get_u8();
    let kind = MessageKind::from_u8(kind).ok_or(WireError::Kind(kind))?;
    let flags = body.get_u16_le();
    if flags & !FLAGS_KNOWN != 0 {
        return Err(WireError::Flags(flags));
    }
    let mut message = Message {
        kind,
        to: body.get_u64_le(),
        from: body.get_u64_le(),
        term: body.get_u64_le(),
        log_term: body.get_u64_le(),
        index: body.get_u64_le(),
        commit: body.get_u64_le(),
        reject: flags & REJECT != 0,
        ..Message::default()
    };
    if flags & REJECT_HINT != 0 {
        message.reject_hint = get_u64(&mut body)?;
    }
    if flags & VOTE != 0 {
        message.vote = get_u64(&mut body)?;
    }
    if flags & CONTEXT != 0 {
        message.context = get_bytes(&mut body)?;
    }
    if flags & ENTRIES != 0 {
        message.entries = get_entries(&mut body)?;
    }
    if flags & SNAPSHOT != 0 {
        message.snapshot = Some(Box::new(get_snapshot(&mut body)?));
    }
    if flags & RESPONSES != 0 {
        if depth == DEPTH_MAX {
            return Err(WireError::Depth);
        }
        let count = get_count(&mut body, MESSAGE_BYTES_MIN)?;
        message.responses = Vec::with_capacity(count);
        for _ in 0..count {
            message.responses.push(get_message(&mut body, depth + 1)?);
        }
    }
    match body.len() {
        0 => Ok(message),
        left => Err(WireError::Trailing(left)),
    }
}

fn get_entries(body: &mut Bytes) -> Result<Entries, WireError> {
    let count = get_count(body, ENTRY_BYTES_MIN)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        if body.len() < ENTRY_BYTES_MIN {
            return Err(WireError::Short);
        }
        let (term, index, kind) = (body.get_u64_le(), body.get_u64_le(), body.get_u8());
        let kind = EntryKind::from_u8(kind).ok_or(WireError::EntryKind(kind))?;
        entries.push(Entry {
            term,
            index,
            kind,
            data: get_bytes(body)?,
        });
    }
    Ok(entries.into())
}

fn get_snapshot(body: &mut Bytes) -> Result<Snapshot, WireError> {
    let (index, term) = (get_u64(body)?, get_u64(body)?);
    let auto_leave = body.try_get_u8().map_err(|_| WireError::Short)? != 0;
    let conf_state = ConfState {
        voters: get_ids(body)?,
        learners: get_ids(body)?,
        voters_outgoing: get_ids(body)?,
        learners_next: get_ids(body)?,
        auto_leave,
    };
    let meta = SnapshotMeta {
        conf_state,
        index,
        term,
    };
    Ok(Snapshot {
        meta,
        data: get_bytes(body)?,
    })
}

fn get_ids(body: &mut Bytes) -> Result<Vec<u64>, WireError> {
    let count = get_count(body, 8)?;
    (0..count).map(|_| get_u64(body)).collect()
}

fn get_u64(body: &mut Bytes) -> Result<u64, WireError> {
    body.try_get_u64_le().map_err(|_| WireError::Short)
}

/// A count of things that take at least `bytes_each`: what cannot be there is refused before anything
/// is allocated for it.
fn get_count(body: &mut Bytes, bytes_each: usize) -> Result<usize, WireError> {
    let count = body.try_get_u32_le().map_err(|_| WireError::Short)? as usize;
    match count.checked_mul(bytes_each) {
        Some(bytes) if bytes <= body.len() => Ok(count),
        _ => Err(WireError::Short),
    }
}

fn get_bytes(body: &mut Bytes) -> Result<Bytes, WireError> {
    let length = body.try_get_u32_le().map_err(|_| WireError::Short)? as usize;
    match length <= body.len() {
        // An empty slice would keep the whole buffer alive for nothing.
        true if length == 0 => Ok(Bytes::new()),
        true => Ok(body.split_to(length)),
        false => Err(WireError::Short),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn entry() -> impl Strategy<Value = Entry> {
        (any::<u64>(), any::<u64>(), 0u8..3, payload()).prop_map(|(term, index, kind, data)| {
            Entry {
                term,
                index,
                kind: EntryKind::from_u8(kind).unwrap(),
                data,
            }
        })
    }

    fn snapshot() -> impl Strategy<Value = Option<Box<Snapshot>>> {
        let ids = || prop::collection::vec(any::<u64>(), 0..4);
        let conf = (ids(), ids(), ids(), ids(), any::<bool>());
        prop::option::of((any::<u64>(), any::<u64>(), conf, payload()).prop_map(
            |(index, term, conf, data)| {
                let (voters, learners, voters_outgoing, learners_next, auto_leave) = conf;
                let conf_state = ConfState {
                    voters,
                    learners,
                    voters_outgoing,
                    learners_next,
                    auto_leave,
                };
                Box::new(Snapshot {
                    meta: SnapshotMeta {
                        conf_state,
                        index,
                        term,
                    },
                    data,
                })
            },
        ))
    }

    fn message() -> impl Strategy<Value = Message> {
        let numbers = prop::array::uniform8(prop_oneof![Just(0u64), any::<u64>()]);
        let entries = prop::collection::vec(entry(), 0..4);
        let plain = (
            0u8..24,
            numbers,
            any::<bool>(),
            entries,
            payload(),
            snapshot(),
        )
            .prop_map(
                |(
                    kind,
                    [to, from, term, log_term, index, commit, reject_hint, vote],
                    reject,
                    entries,
                    context,
                    snapshot,
                )| {
                    Message {
                        kind: MessageKind::from_u8(kind).unwrap(),
                        to,
                        from,
                        term,
                        log_term,
                        index,
                        commit,
                        reject_hint,
                        vote,
                        reject,
                        entries: entries.into(),
                        context,
                        snapshot,
                        responses: Vec::new(),
                    }
                },
            );
        plain.prop_recursive(2, 6, 3, |inner| {
            (inner.clone(), prop::collection::vec(inner, 0..3)).prop_map(|(message, responses)| {
                Message {
                    responses,
                    ..message
                }
            })
        })
    }

    proptest! {
        #![proptest_config(crate::seeded::cases(256))]

        #[test]
        fn round_trips_in_a_row(messages in prop::collection::vec(message(), 1..4)) {
            let mut out = BytesMut::new();
            for message in &messages {
                let before = out.len();
                encode(message, &mut out);
                prop_assert_eq!(out.len() - before, encoded_len(message));
            }
            let mut input = out.freeze();
            for message in &messages {
                prop_assert_eq!(&decode(&mut input).unwrap(), message);
            }
            prop_assert!(input.is_empty());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&mut Bytes::from(bytes));
        }

        #[test]
        fn a_damaged_message_never_panics(
            message in message(), at in any::<usize>(), bit in 0u8..8, cut in any::<usize>(),
        ) {
            let mut out = BytesMut::new();
            encode(&message, &mut out);
            let at = at % out.len();
            out[at] ^= 1 << bit;
            let length = out.len();
            let _ = decode(&mut out.clone().freeze());
            out.truncate(cut % length);
            let _ = decode(&mut out.freeze());
        }
    }

    #[test]
    fn payloads_are_not_copied() {
        let entries = vec![Entry {
            data: Bytes::from_static(b"payload"),
            ..Entry::default()
        }];
        let mut out = BytesMut::new();
        encode(
            &Message {
                entries: entries.into(),
                ..Message::default()
            },
            &mut out,
        );
        let input = out.freeze();
        let message = decode(&mut input.clone()).unwrap();
        let inside = input.as_ptr_range();
        assert!(inside.contains(&message.entries[0].data.as_ptr()));
    }

    #[test]
    fn counts_that_cannot_be_are_refused_before_allocating() {
        let mut out = BytesMut::new();
        encode(
            &Message {
                entries: Entry::default().into(),
                ..Message::default()
            },
            &mut out,
        );
        out[MESSAGE_BYTES_MIN..MESSAGE_BYTES_MIN + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&mut out.freeze()), Err(WireError::Short));
    }
}
