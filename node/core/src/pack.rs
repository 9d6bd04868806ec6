//! Raft messages of several groups in one frame: a version byte, then per message its group (u64 LE),
//! its length (u32 LE) and its bytes (raft's wire form). Drawn in docs/format.md ("Message packs").
//! Must never know: what a message says beyond its kind, how frames travel.

use bytes::{Buf, Bytes, BytesMut};
use henge_raft::{Message, MessageKind, wire};

/// Version of the pack format.
pub const VERSION: u8 = 1;
/// Most bytes of a frame: what the transport takes as one message, which whoever joins the two sees to.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024 + 64 * 1024;
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

/// Packs the messages to one peer into as few frames as their bytes allow. None is longer than a frame may be,
/// as long as none of the messages alone is.
pub fn pack<'a>(messages: impl Iterator<Item = &'a (u64, Message)>, mut emit: impl FnMut(Bytes)) {
    let mut frame = BytesMut::new();
    for (group, message) in messages {
        // A large entry behind others that fill most of a frame: together they would be refused, and lost.
        let bytes = 12 + wire::encoded_len(message);
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
        if frame.remaining() < 12 {
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

    /// A frame of nearly a mebibyte took in another message of up to 16 MiB, was refused as too long, and every
    /// caller with something in it waited for its deadline.
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
