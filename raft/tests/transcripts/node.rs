//! A node of a script does what its Ready says: stores and applies.

use super::{ConfChangeV2, Entry, EntryKind, HardState, Node, Outcome, Snapshot};

impl Node {
    pub(super) fn store(
        &mut self,
        entries: &[Entry],
        state: HardState,
        snapshot: Option<&Snapshot>,
    ) -> Outcome {
        let log = &mut self.raw.storage_mut().log;
        log.set_hard_state(state);
        let outcome = match snapshot {
            Some(_) if !entries.is_empty() => {
                return Err("can't apply snapshot and entries at the same time".to_string());
            }
            Some(snapshot) => log.apply_snapshot(snapshot.clone()),
            None => log.append(entries),
        };
        outcome.map_err(|error| error.to_string())
    }

    pub(super) fn apply(&mut self, entries: &[Entry]) -> Outcome {
        for entry in entries {
            let mut state = self
                .raw
                .storage()
                .states
                .last()
                .cloned()
                .unwrap_or_default();
            let mut update = entry.data.clone();
            if entry.kind != EntryKind::Normal {
                let change = ConfChangeV2::from_entry(entry.kind, &entry.data);
                let change = change.map_err(|error| error.to_string())?;
                let conf_state = self.raw.apply_conf_change(&change);
                state.meta.conf_state = conf_state.map_err(|error| error.to_string())?;
                update = change.context;
            }
            state.data = [state.data, update].concat().into();
            (state.meta.index, state.meta.term) = (entry.index, entry.term);
            self.raw.storage_mut().states.push(state);
        }
        Ok(())
    }
}
