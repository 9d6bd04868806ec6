//! Membership changes as they are proposed and stored in entries.
//!
//! Promises: `decode(encode(x)) == x`; decoding arbitrary bytes gives a change or an error, and
//! allocates no more than the input is long. Empty input is the empty change: a V2 change without
//! steps leaves a joint configuration, and must be proposable with a payload of zero bytes (such
//! entries are exempt from the limit on uncommitted bytes).
//! Must never know: the configuration a change is applied to.
//! Tests: round trip and garbage below.
//!
//! Encoding, little-endian. V1: `version=1 u8, kind u8, id u64, node_id u64, context (rest)`.
//! V2: `version=1 u8, transition u8, count u16, count × (kind u8, node_id u64), context (rest)`.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::message::EntryKind;

const VERSION: u8 = 1;
const SINGLE_BYTES: usize = 9;

/// What is done to one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ConfChangeKind {
    /// Becomes a voter (a new one, or a promoted learner).
    #[default]
    AddNode = 0,
    /// Is no longer part of the group.
    RemoveNode = 1,
    /// Changes nothing here: the host has its own note in `context`.
    UpdateNode = 2,
    /// Becomes a learner (a new one, or a demoted voter).
    AddLearnerNode = 3,
}

impl ConfChangeKind {
    fn from_u8(number: u8) -> Result<ConfChangeKind, DecodeError> {
        match number {
            0 => Ok(ConfChangeKind::AddNode),
            1 => Ok(ConfChangeKind::RemoveNode),
            2 => Ok(ConfChangeKind::UpdateNode),
            3 => Ok(ConfChangeKind::AddLearnerNode),
            _ => Err(DecodeError::Kind(number)),
        }
    }
}

impl fmt::Display for ConfChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfChange{self:?}")
    }
}

/// How a [`ConfChangeV2`] gets from the old configuration to the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Transition {
    /// In one step if one step is enough, otherwise as `JointImplicit`.
    #[default]
    Auto = 0,
    /// Through a joint configuration which the leader leaves by itself as soon as it can.
    JointImplicit = 1,
    /// Through a joint configuration which the host leaves by proposing an empty change.
    JointExplicit = 2,
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfChangeTransition{self:?}")
    }
}

/// One step of a membership change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfChangeSingle {
    /// What is done.
    pub kind: ConfChangeKind,
    /// To whom. 0: the step does nothing (a host can void a change this way).
    pub node_id: u64,
}

impl fmt::Display for ConfChangeSingle {
    /// `v1`, `r2`, `u3`, `l4`: as [`parse_changes`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            ConfChangeKind::AddNode => 'v',
            ConfChangeKind::RemoveNode => 'r',
            ConfChangeKind::UpdateNode => 'u',
            ConfChangeKind::AddLearnerNode => 'l',
        };
        write!(f, "{letter}{}", self.node_id)
    }
}

/// A change of one member, for [`EntryKind::ConfChange`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChange {
    /// The host's own number for it.
    pub id: u64,
    /// What is done.
    pub kind: ConfChangeKind,
    /// To whom.
    pub node_id: u64,
    /// The host's own bytes.
    pub context: Bytes,
}

/// A change of any number of members, for [`EntryKind::ConfChangeV2`]. Without steps and with
/// [`Transition::Auto`] it leaves a joint configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChangeV2 {
    /// How to get there.
    pub transition: Transition,
    /// The steps, in order.
    pub changes: Vec<ConfChangeSingle>,
    /// The host's own bytes.
    pub context: Bytes,
}

/// Why bytes are not a membership change.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Written by a newer version.
    Version(u8),
    /// Not a kind of change.
    Kind(u8),
    /// Not a transition.
    Transition(u8),
    /// The input ends early.
    Short,
    /// The entry holds no membership change.
    NotAChange,
    /// More steps than a count of 16 bits holds.
    TooMany(usize),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Version(inner) => write!(
                f,
                "version {inner} is not known here: upgrade this node first"
            ),
            DecodeError::Kind(inner) => write!(f, "{inner} is not a kind of change"),
            DecodeError::Transition(inner) => write!(f, "{inner} is not a transition"),
            DecodeError::Short => f.write_str("the encoding ends early"),
            DecodeError::NotAChange => f.write_str("a normal entry holds no configuration change"),
            DecodeError::TooMany(inner) => write!(f, "{inner} steps in one change are too many"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl ConfChange {
    /// The payload of an [`EntryKind::ConfChange`] entry.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(18 + self.context.len());
        out.put_u8(VERSION);
        out.put_u8(self.kind as u8);
        out.put_u64_le(self.id);
        out.put_u64_le(self.node_id);
        out.put_slice(&self.context);
        out.freeze()
    }

    /// Reads what [`ConfChange::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] if it is anything else.
    pub fn decode(data: &Bytes) -> Result<ConfChange, DecodeError> {
        if data.is_empty() {
            return Ok(ConfChange::default());
        }
        let mut input = data.clone();
        let kind = ConfChangeKind::from_u8(header(&mut input)?)?;
        let id = input.try_get_u64_le().map_err(|_| DecodeError::Short)?;
        let node_id = input.try_get_u64_le().map_err(|_| DecodeError::Short)?;
        Ok(ConfChange {
            id,
            kind,
            node_id,
            context: input,
        })
    }

    /// The same change in the newer form.
    pub fn into_v2(self) -> ConfChangeV2 {
        let changes = vec![ConfChangeSingle {
            kind: self.kind,
            node_id: self.node_id,
        }];
        ConfChangeV2 {
            changes,
            context: self.context,
            transition: Transition::Auto,
        }
    }
}

impl ConfChangeV2 {
    /// A change of one member.
    pub fn single(kind: ConfChangeKind, node_id: u64) -> ConfChangeV2 {
        ConfChangeV2 {
            changes: vec![ConfChangeSingle { kind, node_id }],
            ..Default::default()
        }
    }

    /// The payload of an [`EntryKind::ConfChangeV2`] entry.
    ///
    /// # Errors
    /// `TooMany` for more than 65,535 steps.
    pub fn encode(&self) -> Result<Bytes, DecodeError> {
        let count = u16::try_from(self.changes.len());
        let count = count.map_err(|_| DecodeError::TooMany(self.changes.len()))?;
        if *self == ConfChangeV2::default() {
            return Ok(Bytes::new());
        }
        let size = 4 + self.changes.len() * SINGLE_BYTES + self.context.len();
        let mut out = BytesMut::with_capacity(size);
        out.put_u8(VERSION);
        out.put_u8(self.transition as u8);
        out.put_u16_le(count);
        for change in &self.changes {
            out.put_u8(change.kind as u8);
            out.put_u64_le(change.node_id);
        }
        out.put_slice(&self.context);
        Ok(out.freeze())
    }

    /// Reads what [`ConfChangeV2::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] if it is anything else.
    pub fn decode(data: &Bytes) -> Result<ConfChangeV2, DecodeError> {
        if data.is_empty() {
            return Ok(ConfChangeV2::default());
        }
        let mut input = data.clone();
        let transition = match header(&mut input)? {
            0 => Transition::Auto,
            1 => Transition::JointImplicit,
            2 => Transition::JointExplicit,
            other => return Err(DecodeError::Transition(other)),
        };
        let count = usize::from(input.try_get_u16_le().map_err(|_| DecodeError::Short)?);
        if input.len() < count * SINGLE_BYTES {
            return Err(DecodeError::Short);
        }
        let mut changes = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = ConfChangeKind::from_u8(input.get_u8())?;
            changes.push(ConfChangeSingle {
                kind,
                node_id: input.get_u64_le(),
            });
        }
        Ok(ConfChangeV2 {
            transition,
            changes,
            context: input,
        })
    }

    /// Reads the change in an entry of either kind.
    ///
    /// # Errors
    /// [`DecodeError`] if it is a normal entry, or does not decode.
    pub fn from_entry(kind: EntryKind, data: &Bytes) -> Result<ConfChangeV2, DecodeError> {
        match kind {
            EntryKind::ConfChange => ConfChange::decode(data).map(ConfChange::into_v2),
            EntryKind::ConfChangeV2 => ConfChangeV2::decode(data),
            EntryKind::Normal => Err(DecodeError::NotAChange),
        }
    }

    /// Whether this goes through a joint configuration; if so, whether the leader leaves it by itself.
    ///
    /// More changes than etcd needs to could do without (adding two learners, say), depending on the
    /// configuration they meet; like etcd, we do not look and take the joint way.
    pub fn enters_joint(&self) -> Option<bool> {
        let simple = self.transition == Transition::Auto && self.changes.len() <= 1;
        (!simple).then_some(self.transition != Transition::JointExplicit)
    }

    /// Whether this leaves a joint configuration.
    pub fn leaves_joint(&self) -> bool {
        self.transition == Transition::Auto && self.changes.is_empty()
    }
}

impl From<ConfChange> for ConfChangeV2 {
    fn from(change: ConfChange) -> ConfChangeV2 {
        change.into_v2()
    }
}

/// Reads `v1 l2 r3 u4` (voter, learner, remove, update), for tools and tests.
///
/// # Errors
/// The first token that is not one.
pub fn parse_changes(text: &str) -> Result<Vec<ConfChangeSingle>, String> {
    text.split_whitespace().map(parse_change).collect()
}

fn parse_change(token: &str) -> Result<ConfChangeSingle, String> {
    let mut rest = token.chars();
    let kind = match rest.next() {
        _ if token.len() < 2 => return Err(format!("unknown token {token}")),
        Some('v') => ConfChangeKind::AddNode,
        Some('l') => ConfChangeKind::AddLearnerNode,
        Some('r') => ConfChangeKind::RemoveNode,
        Some('u') => ConfChangeKind::UpdateNode,
        _ => return Err(format!("unknown input: {token}")),
    };
    let node_id = rest
        .as_str()
        .parse()
        .map_err(|_| format!("unknown input: {token}"))?;
    Ok(ConfChangeSingle { kind, node_id })
}

/// Checks the version and returns the byte after it.
fn header(input: &mut Bytes) -> Result<u8, DecodeError> {
    match input.try_get_u8().map_err(|_| DecodeError::Short)? {
        VERSION => input.try_get_u8().map_err(|_| DecodeError::Short),
        other => Err(DecodeError::Version(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let v1 = ConfChange {
            id: 7,
            kind: ConfChangeKind::RemoveNode,
            node_id: u64::MAX,
            context: Bytes::from_static(b"why"),
        };
        assert_eq!(ConfChange::decode(&v1.encode()), Ok(v1));
        let v2 = ConfChangeV2 {
            transition: Transition::JointExplicit,
            changes: parse_changes("v1 l2 r3 u4").unwrap(),
            context: Bytes::from_static(b"why"),
        };
        assert_eq!(ConfChangeV2::decode(&v2.encode().unwrap()), Ok(v2));
    }

    #[test]
    fn empty_is_the_change_that_leaves() {
        assert!(ConfChangeV2::default().encode().unwrap().is_empty());
        assert!(ConfChangeV2::decode(&Bytes::new()).unwrap().leaves_joint());
    }

    #[test]
    fn garbage_is_refused() {
        let decode = |bytes: &'static [u8]| ConfChangeV2::decode(&Bytes::from_static(bytes));
        assert_eq!(decode(&[9, 0]), Err(DecodeError::Version(9)));
        assert_eq!(decode(&[1, 3]), Err(DecodeError::Transition(3)));
        assert_eq!(decode(&[1, 0, 255, 255]), Err(DecodeError::Short));
        assert_eq!(
            decode(&[1, 0, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]),
            Err(DecodeError::Kind(4))
        );
        assert_eq!(
            ConfChange::decode(&Bytes::from_static(&[1, 0, 1])),
            Err(DecodeError::Short)
        );
    }

    #[test]
    fn joint_or_not() {
        let mut change = ConfChangeV2::single(ConfChangeKind::AddNode, 1);
        assert_eq!(change.enters_joint(), None);
        change.transition = Transition::JointExplicit;
        assert_eq!(change.enters_joint(), Some(false));
        change.transition = Transition::Auto;
        change.changes.push(ConfChangeSingle {
            kind: ConfChangeKind::AddNode,
            node_id: 2,
        });
        assert_eq!(change.enters_joint(), Some(true));
    }
}
