//! What damage must come to, computed from which parts of which batches differ from what was written: the
//! decision table, told once more and independently of recovery.

use std::collections::BTreeSet;
use std::ops::Range;

use henge_wal::OpenError;
use henge_wal::disk::sim::SimHandle;

use super::holes_are_all_that_differs;
use super::layout::{Batch, Due, Sealed, Tally, open};

/// What is left of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Whole,
    /// Everything, by its second copy.
    Twice,
    /// Whose it was.
    Names,
    Nothing,
}

/// What damage of the whole log comes to, so far.
#[derive(Default)]
struct Sum {
    refused: bool,
    noted: bool,
    cut: bool,
    groups: BTreeSet<u64>,
    /// Nothing says what is due.
    open: bool,
}

impl Sealed {
    /// What the damage that was done to a copy of the log must come to; `None`: that depends on more than
    /// which parts are hit.
    pub fn due_of(&self, damaged: &SimHandle) -> Option<Due> {
        let mut sum = Sum::default();
        for (name, batches) in &self.files {
            let before = self.machine.file(name).expect("a segment");
            let after = damaged.file(name).expect("a segment");
            if before != after {
                let hit = |range: Range<usize>| before[range.clone()] != after[range];
                let last = name == self.files.last_key_value().expect("files").0;
                sum.file(batches, last, &before, &hit);
            }
        }
        let due = match sum {
            Sum { open: true, .. } => return None,
            Sum { refused: true, .. } => Due::Refused,
            Sum { groups, .. } if !groups.is_empty() => Due::Damaged(groups),
            Sum { cut: true, .. } => Due::Cut,
            Sum { noted: true, .. } => Due::Noted,
            _ => Due::Nothing,
        };
        Some(due)
    }

    /// Open it and compare. Whether it could be said what is due.
    pub fn judge(&self, damaged: &SimHandle, what: &str, tally: &mut Tally) -> bool {
        match self.due_of(damaged) {
            Some(Due::Refused) => {
                let refused = open(damaged).map(|opened| format!("{opened:?}"));
                match refused {
                    Err(OpenError::Corrupt(_) | OpenError::MissingSegment { .. }) => {}
                    other => panic!("{what}: not refused: {other:?}"),
                }
                tally.count("refused");
                true
            }
            Some(due) => {
                self.check(damaged, &due, what, tally);
                true
            }
            None => {
                match open(damaged) {
                    Ok(opened) => holes_are_all_that_differs(&opened, &self.state),
                    Err(OpenError::Corrupt(_) | OpenError::MissingSegment { .. }) => {}
                    Err(other) => panic!("{what}: {other}"),
                }
                tally.count("not said");
                false
            }
        }
    }
}

impl Sum {
    fn file(
        &mut self,
        batches: &[Batch],
        last: bool,
        before: &[u8],
        hit: &dyn Fn(Range<usize>) -> bool,
    ) {
        match (hit(0..4096), hit(4096..8192)) {
            (true, true) => self.refused = true, // row 8, 10 or 13
            (false, false) => {}
            _ => self.noted = true,
        }
        let mut left: Vec<Left> = batches.iter().map(|batch| batch.left(hit)).collect();
        let end = batches.last().expect("batches").end;
        if last {
            let closing = batches.last().expect("batches");
            let gone = hit(closing.header()) && hit(closing.trailer());
            match left.pop().expect("a closing mark") {
                Left::Whole => {}
                Left::Twice => self.noted = true,
                Left::Names | Left::Nothing if !gone => self.cut = true, // row 5
                // Row 6. Nothing says any more that those before it are durable, but for the ready files.
                _ => self.open |= left.iter().any(|left| *left != Left::Whole),
            }
        }
        self.noted |= left.contains(&Left::Twice);
        for (batch, left) in batches.iter().zip(&left) {
            if *left == Left::Names {
                self.groups.extend(&batch.groups); // rows 2 and 4
            }
        }
        let Some(first) = left.iter().position(|left| *left == Left::Nothing) else {
            return;
        };
        // A hole ends where the next batch begins that has its header.
        let behind = (first + 1..left.len()).find(|n| !hit(batches[*n].header()));
        let to = behind.unwrap_or(left.len());
        let footer = before[end..].starts_with(b"HngB");
        let footer_end = (end + 4096).min(before.len());
        if last || !footer {
            self.refused = true; // rows 2b and 4a
        } else if hit(end..footer_end) {
            self.open = true;
        } else {
            let good = |left: &Left| matches!(left, Left::Whole | Left::Twice);
            match left[to..].iter().all(good) {
                true => {
                    let gone = &batches[first..to];
                    self.noted = true;
                    self.groups
                        .extend(gone.iter().flat_map(|batch| &batch.groups)); // row 2a
                }
                false => self.refused = true,
            }
        }
    }
}

impl Batch {
    fn header(&self) -> Range<usize> {
        self.offset..self.offset + 128
    }

    fn trailer(&self) -> Range<usize> {
        self.end - 128..self.end
    }

    fn left(&self, hit: &dyn Fn(Range<usize>) -> bool) -> Left {
        let (header, trailer) = (hit(self.header()), hit(self.trailer()));
        let records = hit(self.offset + 128..self.marks_at);
        let marks = hit(self.marks_at..self.end - 128);
        match (header && trailer, records, marks) {
            (true, ..) | (_, true, true) => Left::Nothing,
            (_, true, false) => Left::Names,
            (_, false, true) => Left::Twice,
            (_, false, false) if header || trailer => Left::Twice,
            _ => Left::Whole,
        }
    }
}
