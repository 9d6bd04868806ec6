//! The trace of a run, folded into one number: two runs of a seed must give the same.

/// What happened, for the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A node started.
    Start = 1,
    /// A node took a turn.
    Turn,
    /// A node crashed.
    Crash,
    /// A node was stopped in an orderly way.
    Stop,
    /// A node stands still.
    Pause,
    /// A node's clock went ahead.
    Jump,
    /// A frame was sent.
    Send,
    /// A frame arrived.
    Deliver,
    /// A frame was lost.
    Drop,
    /// Links changed.
    Links,
    /// The disk was told to misbehave.
    Disk,
    /// A client asked something.
    Invoke,
    /// A client got an answer.
    Answer,
    /// A revision was seen first.
    Revision,
    /// A watcher got a response.
    Watch,
    /// Everything is healthy from here on.
    Heal,
    /// Whoever leads was asked to let another lead.
    HandOver,
}

/// Folds events into a hash; prints them too if asked.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    print: bool,
}

impl Trace {
    /// An empty trace; `print` writes every event to standard error.
    pub fn new(print: bool) -> Self {
        Trace {
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            print,
        }
    }

    /// Notes one event.
    pub fn note(&mut self, time_us: u64, kind: Kind, node: u64, a: u64, b: u64) {
        self.events += 1;
        for word in [time_us, kind as u64, node, a, b] {
            self.fold(word);
        }
        if self.print {
            eprintln!("{time_us:>10} {kind:?} node={node} {a:x} {b:x}");
        }
    }

    /// Says something beside the trace, if events are printed.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.print {
            eprintln!("           {}", text());
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    fn fold(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// A number that stands for some bytes in the trace.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    hash
}
