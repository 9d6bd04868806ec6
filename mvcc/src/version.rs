//! One version of one key: its numbers and value, and their packed form.
//!
//! A packed version ("body") is `flags:u8 [sub] [main-create] [version] [lease] value`, the numbers
//! as varints; flags say which are there. A first put of a key without a lease has a one-byte
//! header; a later put about 5 bytes, where plain fields would take 28. The mod revision (main) is
//! kept by whoever holds the body, and so is the body's length. Bodies are only built here and
//! live in memory or in a checked snapshot; decoding yet never panics. Tested at the end.

use bytes::Bytes;

use crate::types::KeyValue;
use crate::varint;

const TOMBSTONE: u8 = 1;
const HAS_SUB: u8 = 2;
const HAS_LEASE: u8 = 4;
/// Not the first put of its generation: create revision and version follow.
const HAS_PAST: u8 = 8;

/// A version, borrowing its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version<'a> {
    /// Main revision of the change.
    pub main: i64,
    /// Position of the change within its revision.
    pub sub: u32,
    /// The change is a delete; all fields below are zero then.
    pub tombstone: bool,
    /// Create revision of the generation.
    pub create: i64,
    /// Puts since creation.
    pub version: i64,
    /// Lease or 0.
    pub lease: i64,
    /// The value.
    pub value: &'a [u8],
}

impl<'a> Version<'a> {
    /// The delete of a key.
    pub fn tombstone(main: i64, sub: u32) -> Self {
        Version {
            main,
            sub,
            tombstone: true,
            ..Version::default()
        }
    }

    /// The first byte of the body, of which the lower four bits are used.
    pub fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.tombstone {
            flags |= TOMBSTONE;
        }
        if self.sub != 0 {
            flags |= HAS_SUB;
        }
        if self.lease != 0 {
            flags |= HAS_LEASE;
        }
        if !self.tombstone && (self.create != self.main || self.version != 1) {
            flags |= HAS_PAST;
        }
        flags
    }

    /// The numbers that follow the flags.
    pub fn numbers(&self, flags: u8) -> impl Iterator<Item = u64> {
        let past = flags & HAS_PAST != 0;
        [
            (flags & HAS_SUB != 0).then_some(u64::from(self.sub)),
            past.then_some(self.main.wrapping_sub(self.create) as u64),
            past.then_some(self.version as u64),
            (flags & HAS_LEASE != 0).then_some(self.lease as u64),
        ]
        .into_iter()
        .flatten()
    }

    /// Length of the body.
    pub fn body_len(&self) -> usize {
        1 + self.numbers(self.flags()).map(varint::len).sum::<usize>() + self.value.len()
    }

    /// Appends the body.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        let flags = self.flags();
        out.push(flags);
        self.numbers(flags)
            .for_each(|number| varint::put(out, number));
        out.extend_from_slice(self.value);
    }

    /// Reads a body; `None` if it is not one.
    pub fn decode_body(main: i64, body: &'a [u8]) -> Option<Self> {
        let (&flags, rest) = body.split_first()?;
        Version::decode_rest(main, flags, rest)
    }

    /// Reads a body whose flags were kept elsewhere.
    pub fn decode_rest(main: i64, flags: u8, mut rest: &'a [u8]) -> Option<Self> {
        let mut version = Version {
            main,
            tombstone: flags & TOMBSTONE != 0,
            ..Version::default()
        };
        if flags & HAS_SUB != 0 {
            version.sub = u32::try_from(varint::take(&mut rest)?).ok()?;
        }
        if flags & HAS_PAST != 0 {
            version.create = main.wrapping_sub(varint::take(&mut rest)? as i64);
            version.version = varint::take(&mut rest)? as i64;
        } else if !version.tombstone {
            (version.create, version.version) = (main, 1);
        }
        if flags & HAS_LEASE != 0 {
            version.lease = varint::take(&mut rest)? as i64;
        }
        version.value = rest;
        Some(version)
    }

    /// The owned pair. A tombstone gives a delete event's pair: key and mod revision only.
    /// `key` and `value` are those of this version, copied.
    pub fn to_key_value(self, key: Bytes, value: Bytes) -> KeyValue {
        KeyValue {
            key,
            value,
            create_revision: self.create,
            mod_revision: self.main,
            version: self.version,
            lease: self.lease,
        }
    }
}

impl Version<'_> {
    /// The owned pair of a key.
    pub fn to_pair(self, key: &[u8]) -> KeyValue {
        self.to_key_value(
            Bytes::copy_from_slice(key),
            Bytes::copy_from_slice(self.value),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_round_trip_and_are_small() {
        let first = Version {
            main: 9,
            create: 9,
            version: 1,
            value: b"v",
            ..Version::default()
        };
        let table = [
            (first, 2),
            (
                Version {
                    create: 3,
                    version: 4,
                    ..first
                },
                4,
            ),
            (
                Version {
                    sub: 300,
                    lease: -1,
                    ..first
                },
                14,
            ),
            (
                Version {
                    create: -5,
                    version: i64::MAX,
                    lease: i64::MIN,
                    value: b"",
                    ..first
                },
                21,
            ),
            (Version::tombstone(9, 0), 1),
            (Version::tombstone(9, 2), 2),
        ];
        for (version, len) in table {
            let mut body = Vec::new();
            version.encode_body(&mut body);
            assert_eq!(body.len(), len, "{version:?}");
            assert_eq!(version.body_len(), len, "{version:?}");
            assert_eq!(Version::decode_body(9, &body), Some(version));
        }
    }

    #[test]
    fn a_cut_header_is_refused() {
        let version = Version {
            main: 9,
            sub: 300,
            create: 1,
            version: 300,
            lease: 1 << 40,
            ..Version::default()
        };
        let mut body = Vec::new();
        version.encode_body(&mut body);
        for cut in 0..body.len() {
            assert_eq!(Version::decode_body(9, &body[..cut]), None);
        }
    }
}
