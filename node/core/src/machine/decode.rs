//! Reading the fields of a command; see `command` for the layout. Every read is bounds-checked.
//! Must never know: what the fields mean.

use henge_api::{Alarm, AlarmAction, AlarmMember};
use henge_mvcc::check::TXN_DEPTH_MAX;
use henge_mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, PutRequest, RangeRequest,
    RequestOp, SortOrder, SortTarget, TxnRequest,
};

use super::command::{Adding, Command, CommandError, LEASES_MAX, tag};

/// Takes fields off the front of an encoded command.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], CommandError> {
        let (head, tail) = self
            .bytes
            .split_at_checked(count)
            .ok_or(CommandError::Short)?;
        self.bytes = tail;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CommandError> {
        let (head, tail) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(CommandError::Short)?;
        self.bytes = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, CommandError> {
        Ok(self.array::<1>()?[0])
    }

    /// A byte of flags; unknown ones are refused, as what they ask for would be left undone.
    fn flags(&mut self, what: &'static str, known: u8) -> Result<u8, CommandError> {
        let byte = self.u8()?;
        match byte & !known {
            0 => Ok(byte),
            _ => Err(CommandError::Flags { what, byte, known }),
        }
    }

    pub(super) fn u64(&mut self) -> Result<u64, CommandError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, CommandError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(super) fn bool(&mut self) -> Result<bool, CommandError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(CommandError::Tag {
                what: "boolean",
                tag,
            }),
        }
    }

    pub(super) fn len(&mut self) -> Result<usize, CommandError> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    pub(super) fn slice(&mut self) -> Result<&'a [u8], CommandError> {
        let len = self.len()?;
        self.take(len)
    }

    /// A count of things that each take at least `least` bytes: it cannot make us reserve more memory
    /// than the input could fill.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, CommandError> {
        let count = self.len()?;
        if count > self.bytes.len() / least {
            return Err(CommandError::Short);
        }
        Ok(count)
    }

    pub(super) fn lease_ids(&mut self) -> Result<Vec<i64>, CommandError> {
        let count = self.count(8)?;
        if count > LEASES_MAX {
            return Err(CommandError::Leases(count));
        }
        (0..count).map(|_| self.i64()).collect()
    }

    pub(super) fn key_range(&mut self) -> Result<KeyRange<'a>, CommandError> {
        Ok(KeyRange {
            key: self.slice()?,
            end: self.slice()?,
        })
    }

    pub(super) fn alarm(&mut self) -> Result<Command<'a>, CommandError> {
        let (action, alarm, member_id) = (self.u8()?, self.u8()?, self.u64()?);
        let unknown = |what, tag| CommandError::Tag { what, tag };
        Ok(Command::Alarm {
            action: AlarmAction::from_u8(action).ok_or(unknown("alarm action", action))?,
            alarm: AlarmMember {
                alarm: Alarm::from_u8(alarm).ok_or(unknown("alarm", alarm))?,
                member_id,
            },
        })
    }

    pub(super) fn put(&mut self) -> Result<PutRequest<'a>, CommandError> {
        let flags = self.flags("put", 0b111)?;
        Ok(PutRequest {
            lease: self.i64()?,
            key: self.slice()?,
            value: self.slice()?,
            prev_kv: flags & 1 != 0,
            ignore_value: flags & 2 != 0,
            ignore_lease: flags & 4 != 0,
        })
    }

    pub(super) fn delete(&mut self) -> Result<DeleteRangeRequest<'a>, CommandError> {
        let flags = self.flags("deletion", 0b1)?;
        Ok(DeleteRangeRequest {
            range: self.key_range()?,
            prev_kv: flags & 1 != 0,
        })
    }

    pub(super) fn range(&mut self) -> Result<RangeRequest<'a>, CommandError> {
        let flags = self.flags("range", 0b111)?;
        let sort_order = match self.u8()? {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            tag => {
                return Err(CommandError::Tag {
                    what: "sort order",
                    tag,
                });
            }
        };
        let sort_target = match self.u8()? {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            tag => {
                return Err(CommandError::Tag {
                    what: "sort target",
                    tag,
                });
            }
        };
        Ok(RangeRequest {
            keys_only: flags & 1 != 0,
            count_only: flags & 2 != 0,
            may_end_early: flags & 4 != 0,
            sort_order,
            sort_target,
            limit: self.i64()?,
            revision: self.i64()?,
            min_mod_revision: self.i64()?,
            max_mod_revision: self.i64()?,
            min_create_revision: self.i64()?,
            max_create_revision: self.i64()?,
            range: self.key_range()?,
        })
    }

    pub(super) fn txn(&mut self, depth: usize) -> Result<TxnRequest<'a>, CommandError> {
        if depth > TXN_DEPTH_MAX {
            return Err(CommandError::Depth);
        }
        let count = self.count(10)?;
        let mut compare = Vec::with_capacity(count);
        for _ in 0..count {
            compare.push(self.compare()?);
        }
        Ok(TxnRequest {
            compare,
            success: self.ops(depth)?,
            failure: self.ops(depth)?,
        })
    }

    pub(super) fn ops(&mut self, depth: usize) -> Result<Vec<RequestOp<'a>>, CommandError> {
        let count = self.count(10)?;
        let mut ops = Vec::with_capacity(count);
        for _ in 0..count {
            ops.push(match self.u8()? {
                tag::RANGE => RequestOp::Range(self.range()?),
                tag::PUT => RequestOp::Put(self.put()?),
                tag::DELETE_RANGE => RequestOp::DeleteRange(self.delete()?),
                tag::TXN => RequestOp::Txn(Box::new(self.txn(depth + 1)?)),
                tag => return Err(unknown_op(tag)),
            });
        }
        Ok(ops)
    }

    /// Goes through a transaction as [`Reader::txn`] does, and keeps nothing of it: that takes a quarter of
    /// the time.
    pub(super) fn skim_txn(&mut self, depth: usize) -> Result<Adding, CommandError> {
        if depth > TXN_DEPTH_MAX {
            return Err(CommandError::Depth);
        }
        for _ in 0..self.count(10)? {
            self.compare()?;
        }
        Ok(self.skim_ops(depth)?.or(self.skim_ops(depth)?))
    }

    fn skim_ops(&mut self, depth: usize) -> Result<Adding, CommandError> {
        let mut found = Adding::default();
        for _ in 0..self.count(10)? {
            found = found.and(match self.u8()? {
                tag::RANGE => self.range().map(|_| Adding::default())?,
                tag::PUT => Adding::put(&self.put()?),
                tag::DELETE_RANGE => self.delete().map(|_| Adding::default())?,
                tag::TXN => self.skim_txn(depth + 1)?,
                tag => return Err(unknown_op(tag)),
            });
        }
        Ok(found)
    }

    pub(super) fn compare(&mut self) -> Result<Compare<'a>, CommandError> {
        let result = match self.u8()? {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            tag => {
                return Err(CommandError::Tag {
                    what: "compare result",
                    tag,
                });
            }
        };
        let target = match self.u8()? {
            0 => CompareTarget::Version(self.i64()?),
            1 => CompareTarget::CreateRevision(self.i64()?),
            2 => CompareTarget::ModRevision(self.i64()?),
            3 => CompareTarget::Value(self.slice()?),
            4 => CompareTarget::Lease(self.i64()?),
            tag => {
                return Err(CommandError::Tag {
                    what: "compare target",
                    tag,
                });
            }
        };
        Ok(Compare {
            result,
            target,
            range: self.key_range()?,
        })
    }
}

fn unknown_op(tag: u8) -> CommandError {
    CommandError::Tag {
        what: "operation",
        tag,
    }
}
