//! Anything that a client may ask: every kind of request, with any sizes, depths, counts, sorts and filters.

use henge::api::{Alarm, AlarmAction, AlarmMember};
use henge::mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, PutRequest, RangeRequest,
    RequestOp, SortOrder, SortTarget, TxnRequest,
};
use henge_core::machine::{Command, command};
use henge_core::shard::cursor::Cursor;
use henge_core::shard::request::RequestKind;

use super::Dice;

/// Keys of the store.
pub const KEYS: u64 = 20_000;
/// Leases, of which the first holds half of the keys.
pub const LEASES: i64 = 3;
/// Leases that nobody asks for, so many that a turn has no time for each of them.
pub const MORE_LEASES: i64 = 12_000;
/// What the simulated reference machine needs at the least to look at every key: see `henge_mvcc::Work`.
const ALL_KEYS_NANOS: u64 = KEYS * 250;
/// The same to change every key.
const ALL_CHANGES_NANOS: u64 = KEYS * 1_000;

pub fn key(n: u64) -> Vec<u8> {
    format!("key {n:06}").into_bytes()
}

/// Every kind of request by name. No wildcard: whoever adds a kind has to name it here and in [`NAMES`], say
/// in [`heaviest`] what the heaviest of its kind costs, and have it asked for by [`anything`].
pub fn name(kind: &RequestKind) -> &'static str {
    let written = |encoded: &[u8]| match command::decode(encoded).expect("own bytes").1 {
        Command::Put(_) => "put",
        Command::DeleteRange(_) => "delete",
        Command::Txn(_) => "txn",
        Command::Range(_) => "range",
        Command::Compact { .. } => "compact",
        Command::LeaseGrant { .. } => "grant",
        Command::LeaseRevoke { .. } => "revoke",
        Command::LeaseRenew { .. } => "renew",
        Command::LeaseExpire { .. } => "expire",
        Command::LeaseRenewMany { .. } => "renew many",
        Command::LeaseExpireMany { .. } => "expire many",
        Command::Alarm { .. } => "alarm",
    };
    match kind {
        // Deeper than anybody decodes.
        RequestKind::Write(encoded) if command::decode(encoded).is_err() => "too deep",
        RequestKind::Write(encoded) if is_wide(encoded) => "wide txn",
        RequestKind::Write(encoded) => written(encoded),
        RequestKind::Read { encoded, .. } if written(encoded) == "txn" => "read txn",
        RequestKind::Read { .. } => "range",
        RequestKind::CursorBegin { .. } => "cursor",
        RequestKind::CursorNext(_) => "slice",
        RequestKind::LeaseKeepAlive(_) => "keep alive",
        RequestKind::LeaseTimeToLive { .. } => "time to live",
        RequestKind::Leases => "leases",
        RequestKind::Alarms => "alarms",
        RequestKind::HashKv(_) => "hash",
        RequestKind::Status => "status",
        RequestKind::Barrier => "barrier",
    }
}

fn is_wide(encoded: &[u8]) -> bool {
    let nested = |ops: &[RequestOp<'_>]| {
        let nested = ops.iter().filter(|op| matches!(op, RequestOp::Txn(_)));
        nested.count()
    };
    matches!(command::decode(encoded), Ok((_, Command::Txn(txn))) if nested(&txn.success) > 10)
}

/// All names.
pub const NAMES: [&str; 28] = [
    "put",
    "delete",
    "txn",
    "too deep",
    "wide txn",
    "range",
    "compact",
    "grant",
    "revoke",
    "renew",
    "expire",
    "renew many",
    "expire many",
    "read txn",
    "cursor",
    "slice",
    "keep alive",
    "time to live",
    "leases",
    "alarm",
    "alarms",
    "hash",
    "status",
    "barrier",
    "watch",
    "new leader",
    "very many watchers",
    "a change with very many watchers",
];

/// The heaviest of each kind on the full store, and what it costs at the least: a kind whose work nobody
/// counts costs too little here. Those that leave the store empty come last.
pub fn heaviest() -> Vec<(RequestKind, u64)> {
    let sorted = RangeRequest {
        range: KeyRange::all(),
        sort_target: SortTarget::Value,
        sort_order: SortOrder::Descend,
        limit: 1,
        ..RangeRequest::default()
    };
    let value = vec![7; 1 << 20];
    let put = PutRequest {
        key: b"large",
        value: &value,
        ..PutRequest::default()
    };
    let compare = Compare {
        range: KeyRange::all(),
        result: CompareResult::Greater,
        target: CompareTarget::Version(0),
    };
    let ten = |compare| TxnRequest {
        compare,
        success: vec![RequestOp::Range(sorted.clone()); 10],
        failure: Vec::new(),
    };
    let delete = DeleteRangeRequest {
        range: KeyRange::all(),
        prev_kv: true,
    };
    let mut written = ten(vec![compare.clone()]);
    written.success.push(RequestOp::Put(PutRequest {
        key: b"small",
        ..PutRequest::default()
    }));
    let write = |command: Command<'_>| RequestKind::Write(command.encode());
    let read = |command: Command<'_>| RequestKind::Read {
        encoded: command.encode(),
        serializable: false,
    };
    vec![
        (write(Command::Put(put)), (1 << 20) / 4),
        (read(Command::Range(sorted.clone())), ALL_KEYS_NANOS),
        (
            read(Command::Txn(ten(vec![compare; 5]))),
            15 * ALL_KEYS_NANOS,
        ),
        (write(Command::Txn(written)), 11 * ALL_KEYS_NANOS),
        // A transaction of transactions and nothing else: every one on the path is looked at.
        (
            write(Command::Txn(tree(&[43, 43, 42], &[]))),
            43 * 43 * 42 * 250,
        ),
        (RequestKind::HashKv(0), ALL_KEYS_NANOS),
        (
            RequestKind::LeaseTimeToLive { id: 1, keys: true },
            ALL_KEYS_NANOS / 2,
        ),
        (RequestKind::LeaseKeepAlive(1), 0),
        (RequestKind::Leases, 0),
        (RequestKind::Status, 0),
        (RequestKind::Barrier, 0),
        (write(Command::LeaseGrant { id: 99, ttl_s: 60 }), 0),
        (write(Command::LeaseRevoke { id: 1 }), ALL_CHANGES_NANOS / 2),
        (write(Command::DeleteRange(delete)), ALL_CHANGES_NANOS / 2),
    ]
}

/// Any request. `revision` is about the current one.
pub fn anything(dice: &mut Dice, revision: i64) -> RequestKind {
    let write = |command: Command<'_>| RequestKind::Write(command.encode());
    let lease = 1 + dice.below(LEASES as u64 + 1) as i64;
    match dice.below(40) {
        0..=7 => {
            let (key, value) = (key(dice.below(KEYS)), vec![7; size(dice)]);
            write(Command::Put(some_put(dice, &key, &value)))
        }
        8..=9 => {
            let bounds = some_bounds(dice);
            write(Command::DeleteRange(DeleteRangeRequest {
                range: as_range(&bounds),
                prev_kv: dice.one_in(2),
            }))
        }
        10..=14 => some_txn(dice, revision, false),
        15..=19 => some_txn(dice, revision, true),
        20..=26 => {
            let bounds = some_bounds(dice);
            RequestKind::Read {
                encoded: Command::Range(some_range(dice, &bounds, revision)).encode(),
                serializable: dice.one_in(2),
            }
        }
        27 => write(Command::Compact {
            revision: revision - dice.below(50) as i64,
            physical: dice.one_in(4),
        }),
        28 => write(Command::LeaseGrant {
            id: lease,
            ttl_s: 60,
        }),
        29 => write(Command::LeaseRevoke { id: lease }),
        30 => match dice.one_in(2) {
            true => write(Command::LeaseRenew { id: lease }),
            false => write(Command::LeaseRenewMany {
                ids: (1..=LEASES + 2).collect(),
            }),
        },
        31 => {
            let seen = dice.below(1 << 40);
            match dice.one_in(2) {
                true => write(Command::LeaseExpire { id: lease, seen }),
                false => write(Command::LeaseExpireMany {
                    seen,
                    ids: (1..=LEASES + 2).collect(),
                }),
            }
        }
        32 => RequestKind::LeaseKeepAlive(lease),
        33 => RequestKind::LeaseTimeToLive {
            id: lease,
            keys: dice.one_in(2),
        },
        34 => match dice.below(3) {
            0 => RequestKind::Leases,
            1 => RequestKind::Alarms,
            // One that is not raised.
            _ => write(Command::Alarm {
                action: AlarmAction::Deactivate,
                alarm: AlarmMember {
                    alarm: Alarm::NoSpace,
                    member_id: 1,
                },
            }),
        },
        35..=36 => RequestKind::HashKv(match dice.one_in(2) {
            true => 0,
            false => revision - dice.below(20) as i64,
        }),
        37 => RequestKind::Status,
        38 => RequestKind::Barrier,
        _ => {
            let range = RangeRequest {
                range: KeyRange::all(),
                ..RangeRequest::default()
            };
            RequestKind::CursorBegin {
                encoded: Command::Range(range).encode(),
                cursor: Cursor::default(),
            }
        }
    }
}

fn size(dice: &mut Dice) -> usize {
    let most = [1, 100, 10_000, 300_000][dice.below(4) as usize];
    dice.below(most) as usize
}

fn some_put<'a>(dice: &mut Dice, key: &'a [u8], value: &'a [u8]) -> PutRequest<'a> {
    PutRequest {
        key,
        value,
        lease: if dice.one_in(4) {
            1 + dice.below(LEASES as u64) as i64
        } else {
            0
        },
        prev_kv: dice.one_in(2),
        ..PutRequest::default()
    }
}

/// The ends of a range: mostly of many keys.
fn some_bounds(dice: &mut Dice) -> (Vec<u8>, Vec<u8>) {
    let (a, b) = (dice.below(KEYS), dice.below(KEYS));
    match dice.below(4) {
        0 => (b"\0".to_vec(), b"\0".to_vec()),
        1 => (key(a), Vec::new()),
        2 => (key(a), b"\0".to_vec()),
        _ => (key(a.min(b)), key(a.max(b))),
    }
}

fn as_range((key, end): &(Vec<u8>, Vec<u8>)) -> KeyRange<'_> {
    KeyRange { key, end }
}

fn some_range<'a>(
    dice: &mut Dice,
    bounds: &'a (Vec<u8>, Vec<u8>),
    revision: i64,
) -> RangeRequest<'a> {
    use SortTarget::{Create, Key, Mod, Value, Version};
    let orders = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
    let limits = [0, 0, 1, 7, 500, 5_000];
    let filter = |dice: &mut Dice| match dice.one_in(4) {
        true => revision - dice.below(1_000) as i64,
        false => 0,
    };
    RangeRequest {
        range: as_range(bounds),
        limit: limits[dice.below(6) as usize],
        revision: match dice.one_in(3) {
            true => revision - dice.below(40) as i64,
            false => 0,
        },
        sort_order: orders[dice.below(3) as usize],
        sort_target: [Key, Version, Create, Mod, Value][dice.below(5) as usize],
        keys_only: dice.one_in(4),
        count_only: dice.one_in(4),
        min_mod_revision: filter(dice),
        max_create_revision: filter(dice),
        ..RangeRequest::default()
    }
}

/// A transaction of up to 128 operations at each of up to some 150 levels, of which deeper ones than 128 are
/// refused.
fn some_txn(dice: &mut Dice, revision: i64, reads_only: bool) -> RequestKind {
    let wide = dice.one_in(4);
    let count = if wide { 128 } else { 6 };
    let bounds: Vec<_> = (0..count).map(|_| some_bounds(dice)).collect();
    let keys: Vec<_> = (0..count).map(|_| key(dice.below(KEYS))).collect();
    let value = vec![9; if wide { 10 } else { size(dice) }];
    let compare = (0..dice.below(4)).map(|n| Compare {
        range: as_range(&bounds[n as usize % bounds.len()]),
        result: CompareResult::Greater,
        target: match n {
            0 => CompareTarget::ModRevision(0),
            1 => CompareTarget::Value(b""),
            _ => CompareTarget::Version(0),
        },
    });
    let compare = compare.collect();
    let mut success = Vec::new();
    for (bounds, key) in bounds.iter().zip(&keys) {
        // A few of everything are enough of that.
        let is_one = wide && bounds.0 == b"\0";
        success.push(match dice.below(6) {
            0 if !reads_only => RequestOp::Put(some_put(dice, key, &value)),
            1 if !reads_only && !is_one => RequestOp::DeleteRange(DeleteRangeRequest {
                range: as_range(bounds),
                prev_kv: dice.one_in(2),
            }),
            2..=3 if wide => RequestOp::Range(RangeRequest {
                range: KeyRange::one(key),
                ..RangeRequest::default()
            }),
            _ => RequestOp::Range(some_range(dice, bounds, revision)),
        });
    }
    let mut txn = TxnRequest {
        compare,
        success,
        failure: vec![RequestOp::Range(some_range(dice, &bounds[0], revision))],
    };
    if reads_only {
        return RequestKind::Read {
            encoded: Command::Txn(txn).encode(),
            serializable: dice.one_in(2),
        };
    }
    if dice.one_in(6) {
        return RequestKind::Write(Command::Txn(some_tree(dice, txn)).encode());
    }
    let depth = match dice.below(3) {
        0 => 0,
        1 => dice.below(66),
        _ => 60 + dice.below(90),
    };
    for _ in 0..depth {
        txn = TxnRequest {
            success: vec![RequestOp::Txn(Box::new(txn))],
            ..TxnRequest::default()
        };
    }
    RequestKind::Write(Command::Txn(txn).encode())
}

/// Transactions below transactions, as wide as what is left of 128 operations allows, up to some 80,000 of
/// them. Whatever a visit of each costs, it must not grow with those visited before.
pub fn tree(widths: &[usize], compare: &[Compare<'static>]) -> TxnRequest<'static> {
    let Some((&width, below)) = widths.split_first() else {
        return TxnRequest::default();
    };
    let nested = tree(below, compare);
    TxnRequest {
        compare: compare.to_vec(),
        success: vec![RequestOp::Txn(Box::new(nested)); width],
        failure: Vec::new(),
    }
}

/// Such a tree beside another transaction.
fn some_tree<'a>(dice: &mut Dice, beside: TxnRequest<'a>) -> TxnRequest<'a> {
    let widths = match dice.below(3) {
        0 => vec![42, 43, 42],
        1 => vec![63, 64],
        _ => vec![12; 3],
    };
    let compare = Compare {
        range: KeyRange::one(b"a key that is not there"),
        result: CompareResult::Equal,
        target: CompareTarget::Version(0),
    };
    let compare = if dice.one_in(2) {
        vec![compare]
    } else {
        Vec::new()
    };
    let mut txn: TxnRequest<'a> = tree(&widths, &compare);
    txn.success.push(RequestOp::Txn(Box::new(beside)));
    txn
}
