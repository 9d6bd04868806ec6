//! The handshake: who is on the other end, before anything it says is believed.
//!
//! The dialer's first frame is a [`Hello`]; the acceptor answers with its own, or with a
//! [`Refusal`] that says why, so that both logs name the mistake (fault O3). A connection is for a
//! *session* (messages flow) or a *knock* ("I am up, dial me now"; see `link`).
//!
//! Promises: no message passes before both hellos were checked. The order of checks is format,
//! cluster, addressee, sender, so that each mistake is reported as what it is.
//!
//! Must never know: sockets, clocks, addresses. Identity is the node id, not where it calls from
//! (fault N11).
//!
//! Tested below: a table of every refusal from either side, and garbage (proptest).

use std::fmt;

use bytes::{Buf, BufMut, Bytes};

use super::frame::{Frame, Kind};

/// Range of session formats this build speaks, lowest and highest.
pub const FORMATS: Formats = Formats { min: 1, max: 1 };

const MAGIC: &[u8; 8] = b"HENGPEER";
pub(super) const HELLO_BYTES: usize = 48;
const REFUSAL_BYTES: usize = 24;

/// A range of session formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// Lowest format spoken.
    pub min: u16,
    /// Highest format spoken.
    pub max: u16,
}

impl Formats {
    /// The highest format that both speak.
    pub fn common(self, other: Formats) -> Option<u16> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

impl fmt::Display for Formats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.min, self.max)
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Messages flow both ways until one side closes.
    Session = 1,
    /// The higher node id asks the lower to dial it now; closed after the answer.
    Knock = 2,
}

/// Who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of this node.
    pub node_id: u64,
    /// Differs from start to start, so that a peer knows a restart from a lost connection.
    pub boot: u64,
    /// Formats this node speaks.
    pub formats: Formats,
}

/// The first frame both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Formats the sender speaks.
    pub formats: Formats,
    /// What the connection is for.
    pub purpose: Purpose,
    /// Id of the sender's cluster.
    pub cluster_id: u64,
    /// Id of the sender.
    pub from: u64,
    /// Id of the node that the sender means to talk to.
    pub to: u64,
    /// The sender's [`Local::boot`].
    pub boot: u64,
}

/// Why a hello is not accepted; said by the node that refuses.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No session format in common.
    #[error(
        "no common peer format: refused by a node that speaks {ours}; upgrade one step at a time"
    )]
    Format {
        /// What the refusing node speaks.
        ours: Formats,
    },
    /// The nodes belong to different clusters.
    #[error(
        "cluster id mismatch: refused by a node of cluster {ours:016x}; \
         check the peer URLs and the initial-cluster-token"
    )]
    Cluster {
        /// Cluster of the refusing node.
        ours: u64,
    },
    /// The address leads to another node than the caller meant.
    #[error("wrong addressee: the node at this address is {ours:016x}; check the peer URLs")]
    Addressee {
        /// Id of the refusing node.
        ours: u64,
    },
    /// The refusing node has no such member.
    #[error("unknown node {theirs:016x}: not a member here; check initial-cluster on both sides")]
    UnknownNode {
        /// Id the caller gave.
        theirs: u64,
    },
    /// A session is dialed by the lower id, a knock by the higher.
    #[error("node {theirs:016x} called in the wrong direction: the lower id dials")]
    Direction {
        /// Id the caller gave.
        theirs: u64,
    },
    /// Purpose or lane that this build does not have.
    #[error("unknown purpose {purpose} or lane {lane} of a connection")]
    Purpose {
        /// Purpose the caller gave.
        purpose: u8,
        /// Lane the caller gave.
        lane: u8,
    },
    /// A reason that only a newer build knows.
    #[error("refused for a reason this build does not know (code {code})")]
    Other {
        /// The code it carried.
        code: u16,
    },
}

/// How a handshake failed.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// We refuse the other side; it is told so if it can be.
    #[error("we refused it: {0}")]
    Ours(Refusal),
    /// The other side refuses us.
    #[error("it refused us: {0}")]
    Theirs(Refusal),
    /// Not a handshake at all.
    #[error("not a peer handshake: {0}")]
    Malformed(&'static str),
}

impl HandshakeError {
    /// The frame that tells the other side why, when there is something to say.
    pub fn answer(&self) -> Option<Frame> {
        match self {
            HandshakeError::Ours(refusal) => Some(refusal.encode()),
            _ => None,
        }
    }
}

/// The dialing side, waiting for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    local: Local,
    hello: Hello,
}

impl Dial {
    /// Opens a handshake with node `to`; the frame is to be sent first.
    pub fn start(local: Local, to: u64, purpose: Purpose) -> (Dial, Frame) {
        let hello = Hello {
            formats: local.formats,
            purpose,
            cluster_id: local.cluster_id,
            from: local.node_id,
            to,
            boot: local.boot,
        };
        (Dial { local, hello }, hello.encode())
    }

    /// Takes the first frame of the other side: its hello, or why not.
    ///
    /// # Errors
    /// [`HandshakeError`]: the connection is to be closed.
    pub fn answer(self, frame: &Frame) -> Result<Hello, HandshakeError> {
        if frame.kind == Kind::Refuse {
            return Err(HandshakeError::Theirs(Refusal::decode(&frame.payload)?));
        }
        let hello = check(self.local, frame)?;
        if hello.from != self.hello.to {
            // The address answers as another node than we called.
            return Err(HandshakeError::Ours(Refusal::UnknownNode {
                theirs: hello.from,
            }));
        }
        if hello.purpose != self.hello.purpose {
            return Err(HandshakeError::Malformed(
                "the answer is for another purpose",
            ));
        }
        Ok(hello)
    }
}

/// The accepting side: checks the first frame of a caller and makes the answer.
///
/// `known` says whether a node id is a member.
///
/// # Errors
/// [`HandshakeError`]: the connection is to be closed, after [`HandshakeError::answer`] was sent.
pub fn accept(
    local: Local,
    known: impl Fn(u64) -> bool,
    frame: &Frame,
) -> Result<(Hello, Frame), HandshakeError> {
    let hello = check(local, frame)?;
    if hello.from == local.node_id || !known(hello.from) {
        return Err(HandshakeError::Ours(Refusal::UnknownNode {
            theirs: hello.from,
        }));
    }
    let lower_calls = hello.from < local.node_id;
    if lower_calls != (hello.purpose == Purpose::Session) {
        return Err(HandshakeError::Ours(Refusal::Direction {
            theirs: hello.from,
        }));
    }
    let (_, answer) = Dial::start(local, hello.from, hello.purpose);
    Ok((hello, answer))
}

/// Checks that hold for the hello of either side.
fn check(local: Local, frame: &Frame) -> Result<Hello, HandshakeError> {
    if frame.kind != Kind::Hello {
        return Err(HandshakeError::Malformed("the first frame is not a hello"));
    }
    let hello = Hello::decode(local, &frame.payload)?;
    if hello.cluster_id != local.cluster_id {
        return Err(HandshakeError::Ours(Refusal::Cluster {
            ours: local.cluster_id,
        }));
    }
    if hello.to != local.node_id {
        return Err(HandshakeError::Ours(Refusal::Addressee {
            ours: local.node_id,
        }));
    }
    Ok(hello)
}

impl Hello {
    fn encode(&self) -> Frame {
        let mut out = Vec::with_capacity(HELLO_BYTES);
        out.put_slice(MAGIC);
        out.put_u16_le(self.formats.min);
        out.put_u16_le(self.formats.max);
        out.put_u8(self.purpose as u8);
        out.put_u8(0); // lane: all traffic on one connection, until lanes get their own
        out.put_u16_le(0);
        for word in [self.cluster_id, self.from, self.to, self.boot] {
            out.put_u64_le(word);
        }
        Frame {
            kind: Kind::Hello,
            payload: Bytes::from(out),
        }
    }

    /// Fields after the formats are read only once a format is common; bytes after the last field
    /// belong to newer formats and are left alone.
    fn decode(local: Local, mut at: &[u8]) -> Result<Hello, HandshakeError> {
        if at.len() < HELLO_BYTES {
            return Err(HandshakeError::Malformed("the hello is too short"));
        }
        if !at.starts_with(MAGIC) {
            return Err(HandshakeError::Malformed("the hello has another magic"));
        }
        at.advance(MAGIC.len());
        let formats = Formats {
            min: at.get_u16_le(),
            max: at.get_u16_le(),
        };
        if local.formats.common(formats).is_none() {
            return Err(HandshakeError::Ours(Refusal::Format {
                ours: local.formats,
            }));
        }
        let (purpose, lane) = (at.get_u8(), at.get_u8());
        at.advance(2);
        let purpose = match (purpose, lane) {
            (1, 0) => Purpose::Session,
            (2, 0) => Purpose::Knock,
            _ => return Err(HandshakeError::Ours(Refusal::Purpose { purpose, lane })),
        };
        Ok(Hello {
            formats,
            purpose,
            cluster_id: at.get_u64_le(),
            from: at.get_u64_le(),
            to: at.get_u64_le(),
            boot: at.get_u64_le(),
        })
    }
}

impl Refusal {
    fn encode(&self) -> Frame {
        let (code, detail, second) = match *self {
            Refusal::Format { ours } => (1, u64::from(ours.min), u64::from(ours.max)),
            Refusal::Cluster { ours } => (2, ours, 0),
            Refusal::Addressee { ours } => (3, ours, 0),
            Refusal::UnknownNode { theirs } => (4, theirs, 0),
            Refusal::Direction { theirs } => (5, theirs, 0),
            Refusal::Purpose { purpose, lane } => (6, u64::from(purpose), u64::from(lane)),
            Refusal::Other { code } => (code, 0, 0),
        };
        let mut out = Vec::with_capacity(REFUSAL_BYTES);
        out.put_u64_le(u64::from(code));
        out.put_u64_le(detail);
        out.put_u64_le(second);
        Frame {
            kind: Kind::Refuse,
            payload: Bytes::from(out),
        }
    }

    pub(super) fn decode(mut at: &[u8]) -> Result<Refusal, HandshakeError> {
        if at.len() < REFUSAL_BYTES {
            return Err(HandshakeError::Malformed("the refusal is too short"));
        }
        let code = at.get_u16_le();
        at.advance(6);
        let (detail, second) = (at.get_u64_le(), at.get_u64_le());
        // Only text for a log depends on these: an odd value is shown clipped, not refused.
        let short = |word: u64| u16::try_from(word).unwrap_or(u16::MAX);
        let byte = |word: u64| u8::try_from(word).unwrap_or(u8::MAX);
        Ok(match code {
            1 => Refusal::Format {
                ours: Formats {
                    min: short(detail),
                    max: short(second),
                },
            },
            2 => Refusal::Cluster { ours: detail },
            3 => Refusal::Addressee { ours: detail },
            4 => Refusal::UnknownNode { theirs: detail },
            5 => Refusal::Direction { theirs: detail },
            6 => Refusal::Purpose {
                purpose: byte(detail),
                lane: byte(second),
            },
            code => Refusal::Other { code },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: u64 = 0xc1;

    fn node(node_id: u64) -> Local {
        Local {
            cluster_id: CLUSTER,
            node_id,
            boot: 70 + node_id,
            formats: FORMATS,
        }
    }

    fn members(id: u64) -> bool {
        (1..=3).contains(&id)
    }

    /// Runs both sides: what the dialer ends with, and what the acceptor ends with.
    fn meet(
        dialer: Local,
        to: u64,
        purpose: Purpose,
        acceptor: Local,
    ) -> (Result<Hello, HandshakeError>, Result<Hello, HandshakeError>) {
        let (dial, first) = Dial::start(dialer, to, purpose);
        match accept(acceptor, members, &first) {
            Ok((hello, answer)) => (dial.answer(&answer), Ok(hello)),
            Err(error) => {
                let answer = error.answer().expect("a refusal is always told");
                (dial.answer(&answer), Err(error))
            }
        }
    }

    #[test]
    fn two_members_meet_and_learn_of_each_other() {
        for (from, to, purpose) in [(1, 2, Purpose::Session), (3, 2, Purpose::Knock)] {
            let (dialed, accepted) = meet(node(from), to, purpose, node(to));
            let dialed = dialed.expect("agrees");
            let accepted = accepted.expect("agrees");
            assert_eq!((dialed.from, dialed.boot, dialed.to), (to, 70 + to, from));
            assert_eq!(
                (accepted.from, accepted.boot, accepted.purpose),
                (from, 70 + from, purpose)
            );
        }
    }

    /// O3: each mistake is named as what it is, and both sides hear the same reason.
    #[test]
    fn each_refusal_is_told_to_both_sides() {
        let newer = Formats { min: 2, max: 3 };
        let session = Purpose::Session;
        let table = [
            (
                Local {
                    formats: newer,
                    ..node(1)
                },
                2,
                session,
                Refusal::Format { ours: FORMATS },
            ),
            (
                Local {
                    cluster_id: 9,
                    ..node(1)
                },
                2,
                session,
                Refusal::Cluster { ours: CLUSTER },
            ),
            (node(1), 3, session, Refusal::Addressee { ours: 2 }),
            (node(8), 2, session, Refusal::UnknownNode { theirs: 8 }),
            (node(2), 2, session, Refusal::UnknownNode { theirs: 2 }),
            (node(3), 2, session, Refusal::Direction { theirs: 3 }),
            (node(1), 2, Purpose::Knock, Refusal::Direction { theirs: 1 }),
        ];
        for (dialer, to, purpose, refusal) in table {
            let (dialed, accepted) = meet(dialer, to, purpose, node(2));
            assert_eq!(accepted, Err(HandshakeError::Ours(refusal)));
            assert_eq!(dialed, Err(HandshakeError::Theirs(refusal)));
        }
    }

    #[test]
    fn the_dialer_checks_the_answer_too() {
        let (dial, _) = Dial::start(node(1), 2, Purpose::Session);
        let answer = |local, to, purpose| Dial::start(local, to, purpose).1;
        let ours = |refusal| Err(HandshakeError::Ours(refusal));
        let session = Purpose::Session;
        assert_eq!(
            dial.answer(&answer(node(3), 1, session)),
            ours(Refusal::UnknownNode { theirs: 3 })
        );
        assert_eq!(
            dial.answer(&answer(node(2), 3, session)),
            ours(Refusal::Addressee { ours: 1 })
        );
        let stranger = Local {
            cluster_id: 9,
            ..node(2)
        };
        assert_eq!(
            dial.answer(&answer(stranger, 1, session)),
            ours(Refusal::Cluster { ours: CLUSTER })
        );
        assert!(matches!(
            dial.answer(&answer(node(2), 1, Purpose::Knock)),
            Err(HandshakeError::Malformed(_))
        ));
    }

    #[test]
    fn no_other_frame_opens_a_connection() {
        for kind in [
            Kind::Message,
            Kind::Ping,
            Kind::Pong,
            Kind::Goodbye,
            Kind::Refuse,
        ] {
            let frame = Frame {
                kind,
                payload: node_hello_payload(),
            };
            assert!(matches!(
                accept(node(2), members, &frame),
                Err(HandshakeError::Malformed(_))
            ));
        }
    }

    #[test]
    fn lanes_and_purposes_of_the_future_are_refused_by_name() {
        for (at, value, purpose, lane) in [(12, 9, 9, 0), (13, 1, 1, 1)] {
            let mut payload = node_hello_payload().to_vec();
            payload[at] = value;
            let frame = Frame {
                kind: Kind::Hello,
                payload: payload.into(),
            };
            let refusal = Refusal::Purpose { purpose, lane };
            assert_eq!(
                accept(node(2), members, &frame),
                Err(HandshakeError::Ours(refusal))
            );
        }
    }

    #[test]
    fn a_longer_hello_of_a_newer_build_is_read() {
        let mut payload = node_hello_payload().to_vec();
        payload.extend_from_slice(&[1; 40]);
        let frame = Frame {
            kind: Kind::Hello,
            payload: payload.into(),
        };
        assert!(accept(node(2), members, &frame).is_ok());
    }

    #[test]
    fn every_refusal_survives_the_trip() {
        for refusal in [
            Refusal::Format {
                ours: Formats { min: 3, max: 9 },
            },
            Refusal::Cluster { ours: u64::MAX },
            Refusal::Addressee { ours: 4 },
            Refusal::UnknownNode { theirs: 5 },
            Refusal::Direction { theirs: 6 },
            Refusal::Purpose {
                purpose: 7,
                lane: 8,
            },
            Refusal::Other { code: 999 },
        ] {
            assert_eq!(Refusal::decode(&refusal.encode().payload), Ok(refusal));
        }
    }

    #[test]
    fn the_common_format_is_the_highest_of_both() {
        let range = |min, max| Formats { min, max };
        assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
        assert_eq!(range(4, 5).common(range(1, 4)), Some(4));
        assert_eq!(range(1, 2).common(range(3, 4)), None);
        assert_eq!(
            range(1, 9).common(range(5, 2)),
            None,
            "an empty range has nothing in common"
        );
    }

    fn node_hello_payload() -> Bytes {
        Dial::start(node(1), 2, Purpose::Session).1.payload
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            kind in prop::sample::select(vec![Kind::Hello, Kind::Refuse, Kind::Message]),
            mut payload in prop::collection::vec(any::<u8>(), 0..120),
            looks_right in any::<bool>(),
        ) {
            if looks_right && payload.len() >= 12 {
                payload[..8].copy_from_slice(MAGIC);
                payload[8..12].copy_from_slice(&[1, 0, 1, 0]);
            }
            let frame = Frame { kind, payload: payload.into() };
            let accepted = accept(node(2), members, &frame);
            let (dial, _) = Dial::start(node(1), 2, Purpose::Session);
            let dialed = dial.answer(&frame);
            prop_assert!(accepted.is_err() || kind == Kind::Hello);
            prop_assert!(dialed.is_err() || kind == Kind::Hello);
        }
    }
}
