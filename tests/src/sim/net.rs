//! The network between the nodes: links that lose, repeat, delay, reorder and get cut, each direction
//! by itself.
//!
//! The real transport (TCP sessions) delivers a frame at most once and in order. This one is worse on
//! purpose, because raft must not need more, with one exception: a frame that carries forwarded proposals
//! is never repeated, since a command that is proposed twice is executed twice (as in etcd).

use bytes::Bytes;
use henge_core::pack;
use henge_raft::MessageKind;

use super::rng::Rng;

/// How bad the links are in this run.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Frames lost, per thousand.
    pub drop_permille: u64,
    /// Frames repeated, per thousand.
    pub repeat_permille: u64,
    /// Mean delay in microseconds.
    pub delay_us: u64,
    /// Frames that overtake or fall far behind, per thousand.
    pub late_permille: u64,
}

impl Weather {
    /// No loss, no repetition, short delays.
    pub const CALM: Weather = Weather {
        drop_permille: 0,
        repeat_permille: 0,
        delay_us: 200,
        late_permille: 0,
    };

    /// Reliable and slow: elections take long, and candidates overlap.
    pub const SLOW: Weather = Weather {
        delay_us: 20_000,
        ..Weather::CALM
    };

    /// Draws a run's weather: often calm in one respect, now and then bad in all.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut maybe = |odds, most| {
            if rng.permille(odds) {
                rng.between(1, most)
            } else {
                0
            }
        };
        Weather {
            drop_permille: maybe(600, 200),
            repeat_permille: maybe(500, 200),
            late_permille: maybe(500, 100),
            delay_us: 100 + maybe(700, 4_000),
        }
    }
}

/// All links.
#[derive(Debug)]
pub struct Network {
    weather: Weather,
    nodes: usize,
    /// `cut[from * nodes + to]`.
    cut: Vec<bool>,
    rng: Rng,
    /// Repeats frames with proposals too: a planted bug.
    repeat_proposals: bool,
}

/// A copy of a frame that will arrive.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Microseconds from now.
    pub delay_us: u64,
}

impl Network {
    /// Links between all pairs.
    pub fn new(nodes: usize, weather: Weather, repeat_proposals: bool, rng: Rng) -> Self {
        Network {
            weather,
            nodes,
            cut: vec![false; nodes * nodes],
            rng,
            repeat_proposals,
        }
    }

    /// What becomes of a frame: no arrival, one, or several.
    pub fn route(&mut self, from: usize, to: usize, frame: &Bytes) -> Vec<Arrival> {
        let weather = self.weather;
        if self.cut[from * self.nodes + to] || self.rng.permille(weather.drop_permille) {
            return Vec::new();
        }
        let mut arrivals = vec![self.arrival()];
        if self.rng.permille(weather.repeat_permille)
            && (self.repeat_proposals || !carries_proposals(frame))
        {
            arrivals.push(self.arrival());
        }
        arrivals
    }

    /// Whether frames get from one node to another at all.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[from * self.nodes + to]
    }

    /// Cuts some links: one node off, two sides, or single directions. Returns a mask for the trace.
    pub fn partition(&mut self) -> u64 {
        let nodes = self.nodes;
        self.mend();
        match self.rng.below(4) {
            // One node hears and reaches nobody.
            0 => {
                let alone = self.rng.index(nodes);
                self.cut_where(|from, to| from == alone || to == alone);
            }
            // One node can speak and not hear.
            1 => {
                let deaf = self.rng.index(nodes);
                self.cut_where(|_, to| to == deaf);
            }
            // One node can hear and not speak.
            2 => {
                let mute = self.rng.index(nodes);
                self.cut_where(|from, _| from == mute);
            }
            // Single directions at random: with three nodes, often a chain.
            _ => {
                let mask = self.rng.bits() & self.rng.bits();
                self.cut_where(|from, to| mask >> (from * nodes + to) & 1 == 1);
            }
        }
        self.mask()
    }

    /// Mends all links.
    pub fn mend(&mut self) {
        self.cut.fill(false);
    }

    /// Mends all links and calms the weather.
    pub fn heal(&mut self) {
        self.mend();
        self.weather = Weather::CALM;
    }

    fn arrival(&mut self) -> Arrival {
        let Weather {
            delay_us,
            late_permille,
            ..
        } = self.weather;
        let late = if self.rng.permille(late_permille) {
            self.rng.spread(100_000)
        } else {
            0
        };
        Arrival {
            delay_us: 20 + self.rng.spread(delay_us) + late,
        }
    }

    fn cut_where(&mut self, which: impl Fn(usize, usize) -> bool) {
        for from in 0..self.nodes {
            for to in 0..self.nodes {
                self.cut[from * self.nodes + to] = from != to && which(from, to);
            }
        }
    }

    fn mask(&self) -> u64 {
        self.cut
            .iter()
            .fold(0, |mask, cut| mask << 1 | u64::from(*cut))
    }
}

fn carries_proposals(frame: &Bytes) -> bool {
    match pack::unpack(frame.clone()) {
        Ok(messages) => messages
            .iter()
            .any(|(_, message)| message.kind == MessageKind::Prop),
        Err(_) => false,
    }
}
