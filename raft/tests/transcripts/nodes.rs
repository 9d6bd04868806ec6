//! What the interaction scripts say of nodes and their logs: the options of `add-nodes`, logs as text, logs
//! that lost their end.

use henge_raft::{
    Config, HardState, MemoryStorage, NO_LIMIT, ReadOnly, Snapshot, Storage, StorageError, describe,
};

use crate::datadriven::{Case, number};

/// What `add-nodes` asks for.
pub fn node_template(case: &Case) -> Result<(Config, Snapshot), String> {
    let mut config = Config {
        election_tick: 3,
        max_size_per_msg: NO_LIMIT,
        max_uncommitted_entries_size: 0,
        max_inflight_msgs: i32::MAX as usize,
        check_quorum: false,
        pre_vote: false,
        step_down_on_removal: false,
        // As etcd does it.
        dangerous_early_vote_requests: true,
        ..Config::new(1)
    };
    let mut snapshot = Snapshot::default();
    for argument in &case.arguments[1..] {
        for value in &argument.values {
            let is_true = value == "true";
            match argument.key.as_str() {
                "voters" => snapshot.meta.conf_state.voters.push(number(value)?),
                "learners" => snapshot.meta.conf_state.learners.push(number(value)?),
                "inflight" => config.max_inflight_msgs = number(value)? as usize,
                "index" => {
                    snapshot.meta.index = number(value)?;
                    config.applied = snapshot.meta.index;
                }
                "content" => snapshot.data = value.clone().into(),
                "async-storage-writes" => config.async_storage_writes = is_true,
                "prevote" => config.pre_vote = is_true,
                "checkquorum" => config.check_quorum = is_true,
                "max-committed-size-per-ready" => {
                    config.max_committed_size_per_ready = number(value)?;
                }
                "disable-conf-change-validation" => config.disable_conf_change_validation = is_true,
                "read-only" => {
                    config.read_only = match value.as_str() {
                        "safe" => ReadOnly::Safe,
                        "lease-based" => ReadOnly::LeaseBased,
                        _ => return Err(format!("invalid read-only option {value:?}")),
                    }
                }
                "step-down-on-removal" => config.step_down_on_removal = is_true,
                other => return Err(format!("unknown option {other:?} of add-nodes")),
            }
        }
    }
    Ok((config, snapshot))
}

pub fn log_text(log: &MemoryStorage) -> Result<String, StorageError> {
    let (first, last) = (log.first_index()?, log.last_index()?);
    if last < first {
        return Ok(format!(
            "log is empty: first index={first}, last index={last}"
        ));
    }
    Ok(describe::entries(&log.entries(
        first,
        last + 1,
        NO_LIMIT,
    )?))
}

/// The same log without what comes after `index`, and a hard state that knows of none of it.
pub fn shortened(log: &MemoryStorage, index: u64) -> Result<MemoryStorage, StorageError> {
    let mut short = MemoryStorage::new();
    short.apply_snapshot(log.snapshot()?)?;
    short.append(&log.entries(log.first_index()?, index + 1, NO_LIMIT)?)?;
    let state = log.hard_state();
    short.set_hard_state(HardState {
        commit: state.commit.min(index),
        ..state
    });
    Ok(short)
}
