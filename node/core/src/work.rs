//! What a turn may do, counted in the store's work and not by a clock.
//!
//! All shards of a core draw on one account, which each turn begins anew: what applies, reads and answers
//! stops at [`TURN_NANOS`] and goes on in the next turn; work that nobody waits for may go on to
//! [`BACKGROUND_NANOS`]. Whoever looks does so between slices, and a slice is well under a millisecond, so a
//! turn ends some way below ten: elections and heartbeats, the other shards and connections of the core wait
//! no longer, whatever anybody asks for. A value's own bytes are copied in one go.
//! Must never know: what the work is for. Tested by `tests/turns`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Work of a turn for callers: some thousand puts, or a dozen slices of reads.
pub const TURN_NANOS: u64 = 3_000_000;
/// Work of a turn in all.
pub const BACKGROUND_NANOS: u64 = 5_000_000;
/// Work for one shard before the others have theirs, half of it for reads if there is more to apply.
pub const SHARE_NANOS: u64 = 1_000_000;
/// Work of a slice for callers.
pub const SLICE_NANOS: u64 = 500_000;
/// An entry applied, beside what it does to the store.
pub const ENTRY_NANOS: u64 = 200;

/// A core's account of this turn.
#[derive(Clone, Debug, Default)]
pub struct TurnWork(Option<Arc<AtomicU64>>);

impl TurnWork {
    /// An account with bounds. The default has none: for shards without a core.
    pub fn bounded() -> Self {
        TurnWork(Some(Arc::default()))
    }

    /// A new turn; returns what the last one did.
    pub fn begin(&self) -> u64 {
        let spent = self.0.as_ref();
        spent.map_or(0, |spent| spent.swap(0, Ordering::Relaxed))
    }

    /// So much was done. Only the core's own thread does.
    pub fn spend(&self, nanos: u64) {
        if let Some(spent) = &self.0 {
            let sum = spent.load(Ordering::Relaxed).saturating_add(nanos);
            spent.store(sum, Ordering::Relaxed);
        }
    }

    /// What was done so far.
    pub fn spent(&self) -> u64 {
        let spent = self.0.as_ref();
        spent.map_or(0, |spent| spent.load(Ordering::Relaxed))
    }

    /// Whether callers may be served yet in this turn.
    pub fn has_time(&self) -> bool {
        self.spent() < TURN_NANOS
    }

    /// Until when somebody may go on who may do so much from now on.
    pub fn until(&self, nanos: u64) -> u64 {
        self.spent().saturating_add(nanos).min(TURN_NANOS)
    }

    /// Whether that is yet to come.
    pub fn is_before(&self, until: u64) -> bool {
        self.spent() < until
    }

    /// Whether the core may do other work yet.
    pub fn has_time_behind(&self) -> bool {
        self.spent() < BACKGROUND_NANOS
    }
}
