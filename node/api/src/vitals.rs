//! Whether a shard can serve, in one word: what every call and every health check asks.
//!
//! Promises: asking takes one load, no lock and no copy of counters; the alarms follow from it here and
//! nowhere else. Must never know: who asks, and in which words it is answered.

use std::sync::atomic::{AtomicU16, Ordering};

use super::{Alarm, Metrics};

macro_rules! vitals {
    ($($(#[$doc:meta])* $name:ident = $bit:literal,)*) => {
        /// How a shard and its core are, as of their last turn.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Vitals {
            $($(#[$doc])* pub $name: bool,)*
        }

        impl Vitals {
            fn bits(self) -> u16 {
                0 $(| u16::from(self.$name) << $bit)*
            }

            fn of(bits: u16) -> Self {
                Vitals { $($name: bits & (1 << $bit) != 0,)* }
            }
        }

        impl Metrics {
            /// What of the counters says whether the shard can serve.
            pub fn vitals(&self) -> Vitals {
                Vitals { $($name: self.$name,)* }
            }
        }
    };
}

vitals! {
    /// A leader is known.
    has_leader = 0,
    /// It is this member.
    is_leader = 1,
    /// It has no room on its disk to say who leads, but is alone: reads are answered all the same.
    reads_alone = 2,
    /// The alarm of a spent quota is raised.
    alarm_nospace = 3,
    /// The alarm of data that differ is raised.
    alarm_corrupt = 4,
    /// The log cannot grow.
    space_low = 5,
    /// It is descriptors that it lacks.
    lacks_descriptors = 6,
    /// The log failed.
    poisoned = 7,
    /// The oldest log write does not complete.
    log_stuck = 8,
}

impl Vitals {
    /// Whether whoever asks for this alarm is told of it: it is raised, or this member's own disk is why it
    /// should be.
    pub fn raises(self, alarm: Alarm) -> bool {
        match alarm {
            Alarm::NoSpace => self.space_low || self.alarm_nospace,
            Alarm::Corrupt => self.poisoned || self.alarm_corrupt,
        }
    }
}

/// The same, written by a core and read by anybody.
#[derive(Debug, Default)]
pub struct SharedVitals(AtomicU16);

impl SharedVitals {
    /// As of the turn that ends.
    pub fn publish(&self, vitals: Vitals) {
        self.0.store(vitals.bits(), Ordering::Release);
    }

    /// As of the last turn.
    pub fn read(&self) -> Vitals {
        Vitals::of(self.0.load(Ordering::Acquire))
    }

    /// Of a shard and the core it lives on.
    pub fn with(&self, core: &SharedVitals) -> Vitals {
        Vitals::of(self.0.load(Ordering::Acquire) | core.0.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vital_has_a_bit_of_its_own() {
        for bit in 0..9 {
            let vitals = Vitals::of(1 << bit);
            assert_ne!(vitals, Vitals::default(), "{bit}");
            assert_eq!(vitals.bits(), 1 << bit);
        }
        let (shard, core) = (SharedVitals::default(), SharedVitals::default());
        let (leads, stuck) = (
            Vitals::of(0b11),
            Vitals {
                log_stuck: true,
                ..Vitals::default()
            },
        );
        shard.publish(leads);
        core.publish(stuck);
        let both = Vitals {
            log_stuck: true,
            ..leads
        };
        assert_eq!(
            (shard.with(&core), shard.read(), core.read()),
            (both, leads, stuck)
        );
    }
}
