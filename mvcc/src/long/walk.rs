//! The path that a transaction takes, walked in slices.
//!
//! Given the outcomes of the transactions on it in the order in which they come, a walk says what is next,
//! and keeps nothing of the request: between slices it is a few numbers, however many operations there are.
//! Knows nothing of what the operations do. Tested by `tests/long.rs`.

use crate::error::Error;
use crate::txn::branch_of;
use crate::types::{RequestOp, TxnRequest};

/// Where in a transaction's branch.
#[derive(Debug)]
pub(super) struct Level {
    pub succeeded: bool,
    /// The operation to go on with.
    pub next: usize,
}

/// Where on a path.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The transactions around, the outermost first.
    levels: Vec<Level>,
    /// Transactions entered so far.
    entered: usize,
}

/// What comes next on a path.
pub(super) enum Step<'r, 'a> {
    /// A transaction, with so many operations in its branch.
    Enter { succeeded: bool, ops: usize },
    /// An operation that is no transaction.
    Op(&'r RequestOp<'a>),
    /// The end of the transaction entered last.
    Leave,
}

/// The transactions around a place, the outermost first: one more than these levels.
pub(super) fn around<'r, 'a>(
    request: &'r TxnRequest<'a>,
    levels: &[Level],
) -> Result<Vec<&'r TxnRequest<'a>>, Error> {
    let mut way = vec![request];
    for (level, at) in levels.iter().zip(0..) {
        let op = level.next.checked_sub(1).and_then(|last| {
            let txn: &&'r TxnRequest<'a> = way.get(at)?;
            branch_of(txn, level.succeeded).get(last)
        });
        let Some(RequestOp::Txn(nested)) = op else {
            // The request is another one.
            return Err(Error::KeyNotFound);
        };
        way.push(nested);
    }
    Ok(way)
}

impl Walk {
    /// The transactions around, as [`Walk::step`] wants them.
    pub fn way<'r, 'a>(
        &self,
        request: &'r TxnRequest<'a>,
    ) -> Result<Vec<&'r TxnRequest<'a>>, Error> {
        match self.levels.split_last() {
            Some((_, outer)) => around(request, outer),
            None => Ok(Vec::new()),
        }
    }

    /// The operation that was passed last.
    pub fn passed<'r, 'a>(&self, way: &[&'r TxnRequest<'a>]) -> Option<&'r RequestOp<'a>> {
        let level = self.levels.last()?;
        branch_of(way.last()?, level.succeeded).get(level.next.checked_sub(1)?)
    }

    /// Goes one step on; nothing once it is over.
    pub fn step<'r, 'a>(
        &mut self,
        request: &'r TxnRequest<'a>,
        way: &mut Vec<&'r TxnRequest<'a>>,
        outcomes: &[bool],
    ) -> Option<Step<'r, 'a>> {
        let entered = match self.levels.last_mut() {
            None if self.entered > 0 => return None,
            None => request,
            Some(level) => {
                let txn: &'r TxnRequest<'a> = way.last()?;
                let op = branch_of(txn, level.succeeded).get(level.next);
                level.next += 1;
                match op {
                    Some(RequestOp::Txn(nested)) => nested,
                    Some(op) => return Some(Step::Op(op)),
                    None => {
                        self.levels.pop();
                        way.pop();
                        return Some(Step::Leave);
                    }
                }
            }
        };
        let succeeded = outcomes.get(self.entered).copied().unwrap_or_default();
        self.entered += 1;
        self.levels.push(Level { succeeded, next: 0 });
        way.push(entered);
        let ops = branch_of(entered, succeeded).len();
        Some(Step::Enter { succeeded, ops })
    }
}
