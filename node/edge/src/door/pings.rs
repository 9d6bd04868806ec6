//! How often a client may ask whether this server is still there: grpc-go's rule, which etcd's
//! `--grpc-keepalive-min-time` sets (`http2_server.go`: `handlePing`).
//!
//! A ping counts as a strike if the one before was less than the least time ago; without a call under way, if
//! it was less than two hours ago. What the server answers in between forgives all strikes, so that a client
//! may measure while it reads. The third strike ends the connection with GOAWAY, ENHANCE_YOUR_CALM and
//! `too_many_pings`, which gRPC clients know: they wait longer the next time.
//! Must never know: sockets, frames of other kinds.

use std::time::Duration;

use tokio::time::Instant;

use crate::counters::Calls;

/// Strikes that are let pass (grpc-go's `maxPingStrikes`).
const STRIKES_MAX: u32 = 2;
/// The least time between two pings of a client that has no call under way (`defaultPingTimeout`).
const IDLE_MIN: Duration = Duration::from_secs(2 * 3_600);
/// What etcd has for no least time at all: grpc-go's default.
const UNSET_MIN: Duration = Duration::from_secs(5 * 60);

/// The pings of one connection.
#[derive(Debug)]
pub(crate) struct Pings {
    calls: Calls,
    least: Duration,
    last: Option<Instant>,
    strikes: u32,
    /// The server has answered something since the last one.
    answered: bool,
}

impl Pings {
    /// None was seen.
    pub(crate) fn new(calls: Calls, least: Duration) -> Pings {
        Pings {
            calls,
            least: if least.is_zero() { UNSET_MIN } else { least },
            last: None,
            strikes: 0,
            answered: false,
        }
    }

    /// The server sent headers or data.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }

    /// A ping came, with a call that is perhaps not counted yet if `calls`; whether it is one too many.
    pub(crate) fn too_many(&mut self, now: Instant, calls: bool) -> bool {
        let last = self.last.replace(now);
        if std::mem::take(&mut self.answered) {
            self.strikes = 0;
            return false;
        }
        let least = if calls || self.calls.any() {
            self.least
        } else {
            IDLE_MIN
        };
        if last.is_some_and(|last| now < last + least) {
            self.strikes += 1;
        }
        self.strikes > STRIKES_MAX
    }
}

/// The frame that says so to a client whose newest stream is `last_stream`.
pub(crate) fn goaway(last_stream: [u8; 4]) -> Vec<u8> {
    const WHY: &[u8] = b"too_many_pings";
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u8 = 11;
    let len = 8 + WHY.len() as u8;
    let head = [0, 0, len, GOAWAY, 0, 0, 0, 0, 0];
    [&head[..], &last_stream, &[0, 0, 0, ENHANCE_YOUR_CALM], WHY].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_secs(5);

    /// Seconds between pings until there are too many, of a client that does `between` after each.
    fn pings(every: Duration, has_call: bool, between: impl Fn(&mut Pings)) -> Option<usize> {
        let calls = Calls::default();
        let _call = has_call.then(|| calls.begin());
        let mut pings = Pings::new(calls, LEAST);
        let mut now = Instant::now();
        (1..=20).find(|_| {
            let too_many = pings.too_many(now, false);
            now += every;
            between(&mut pings);
            too_many
        })
    }

    #[test]
    fn the_third_ping_that_comes_too_soon_is_one_too_many() {
        let second = Duration::from_secs(1);
        let nothing = |_: &mut Pings| {};
        assert_eq!(pings(second, true, nothing), Some(4));
        assert_eq!(pings(second, false, nothing), Some(4));
        assert_eq!(pings(LEAST, true, nothing), None, "as often as allowed");
        assert_eq!(pings(LEAST, false, nothing), Some(4), "not without a call");
        assert_eq!(pings(IDLE_MIN, false, nothing), None);
        assert_eq!(pings(second, true, Pings::answered), None, "it is answered");
        assert_eq!(
            Pings::new(Calls::default(), Duration::ZERO).least,
            UNSET_MIN
        );
    }

    #[test]
    fn a_call_counts_for_as_long_as_it_lives() {
        let calls = Calls::default();
        let call = calls.begin();
        assert!(calls.any());
        drop(call);
        assert!(!calls.any());
    }
}
