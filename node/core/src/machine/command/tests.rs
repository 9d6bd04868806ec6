//! Commands come back as they were, or are refused.

use proptest::prelude::*;

use henge_mvcc::{
    Compare, CompareResult, CompareTarget, KeyRange, RequestOp, SortOrder, SortTarget,
};

use super::*;

const STAMP: Stamp = Stamp {
    origin: 3,
    id: 4,
    caller: Caller::nobody(),
};

fn samples() -> Vec<Vec<u8>> {
    let put = PutRequest {
        key: b"k",
        value: b"value",
        lease: 7,
        prev_kv: true,
        ..Default::default()
    };
    let range = RangeRequest {
        range: KeyRange {
            key: b"a",
            end: b"z",
        },
        limit: 10,
        sort_order: SortOrder::Descend,
        sort_target: SortTarget::Mod,
        keys_only: true,
        may_end_early: true,
        ..Default::default()
    };
    let delete = DeleteRangeRequest {
        range: KeyRange::one(b"k"),
        prev_kv: true,
    };
    let compare = |target| Compare {
        range: KeyRange::one(b"k"),
        result: CompareResult::Less,
        target,
    };
    let inner = TxnRequest {
        compare: vec![
            compare(CompareTarget::Value(b"v")),
            compare(CompareTarget::Lease(3)),
        ],
        success: vec![RequestOp::DeleteRange(delete.clone())],
        failure: vec![RequestOp::Range(range.clone())],
    };
    let txn = TxnRequest {
        compare: vec![compare(CompareTarget::ModRevision(9))],
        success: vec![RequestOp::Put(put.clone()), RequestOp::Txn(Box::new(inner))],
        failure: Vec::new(),
    };
    let commands = [
        Command::Put(put),
        Command::Range(range),
        Command::DeleteRange(delete),
        Command::Txn(txn),
        Command::Compact {
            revision: 5,
            physical: true,
        },
        Command::LeaseGrant { id: 1, ttl_s: 60 },
        Command::LeaseRevoke { id: 1 },
        Command::LeaseRenew { id: 1 },
        Command::LeaseExpire { id: 1, seen: 12 },
        Command::Alarm {
            action: AlarmAction::Activate,
            alarm: AlarmMember {
                alarm: henge_api::Alarm::NoSpace,
                member_id: u64::MAX,
            },
        },
        Command::LeaseRenewMany {
            ids: vec![1, -2, i64::MAX],
        },
        Command::LeaseExpireMany {
            seen: 12,
            ids: (1..=LEASES_MAX as i64).collect(),
        },
    ];
    commands
        .into_iter()
        .map(|command| {
            let mut encoded = command.encode();
            stamp(&mut encoded, STAMP);
            assert_eq!(decode(&encoded), Ok((STAMP, command)));
            encoded
        })
        .collect()
}

#[test]
fn every_command_comes_back_and_no_prefix_of_it_is_accepted() {
    for encoded in samples() {
        for cut in 0..encoded.len() {
            assert!(
                decode(&encoded[..cut]).is_err(),
                "cut at {cut} of {encoded:?}"
            );
        }
        let mut longer = encoded.clone();
        longer.push(0);
        assert_eq!(decode(&longer), Err(CommandError::Trailing(1)));
    }
}

#[test]
fn the_key_of_a_put_is_found_without_decoding() {
    let keys: Vec<_> = samples()
        .iter()
        .map(|encoded| put_key(encoded).map(<[u8]>::to_vec))
        .collect();
    assert_eq!(keys[0].as_deref(), Some(&b"k"[..]));
    assert!(keys[1..].iter().all(Option::is_none));
}

#[test]
fn the_key_of_a_range_of_one_key_is_found_without_decoding() {
    let one = Command::Range(RangeRequest {
        range: KeyRange::one(b"key"),
        limit: 3,
        ..RangeRequest::default()
    });
    assert_eq!(get_key(&one.encode()), Some(&b"key"[..]));
    let all = Command::Range(RangeRequest {
        range: KeyRange::all(),
        ..RangeRequest::default()
    });
    assert_eq!(get_key(&all.encode()), None);
    let put = Command::Put(PutRequest {
        key: b"key",
        ..PutRequest::default()
    });
    assert_eq!(get_key(&put.encode()), None);
    let encoded = one.encode();
    (0..encoded.len()).for_each(|cut| assert_eq!(get_key(&encoded[..cut]), None, "{cut}"));
}

#[test]
fn a_put_is_encoded_without_spare_capacity() {
    let encoded = samples().remove(0);
    assert_eq!(encoded.len(), encoded.capacity());
}

/// The decoder refused at 64 what the check let through until 128: such an entry, once committed, ended
/// its shard for good.
#[test]
fn regression_what_the_check_lets_through_is_decoded() {
    let limits = henge_mvcc::check::Limits {
        txn_ops_max: usize::MAX,
    };
    for below in [0, 63, 64, 65, 127, TXN_DEPTH_MAX, TXN_DEPTH_MAX + 1, 1_000] {
        let txn = (0..below).fold(TxnRequest::default(), |txn, _| TxnRequest {
            success: vec![RequestOp::Txn(Box::new(txn))],
            ..Default::default()
        });
        let checked = henge_mvcc::check::txn(&txn, &limits);
        let encoded = Command::Txn(txn).encode();
        assert_eq!(checked.is_ok(), proposable(&encoded).is_ok(), "{below}");
        assert_eq!(checked.is_ok(), below <= TXN_DEPTH_MAX, "{below}");
    }
}

#[test]
fn only_what_adds_data_is_refused_when_full() {
    let adds: Vec<_> = samples().iter().map(|encoded| adds(encoded)).collect();
    assert_eq!(
        adds,
        [
            true, false, false, true, false, true, false, false, false, false, false, false
        ]
    );
}

/// They were skipped: what a later build asks for in them would have been left undone, by some members only.
#[test]
fn regression_reserved_bytes_are_refused_by_name() {
    for encoded in samples() {
        for at in 2..8 {
            for bit in 0..8 {
                let mut later = encoded.clone();
                later[at] = 1 << bit;
                let refusal = CommandError::Reserved { at, byte: 1 << bit };
                assert_eq!(decode(&later).err(), Some(refusal.clone()), "{at}");
                assert_eq!(proposable(&later).err(), Some(refusal), "{at}");
            }
        }
    }
}

/// Each operation by itself, in a transaction and in one within: where its flags stand, and which are known.
fn with_flags() -> Vec<(Vec<u8>, usize, u8)> {
    let one = KeyRange::one(b"k");
    let put = PutRequest {
        key: b"k",
        ..Default::default()
    };
    let delete = DeleteRangeRequest {
        range: one,
        prev_kv: false,
    };
    let range = RangeRequest {
        range: one,
        ..Default::default()
    };
    let ops = [
        (Command::Put(put.clone()), RequestOp::Put(put), 0b111),
        (
            Command::DeleteRange(delete.clone()),
            RequestOp::DeleteRange(delete),
            0b1,
        ),
        (
            Command::Range(range.clone()),
            RequestOp::Range(range),
            0b111,
        ),
    ];
    let txn = |op| TxnRequest {
        success: vec![op],
        ..Default::default()
    };
    // The counts of compares and operations, and the operation's tag.
    let level = 4 + 4 + 1;
    ops.into_iter()
        .flat_map(|(command, op, known)| {
            let within = txn(RequestOp::Txn(Box::new(txn(op.clone()))));
            [
                (command.encode(), HEADER_BYTES, known),
                (Command::Txn(txn(op)).encode(), HEADER_BYTES + level, known),
                (
                    Command::Txn(within).encode(),
                    HEADER_BYTES + 2 * level,
                    known,
                ),
            ]
        })
        .collect()
}

/// They were skipped, like reserved bytes.
#[test]
fn regression_unknown_flags_are_refused_by_name() {
    for (encoded, at, known) in with_flags() {
        for byte in 0..=u8::MAX {
            let mut flagged = encoded.clone();
            flagged[at] = byte;
            let decoded = decode(&flagged);
            if byte & !known == 0 {
                let (_, command) = decoded.expect("its flags are known");
                assert_eq!(command.encode(), flagged, "{byte:#b} comes back");
                continue;
            }
            let error = decoded.expect_err("nobody knows them");
            let expected = (byte, known);
            let named = matches!(&error, CommandError::Flags { byte, known, .. }
                if (*byte, *known) == expected);
            assert!(named, "{error}");
            assert_eq!(proposable(&flagged), Err(error), "{encoded:?}");
        }
    }
}

fn any_range() -> impl Strategy<Value = KeyRange<'static>> {
    let keys: [&'static [u8]; 4] = [b"", b"\0", b"a", &[0xff; 40]];
    (0..4_usize, 0..4_usize).prop_map(move |(key, end)| KeyRange {
        key: keys[key],
        end: keys[end],
    })
}

fn any_op() -> impl Strategy<Value = RequestOp<'static>> {
    let range = (any_range(), any::<i64>(), 0..5_usize).prop_map(|(range, limit, target)| {
        let targets = [
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ];
        RequestOp::Range(RangeRequest {
            range,
            limit,
            max_create_revision: limit,
            sort_target: targets[target],
            ..Default::default()
        })
    });
    let put = (any_range(), any::<i64>(), any::<bool>()).prop_map(|(range, lease, prev_kv)| {
        RequestOp::Put(PutRequest {
            key: range.key,
            value: range.end,
            lease,
            prev_kv,
            ..Default::default()
        })
    });
    let delete = any_range().prop_map(|range| {
        RequestOp::DeleteRange(DeleteRangeRequest {
            range,
            prev_kv: true,
        })
    });
    prop_oneof![range, put, delete]
}

/// Transactions of up to a few operations per level, in a chain as deep as said.
fn any_txn(below_max: usize) -> impl Strategy<Value = TxnRequest<'static>> {
    let level = (
        proptest::collection::vec(any_range(), 0..3),
        proptest::collection::vec(any_op(), 0..3),
        any::<bool>(),
    );
    proptest::collection::vec(level, 1..below_max).prop_map(|levels| {
        levels
            .into_iter()
            .fold(None, |inner: Option<TxnRequest<'static>>, level| {
                let (compares, mut success, swap) = level;
                success.extend(inner.map(|txn| RequestOp::Txn(Box::new(txn))));
                let compare = compares.into_iter().map(|range| Compare {
                    range,
                    result: CompareResult::Greater,
                    target: CompareTarget::Value(range.end),
                });
                let (success, failure) = match swap {
                    true => (Vec::new(), success),
                    false => (success, Vec::new()),
                };
                Some(TxnRequest {
                    compare: compare.collect(),
                    success,
                    failure,
                })
            })
            .unwrap_or_default()
    })
}

#[test]
fn what_a_command_may_add_is_estimated_as_by_etcd() {
    let costs: Vec<_> = samples().iter().map(|encoded| cost(encoded)).collect();
    let of_put = 256 + 1 + 5;
    assert_eq!(costs, [of_put, 0, 0, of_put, 0, 64, 0, 0, 0, 0, 0, 0]);
    for encoded in samples() {
        let (_, command) = decode(&encoded).expect("a sample");
        assert_eq!(cost(&encoded), command.cost(), "{command:?}");
        assert_eq!(adds(&encoded), command.adds(), "{command:?}");
    }
    // Of a transaction the dearer side.
    fn put(value: &[u8]) -> RequestOp<'_> {
        RequestOp::Put(PutRequest {
            key: b"k",
            value,
            ..Default::default()
        })
    }
    let txn = TxnRequest {
        success: vec![put(b"1"), put(b"22")],
        failure: vec![put(&[7; 900])],
        ..Default::default()
    };
    assert_eq!(Command::Txn(txn).cost(), 256 + 1 + 900);
}

#[test]
fn leases_in_one_command_are_bounded() {
    let ids = vec![7; LEASES_MAX + 1];
    let renewals = Command::LeaseRenewMany { ids }.encode();
    let refusal = CommandError::Leases(LEASES_MAX + 1);
    assert_eq!(decode(&renewals), Err(refusal));
}

#[test]
fn a_stamp_is_found_without_decoding() {
    for encoded in samples() {
        assert_eq!(stamp_of(&encoded), Some(STAMP));
        assert_eq!(stamp_of(&encoded[..HEADER_BYTES - 1]), None);
    }
}

/// What is asked of a command without keeping it is what its decoded form says.
fn skims_as_it_decodes(bytes: &[u8]) {
    let decoded = decode(bytes).map(|(_, command)| command);
    if let Ok(Command::Range(_)) = decoded {
        return assert!(proposable(bytes).is_err());
    }
    assert_eq!(proposable(bytes).err(), decoded.clone().err());
    if let Ok(command @ Command::Txn(_)) = decoded {
        assert_eq!((adds(bytes), cost(bytes)), (command.adds(), command.cost()));
    }
}

proptest! {
    /// Whatever a caller builds is either refused before it is proposed, or comes back as it was: no entry
    /// that may be committed is undecodable.
    #[test]
    fn what_may_be_proposed_comes_back_as_it_was(txn in any_txn(200)) {
        let limits = henge_mvcc::check::Limits { txn_ops_max: usize::MAX };
        let encoded = Command::Txn(txn.clone()).encode();
        skims_as_it_decodes(&encoded);
        match proposable(&encoded) {
            Ok(()) => prop_assert_eq!(decode(&encoded), Ok((Stamp::default(), Command::Txn(txn)))),
            Err(error) => {
                prop_assert_eq!(error, CommandError::Depth);
                prop_assert!(henge_mvcc::check::txn(&txn, &limits).is_err());
            }
        }
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        skims_as_it_decodes(&bytes);
    }

    #[test]
    fn damaged_commands_decode_or_are_refused(which in 0..12_usize, at in any::<usize>(), to in any::<u8>()) {
        let mut encoded = samples().swap_remove(which);
        let at = at % encoded.len();
        encoded[at] = to;
        skims_as_it_decodes(&encoded);
    }
}
