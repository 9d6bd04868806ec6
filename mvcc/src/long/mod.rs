//! Commands and reads that may take longer than a slice, worked off in slices.
//!
//! A write that deletes a million keys, a transaction with ranges or comparisons over a million, the end of a
//! lease with as many keys, a put that a million watchers are told of: each is carried out by calls that do
//! a bounded amount of [`crate::Work`], between which whoever drives the store does other things. The
//! outcome is that of the command in one go, whatever the slices, so replicas need not agree on them.
//!
//! While a write is under way ([`Store::write_is_open`]) its changes lie in the store under the next
//! revision, and nobody sees them: reads of now, hashes, snapshots and leases read at the current revision,
//! which moves with the last slice; watchers hold back what is of the next. Until then no other write may
//! be given to the store; compaction may go on, renewals of leases on the primary too. A store that is left
//! half through a write is of no use to anybody.
//! Tested by `tests/long.rs`: random histories in slices against the naive model, with reads of every kind
//! between the slices.

mod decide;
mod lease;
mod list;
mod order;
mod read;
mod walk;
mod write;

pub use lease::LongLeaseKeys;
pub use list::LongLeases;
pub use read::{LongTxnRead, let_go};
pub use write::{LongAnswer, LongRequest, LongWrite};

use crate::cursor::SliceLimits;
use crate::store::Store;
use crate::types::{RequestOp, TxnRequest};
use crate::work::{BYTES_PER_NANO, LOOK_NANOS};

/// Operations and comparisons that a transaction may have, each of a single key, to be carried out in one go.
/// Each copies a value or two at most.
const SHORT_OPS_MAX: usize = 8;
/// Keys that a delete or a lease's end may have.
const SHORT_KEYS_MAX: usize = 500;

impl Store {
    /// Might a transaction take longer than a slice?
    pub fn txn_is_long(&self, request: &TxnRequest<'_>) -> bool {
        !is_short(request, &mut 0)
    }

    /// Whether a write is under way in slices.
    pub fn write_is_open(&self) -> bool {
        self.open
    }

    /// The bounds of a range's next slice, if there is time until `until`.
    fn limits_until(&self, until: u64) -> SliceLimits {
        let left = until.saturating_sub(self.meter.nanos());
        let most = SliceLimits::default();
        let keys = usize::try_from(left / LOOK_NANOS).unwrap_or(usize::MAX);
        let bytes = usize::try_from(left.saturating_mul(BYTES_PER_NANO)).unwrap_or(usize::MAX);
        SliceLimits {
            keys_max: keys.clamp(1, most.keys_max),
            bytes_max: bytes.clamp(1, most.bytes_max),
        }
    }

    fn is_late(&self, until: u64) -> bool {
        self.meter.nanos() >= until
    }
}

fn is_short(request: &TxnRequest<'_>, ops: &mut usize) -> bool {
    *ops += request.compare.len() + request.success.len() + request.failure.len();
    let mut both = request.success.iter().chain(&request.failure);
    *ops <= SHORT_OPS_MAX
        && request.compare.iter().all(|compare| compare.range.is_one())
        && both.all(|op| match op {
            RequestOp::Range(range) => range.range.is_one(),
            RequestOp::Put(_) => true,
            RequestOp::DeleteRange(delete) => delete.range.is_one(),
            RequestOp::Txn(nested) => is_short(nested, ops),
        })
}
