//! From a stream of bytes back to a store.
//!
//! The stream comes from a file or a peer and is trusted in nothing: every length is checked
//! against what is there, order and numbers against the store's own rules, the whole against its
//! hash. Nothing is allocated on the word of a length. Memory beyond the store itself: one frame,
//! and 16 bytes per version for rebuilding the revision log.

use crate::compact::CompactEdge;
use crate::error::SnapshotError;
use crate::hash::Hash64;
use crate::lease::LeaseEntry;
use crate::names::KeyId;
use crate::revlog::LogOp;
use crate::snapshot::{
    FORMAT_VERSION, FORMAT_VERSION_MIN, FORMAT_VERSION_RENEWED, FRAME_BYTES_MAX, FRAME_HEAD,
    KIND_END, KIND_HEAD, KIND_KEYS, KIND_LEASES, MAGIC,
};
use crate::store::{Config, Store};
use crate::varint;
use crate::version::Version;

/// Builds a store from a snapshot, given in pieces of any size.
#[derive(Debug)]
pub struct Restorer {
    store: Store,
    /// Bytes of a frame that is not complete.
    partial: Vec<u8>,
    /// Bytes of complete frames.
    offset: u64,
    hash: Hash64,
    stage: Stage,
    /// The stream's format version.
    format: u32,
    versions: u64,
    ops: Vec<LogOp>,
    /// The key whose versions are coming in.
    key: Option<KeyId>,
    key_bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Head,
    Leases,
    Keys,
    Done,
}

type Checked<T> = Result<T, &'static str>;

impl Default for Restorer {
    fn default() -> Self {
        Restorer::new()
    }
}

impl Restorer {
    /// For a store with the default settings.
    pub fn new() -> Self {
        Restorer::with_config(Config::default())
    }

    /// For a store with these settings.
    pub fn with_config(config: Config) -> Self {
        Restorer {
            store: Store::with_config(config),
            partial: Vec::new(),
            offset: 0,
            hash: Hash64::default(),
            stage: Stage::Head,
            format: FORMAT_VERSION,
            versions: 0,
            ops: Vec::new(),
            key: None,
            key_bytes: Vec::new(),
        }
    }

    /// Takes the next piece. After an error the restorer is of no further use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.partial.extend_from_slice(bytes);
        let mut partial = std::mem::take(&mut self.partial);
        let mut used = 0;
        while let Some(frame) = self.next_frame(&partial[used..])? {
            self.frame(frame)?;
            used += frame.len();
            self.offset += frame.len() as u64;
        }
        partial.drain(..used);
        self.partial = partial;
        Ok(())
    }

    /// The store, once the whole stream went in. Its leases have no running deadlines (see
    /// [`Store::leases_extend`]) and it has no watchers (see [`Store::adopt_watchers`]).
    pub fn finish(mut self) -> Result<Store, SnapshotError> {
        let offset = self.offset + self.partial.len() as u64;
        if self.stage != Stage::Done {
            return Err(SnapshotError::Truncated { offset });
        }
        if !self.partial.is_empty() {
            return Err(SnapshotError::Damaged {
                offset,
                what: "bytes after the end block",
            });
        }
        self.rebuild_log()
            .map_err(|what| SnapshotError::Damaged { offset, what })?;
        Ok(self.store)
    }

    /// The frame at the front, if it is all there. A length beyond all bounds is refused before
    /// the rest of the stream would be kept waiting for it.
    fn next_frame<'a>(&self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, SnapshotError> {
        let Some(length) = bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(match self.offset {
                0 => SnapshotError::Magic,
                offset => SnapshotError::Damaged {
                    offset,
                    what: "block length out of bounds",
                },
            });
        }
        Ok(bytes.get(..FRAME_HEAD + length))
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), SnapshotError> {
        let offset = self.offset;
        let damaged = |what| SnapshotError::Damaged { offset, what };
        let (kind, payload) = (frame[4], &frame[FRAME_HEAD..]);
        let stage = match kind {
            KIND_HEAD => return self.head(frame, payload),
            KIND_LEASES => Stage::Leases,
            KIND_KEYS => Stage::Keys,
            KIND_END => Stage::Done,
            _ => return Err(damaged("unknown kind of block")),
        };
        if self.stage == Stage::Head || self.stage == Stage::Done || stage < self.stage {
            return Err(if self.offset == 0 {
                SnapshotError::Magic
            } else {
                damaged("block out of order")
            });
        }
        self.stage = stage;
        match stage {
            Stage::Leases => self.leases(payload).map_err(damaged)?,
            Stage::Keys => self.keys(payload).map_err(damaged)?,
            Stage::Head | Stage::Done => return self.end(payload),
        }
        self.hash.bytes(frame);
        Ok(())
    }

    fn head(&mut self, frame: &[u8], payload: &[u8]) -> Result<(), SnapshotError> {
        let offset = self.offset;
        let damaged = |what| SnapshotError::Damaged { offset, what };
        if self.stage != Stage::Head {
            return Err(damaged("second head block"));
        }
        let rest = payload.strip_prefix(MAGIC).ok_or(SnapshotError::Magic)?;
        let (found, mut rest) = rest.split_first_chunk().ok_or(damaged("short head"))?;
        let found = u32::from_le_bytes(*found);
        if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&found) {
            return Err(SnapshotError::Version {
                found,
                supported: FORMAT_VERSION,
            });
        }
        self.format = found;
        self.store.revision = take_i64(&mut rest).map_err(damaged)?;
        self.store.compacted = take_i64(&mut rest).map_err(damaged)? - 1;
        if self.store.revision < 1 || self.store.compacted > self.store.revision {
            return Err(damaged("revisions out of order"));
        }
        if !rest.is_empty() {
            return Err(damaged("bytes after the head"));
        }
        self.store.compact_edge = CompactEdge::Done {
            main: self.store.compacted,
        };
        self.stage = Stage::Leases;
        self.hash.bytes(frame);
        Ok(())
    }

    fn leases(&mut self, mut rest: &[u8]) -> Checked<()> {
        while !rest.is_empty() {
            let id = varint::take(&mut rest).ok_or("cut lease id")? as i64;
            let ttl_s = take_i64(&mut rest)?;
            let renewed = if self.format >= FORMAT_VERSION_RENEWED {
                varint::take(&mut rest).ok_or("cut lease renewal")?
            } else {
                0
            };
            let entry = LeaseEntry { id, ttl_s, renewed };
            if id == 0 || !self.store.leases.restore(entry) {
                return Err("lease twice, or without id");
            }
        }
        Ok(())
    }

    fn keys(&mut self, mut rest: &[u8]) -> Checked<()> {
        while !rest.is_empty() {
            let length = varint::take(&mut rest).ok_or("cut key length")?;
            let key = varint::take_bytes(&mut rest, length).ok_or("cut key")?;
            self.begin_key(key)?;
            let count = varint::take(&mut rest).ok_or("cut version count")?;
            if count == 0 {
                return Err("key without versions");
            }
            for _ in 0..count {
                let main = take_i64(&mut rest)?;
                let length = varint::take(&mut rest).ok_or("cut version length")?;
                let body = varint::take_bytes(&mut rest, length).ok_or("cut version")?;
                let version = Version::decode_body(main, body).ok_or("version does not decode")?;
                self.version(key, &version)?;
            }
        }
        Ok(())
    }

    /// The same key as before goes on; any other has to be greater.
    fn begin_key(&mut self, key: &[u8]) -> Checked<()> {
        if self.key.is_some() && self.key_bytes == key {
            return Ok(());
        }
        if key.is_empty() || self.key.is_some() && self.key_bytes.as_slice() > key {
            return Err("keys out of order");
        }
        self.end_key()?;
        self.key_bytes.clear();
        self.key_bytes.extend_from_slice(key);
        Ok(())
    }

    fn version(&mut self, key: &[u8], version: &Version<'_>) -> Checked<()> {
        if version.main < 1 || version.main > self.store.revision {
            return Err("version outside of the snapshot's revisions");
        }
        let store = &mut self.store;
        let id = match self.key {
            Some(id) => {
                let before = store.keys.latest(id);
                if (before.main, before.sub) >= (version.main, version.sub) {
                    return Err("versions out of order");
                }
                store.keys.push(id, version);
                id
            }
            None => {
                let id = store.keys.insert(key, version).ok_or("too many keys")?;
                store.index.append(&store.keys, id);
                id
            }
        };
        self.key = Some(id);
        self.versions += 1;
        if version.main >= store.compacted {
            self.ops.push(LogOp {
                main: version.main,
                sub: version.sub,
                id,
            });
        }
        Ok(())
    }

    fn end_key(&mut self) -> Checked<()> {
        let Some(id) = self.key.take() else {
            return Ok(());
        };
        let store = &mut self.store;
        let latest = store.keys.latest(id);
        if latest.tombstone {
            store.index.set_live(&store.keys, &self.key_bytes, false);
        } else if latest.lease != 0 && !store.leases.attach(latest.lease, id) {
            return Err("key attached to a lease that is not there");
        }
        Ok(())
    }

    fn end(&mut self, mut rest: &[u8]) -> Result<(), SnapshotError> {
        let offset = self.offset;
        let damaged = |what| SnapshotError::Damaged { offset, what };
        let versions = varint::take(&mut rest).ok_or(damaged("cut version total"))?;
        let recorded = <[u8; 8]>::try_from(rest).map_err(|_| damaged("end block of wrong size"))?;
        let (computed, recorded) = (self.hash.finish(), u64::from_le_bytes(recorded));
        if computed != recorded {
            return Err(SnapshotError::Checksum { computed, recorded });
        }
        if versions != self.versions {
            return Err(damaged("version total does not match"));
        }
        self.end_key().map_err(damaged)
    }

    /// Puts the changes in revision order. From the compact revision on every revision is in the
    /// snapshot whole, so the log is dense again.
    fn rebuild_log(&mut self) -> Checked<()> {
        let mut ops = std::mem::take(&mut self.ops);
        ops.sort_unstable_by_key(|op| (op.main, op.sub));
        let mut next = ops.first().map_or(self.store.revision + 1, |op| op.main);
        let lowest = self.store.compacted.saturating_add(1).max(2);
        if next > lowest && lowest <= self.store.revision {
            return Err("revisions are missing");
        }
        let mut next_sub = 0;
        for op in ops {
            if op.main != next || op.sub != next_sub {
                (next, next_sub) = (next + 1, 0);
            }
            if op.main != next || op.sub != next_sub {
                return Err("changes are missing");
            }
            next_sub += 1;
            self.store.log.push(op);
        }
        if next_sub > 0 && next != self.store.revision {
            return Err("the last revisions are missing");
        }
        Ok(())
    }
}

fn take_i64(rest: &mut &[u8]) -> Checked<i64> {
    let value = varint::take(rest).ok_or("cut number")?;
    i64::try_from(value).map_err(|_| "number too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Key<'a> = (&'a [u8], &'a [Version<'a>]);

    fn put(main: i64, sub: u32) -> Version<'static> {
        Version {
            main,
            sub,
            create: main,
            version: 1,
            value: b"v",
            ..Version::default()
        }
    }

    /// What restoring a stream with a right hash, whatever is in it, comes to.
    fn restore(revision: i64, compacted: i64, leases: &[u64], keys: &[Key<'_>]) -> Option<String> {
        restore_of(FORMAT_VERSION, revision, compacted, leases, keys)
            .err()
            .map(|error| error.to_string())
    }

    fn restore_of(
        version: u32,
        revision: i64,
        compacted: i64,
        leases: &[u64],
        keys: &[Key<'_>],
    ) -> Result<Store, SnapshotError> {
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&version.to_le_bytes());
        varint::put(&mut head, revision as u64);
        varint::put(&mut head, (compacted + 1) as u64);
        let mut lease_payload = Vec::new();
        for &id in leases {
            varint::put(&mut lease_payload, id);
            varint::put(&mut lease_payload, 60);
            if version >= FORMAT_VERSION_RENEWED {
                varint::put(&mut lease_payload, 3);
            }
        }
        let (mut key_payload, mut total) = (Vec::new(), 0);
        for (key, versions) in keys {
            varint::put(&mut key_payload, key.len() as u64);
            key_payload.extend_from_slice(key);
            varint::put(&mut key_payload, versions.len() as u64);
            for version in *versions {
                varint::put(&mut key_payload, version.main as u64);
                varint::put(&mut key_payload, version.body_len() as u64);
                version.encode_body(&mut key_payload);
                total += 1;
            }
        }
        let mut stream = Vec::new();
        let mut hash = Hash64::default();
        let mut frame = |kind, payload: &[u8], hash: &mut Hash64| {
            let start = stream.len();
            stream.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            stream.push(kind);
            stream.extend_from_slice(payload);
            hash.bytes(&stream[start..]);
        };
        frame(KIND_HEAD, &head, &mut hash);
        frame(KIND_LEASES, &lease_payload, &mut hash);
        frame(KIND_KEYS, &key_payload, &mut hash);
        let mut end = Vec::new();
        varint::put(&mut end, total);
        end.extend_from_slice(&hash.finish().to_le_bytes());
        frame(KIND_END, &end, &mut hash);
        let mut restorer = Restorer::new();
        restorer.push(&stream)?;
        restorer.finish()
    }

    /// Snapshots from before leases remembered their renewal.
    #[test]
    fn leases_of_version_1_were_never_renewed() {
        for (version, renewed) in [(1, 0), (2, 3)] {
            let store = restore_of(version, 1, -1, &[5, 6], &[]).expect("sound");
            let leases: Vec<_> = store
                .leases
                .iter_from(std::ops::Bound::Unbounded)
                .map(|l| (l.id, l.renewed))
                .collect();
            assert_eq!(leases, [(5, renewed), (6, renewed)]);
        }
        let refused = restore_of(3, 1, -1, &[], &[]).err();
        let (found, supported) = (3, 2);
        assert_eq!(refused, Some(SnapshotError::Version { found, supported }));
    }

    /// What a writer with a fault could produce with a right hash is refused too.
    #[test]
    fn a_stream_that_no_store_would_write_is_refused_by_name() {
        let leased = Version {
            lease: 5,
            ..put(3, 0)
        };
        let (two, three, four) = ([put(2, 0)], [put(3, 0)], [put(4, 0)]);
        assert_eq!(
            restore(3, -1, &[5], &[(b"a", &two), (b"b", &[leased])]),
            None
        );
        assert_eq!(
            restore(3, -1, &[], &[(b"a", &[put(2, 0), put(3, 0)])]),
            None
        );
        assert_eq!(
            restore(3, -1, &[], &[(b"a", &two), (b"a", &three)]),
            None,
            "a key goes on"
        );
        let table: [(&str, i64, &[u64], &[Key<'_>]); 11] = [
            ("keys out of order", 3, &[], &[(b"b", &two), (b"a", &three)]),
            ("keys out of order", 3, &[], &[(b"", &two), (b"a", &three)]),
            ("key without versions", 3, &[], &[(b"a", &[])]),
            (
                "versions out of order",
                3,
                &[],
                &[(b"a", &[put(3, 0), put(2, 0)])],
            ),
            (
                "outside of the snapshot's",
                3,
                &[],
                &[(b"a", &two), (b"b", &four)],
            ),
            ("not there", 3, &[], &[(b"a", &two), (b"b", &[leased])]),
            ("lease twice", 2, &[5, 5], &[(b"a", &two)]),
            ("lease twice, or without id", 2, &[0], &[(b"a", &two)]),
            ("revisions are missing", 3, &[], &[(b"a", &three)]),
            (
                "changes are missing",
                4,
                &[],
                &[(b"a", &two), (b"b", &four)],
            ),
            (
                "last revisions are missing",
                4,
                &[],
                &[(b"a", &two), (b"b", &three)],
            ),
        ];
        for (what, revision, leases, keys) in table {
            let error = restore(revision, -1, leases, keys).expect("must be refused");
            assert!(error.contains(what), "{error} instead of {what}");
        }
        let gap = restore(2, -1, &[], &[(b"a", &[put(2, 1)])]).expect("must be refused");
        assert!(gap.contains("changes are missing"), "{gap}");
        let nothing = restore(5, -1, &[], &[]).expect("must be refused");
        assert!(nothing.contains("revisions are missing"), "{nothing}");
        assert_eq!(restore(5, 5, &[], &[]), None, "all compacted away");
    }
}
