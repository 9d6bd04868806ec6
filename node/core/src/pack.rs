//! Raft messages of several groups in one frame: a version byte, then per message its group (u64 LE),
//! its length (u32 LE) and its bytes (raft's wire form). Drawn in docs/format.md ("Message packs").
//! Must never know: what a message says beyond its kind, how frames travel.

use bytes::{Buf, Bytes, BytesMut};
use henge_raft::{Message, MessageKind, wire};

/// Version of the pack format.
pub const VERSION: u8 = 1;
/// Most bytes of a frame: what the transport takes as one message, which whoever joins the two sees to.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024 + 64 * 1024;
/// Before each message: its group and its length.
const HEAD_BYTES: usize = 8 + 4;
/// A frame is closed once it holds this many bytes.
const FRAME_BYTES_GOAL: usize = 1 << 20;

/// A frame that is not a pack of this version, or a message in it that cannot be decoded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PackError {
    /// Written by another version.
    #[error("message pack version {0} is not known to this build (it knows {VERSION})")]
    Version(u8),
    /// Fewer bytes than announced.
    #[error("message pack is cut short")]
    Short,
    /// One of the messages is malformed.
    #[error("message for group {group} is malformed: {error}")]
    Message {
        /// The group it names.
        group: u64,
        /// What is wrong.
        error: wire::WireError,
    },
}

/// Where the kind of a frame's first message stands: behind the version, the message's group and length, and
/// the length and version that its own form begins with.
const FIRST_KIND_AT: usize = 1 + 8 + 4 + 4 + 1;

/// Whether raft's timers wait for messages like this one: they go and come before entries, in frames of their
/// own.
pub fn is_urgent_kind(kind: MessageKind) -> bool {
    matches!(
        kind,
        MessageKind::Heartbeat
            | MessageKind::HeartbeatResp
            | MessageKind::Vote
            | MessageKind::VoteResp
            | MessageKind::PreVote
            | MessageKind::PreVoteResp
            | MessageKind::TimeoutNow
    )
}

/// Whether a frame holds such messages, as its first one tells. Bytes that are no frame are not urgent.
pub fn is_urgent(frame: &[u8]) -> bool {
    let kind = frame.get(FIRST_KIND_AT).copied();
    kind.and_then(MessageKind::from_u8)
        .is_some_and(is_urgent_kind)
}

/// Packs the messages to one peer into as few frames as their bytes allow. None is longer than a frame may
/// be, as long as none of the messages alone is.
pub fn pack<'a>(messages: impl Iterator<Item = &'a (u64, Message)>, mut emit: impl FnMut(Bytes)) {
    let mut frame = BytesMut::new();
    for (group, message) in messages {
        // A large entry behind others that fill most of a frame: together they would be refused, and lost.
        let bytes = HEAD_BYTES + wire::encoded_len(message);
        if !frame.is_empty() && frame.len() + bytes > MESSAGE_BYTES_MAX {
            emit(frame.split().freeze());
        }
        if frame.is_empty() {
            frame.extend_from_slice(&[VERSION]);
        }
        frame.extend_from_slice(&group.to_le_bytes());
        let length_at = frame.len();
        frame.extend_from_slice(&[0; 4]);
        wire::encode(message, &mut frame);
        let length = u32::try_from(frame.len() - length_at - 4).unwrap_or(u32::MAX);
        frame[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        if frame.len() >= FRAME_BYTES_GOAL {
            emit(frame.split().freeze());
        }
    }
    if !frame.is_empty() {
        emit(frame.freeze());
    }
}

/// Hands each core what of a frame is for its groups, without a look at the messages: `core_of` says which
/// core a group lives on. What cannot be divided goes as it is to the first core that is named, which says
/// what is wrong with it.
pub fn divide(frame: &Bytes, core_of: impl Fn(u64) -> usize, mut emit: impl FnMut(usize, Bytes)) {
    let Some(parts) = parts(frame, core_of) else {
        return emit(0, frame.clone());
    };
    let first = parts.first().map_or(0, |(core, _)| *core);
    if parts.iter().all(|(core, _)| *core == first) {
        return emit(first, frame.clone());
    }
    let last = parts.iter().map(|(core, _)| *core).max().unwrap_or(first);
    for core in 0..=last {
        let mine = parts.iter().filter(|(of, _)| *of == core);
        let mut packed = BytesMut::from(&[VERSION][..]);
        mine.for_each(|(_, part)| packed.extend_from_slice(part));
        if packed.len() > 1 {
            emit(core, packed.freeze());
        }
    }
}

/// Each message of a frame with its head, and the core it is for.
fn parts(frame: &[u8], core_of: impl Fn(u64) -> usize) -> Option<Vec<(usize, &[u8])>> {
    let (version, mut rest) = frame.split_first()?;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (head, behind) = rest.split_at_checked(HEAD_BYTES)?;
        let (group, length) = head.split_at(8);
        let group = u64::from_le_bytes(group.try_into().ok()?);
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        behind.get(..length)?;
        let (part, others) = rest.split_at(HEAD_BYTES + length);
        parts.push((core_of(group), part));
        rest = others;
    }
    (*version == VERSION).then_some(parts)
}

/// Unpacks a frame; payloads stay slices of it.
pub fn unpack(mut frame: Bytes) -> Result<Vec<(u64, Message)>, PackError> {
    if frame.is_empty() {
        return Err(PackError::Short);
    }
    let version = frame.get_u8();
    if version != VERSION {
        return Err(PackError::Version(version));
    }
    let mut messages = Vec::new();
    while frame.has_remaining() {
        if frame.remaining() < HEAD_BYTES {
            return Err(PackError::Short);
        }
        let group = frame.get_u64_le();
        let length = frame.get_u32_le() as usize;
        if length > frame.remaining() {
            return Err(PackError::Short);
        }
        let mut bytes = frame.split_to(length);
        let message =
            wire::decode(&mut bytes).map_err(|error| PackError::Message { group, error })?;
        messages.push((group, message));
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of nearly a mebibyte took in another message of up to 16 MiB, was refused as too long, and
    /// every caller with something in it waited for its deadline.
    #[test]
    fn regression_no_frame_of_messages_that_may_be_sent_is_too_long() {
        let append = |bytes: usize| {
            let entry = henge_raft::Entry {
                index: 1,
                term: 1,
                data: Bytes::from(vec![7; bytes]),
                ..henge_raft::Entry::default()
            };
            let message = Message {
                kind: MessageKind::App,
                to: 2,
                from: 1,
                term: 1,
                entries: entry.into(),
                ..Message::default()
            };
            (1, message)
        };
        let sizes = [FRAME_BYTES_GOAL - 1_000, henge_wal::ENTRY_BYTES_MAX, 10];
        let messages = sizes.map(append);
        let mut frames = Vec::new();
        pack(messages.iter(), |frame| frames.push(frame));
        assert!(frames.iter().all(|frame| frame.len() <= MESSAGE_BYTES_MAX));
        let unpacked: Vec<_> = frames
            .into_iter()
            .flat_map(|frame| unpack(frame).expect("sound"))
            .collect();
        assert_eq!(unpacked, messages);
    }

    #[test]
    fn a_frame_is_as_urgent_as_its_first_message() {
        for kind in MessageKind::ALL {
            let message = Message {
                kind: *kind,
                ..Message::default()
            };
            pack([(7, message)].iter(), |frame| {
                assert_eq!(is_urgent(&frame), is_urgent_kind(*kind), "{kind:?}");
            });
        }
        assert!(!is_urgent(&[VERSION; FIRST_KIND_AT]) && !is_urgent(&[]));
    }

    #[test]
    fn each_core_gets_the_messages_of_its_groups_and_what_is_unsound_stays_whole() {
        let message = |group: u64| {
            let message = Message {
                term: group,
                ..Message::default()
            };
            (group, message)
        };
        let all: Vec<_> = (1..=9).map(message).collect();
        let mut frames = Vec::new();
        pack(all.iter(), |frame| frames.push(frame));
        let core_of = |group: u64| (group % 3) as usize;
        let mut divided = Vec::new();
        divide(&frames[0], core_of, |core, frame| {
            divided.push((core, unpack(frame).expect("sound")));
        });
        let expected = [0, 1, 2].map(|core| {
            let mine = all.iter().filter(|(group, _)| core_of(*group) == core);
            (core, mine.cloned().collect::<Vec<_>>())
        });
        assert_eq!(divided, expected);
        // Of one core alone it is the frame itself; so is what nobody can read, in whatever way.
        let whole = |frame: &Bytes, core_of: &dyn Fn(u64) -> usize| {
            let mut seen = Vec::new();
            divide(frame, core_of, |core, part| seen.push((core, part)));
            seen
        };
        assert_eq!(whole(&frames[0], &|_| 2), [(2, frames[0].clone())]);
        let cut = frames[0].slice(..frames[0].len() - 1);
        assert_eq!(whole(&cut, &core_of), [(0, cut.clone())]);
        let newer = Bytes::from([&[VERSION + 1], &frames[0][1..]].concat());
        assert_eq!(whole(&newer, &core_of), [(0, newer.clone())]);
        assert_eq!(whole(&Bytes::new(), &core_of), [(0, Bytes::new())]);
    }

    #[test]
    fn several_groups_share_a_frame_and_a_cut_is_refused_everywhere() {
        let messages: Vec<_> = (1..=3)
            .map(|group| {
                (
                    group,
                    Message {
                        to: 2,
                        from: 1,
                        term: group,
                        ..Message::default()
                    },
                )
            })
            .collect();
        let mut frames = Vec::new();
        pack(messages.iter(), |frame| frames.push(frame));
        assert_eq!(frames.len(), 1);
        assert_eq!(unpack(frames[0].clone()), Ok(messages.clone()));
        for cut in 0..frames[0].len() {
            if let Ok(part) = unpack(frames[0].slice(..cut)) {
                assert!(part.len() < messages.len(), "cut at {cut}");
            }
        }
    }
}
