//! What the slot of a key says of its newest version, so that the next put reads no older one.
//! Knows neither slots nor the arena. Tested with [`super::Keys`].

use crate::version::Version;

/// What a put has to know of the newest version, packed:
/// `create:40 version:15 changes:5 flags:4` (changes: since the last waypoint).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary(pub u64);

pub(super) const TOMBSTONE: u64 = 1;
/// There is a lease, or a number does not fit: ask the version itself.
pub(super) const INCOMPLETE: u64 = 2;
/// The key has waypoints.
pub(super) const HAS_WAYPOINTS: u64 = 4;
/// Something stays for open cursors only, see `pins`.
pub(super) const HELD: u64 = 8;
/// Flags that a new version does not change.
pub(super) const KEPT: u64 = HAS_WAYPOINTS | HELD;

impl Summary {
    /// `kept`: what holds of the key whatever its newest version is, of [`KEPT`].
    pub fn new(version: &Version<'_>, changes: u64, kept: u64) -> Self {
        let (create, count) = (version.create as u64, version.version as u64);
        let mut bits = changes << 4 | kept;
        if version.tombstone {
            bits |= TOMBSTONE;
        }
        if version.lease != 0 || create >> 40 != 0 || count >> 15 != 0 {
            bits |= INCOMPLETE;
        } else {
            bits |= create << 24 | count << 9;
        }
        Summary(bits)
    }

    pub fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    pub fn changes(self) -> u64 {
        self.0 >> 4 & 0x1f
    }
}

/// The newest version of a key without its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Newest {
    /// The key is deleted; all fields below are zero then.
    pub tombstone: bool,
    /// Create revision of the generation.
    pub create: i64,
    /// Puts since creation.
    pub version: i64,
    /// Lease or 0.
    pub lease: i64,
}
