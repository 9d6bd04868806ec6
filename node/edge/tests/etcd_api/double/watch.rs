//! The stand-in's watchers: each event is offered to each of them.

use henge::api::*;
use henge_mvcc as mvcc;
use tokio::sync::mpsc;

use super::{Double, Session, State};

impl State {
    pub(super) fn feed(&mut self, events: &[mvcc::Event]) {
        let header = self.header();
        for session in self.sessions.values() {
            for (id, w) in &session.watchers {
                deliver(session, *id, w, header, events);
            }
        }
    }

    pub(super) fn create(&mut self, session: u64, mut w: WatchCreate) {
        let header = self.header();
        let refused = |refusal| WatchResponse {
            header,
            watch_id: -1,
            created: true,
            canceled: true,
            refusal: Some(refusal),
            ..Default::default()
        };
        let Some(s) = self.sessions.get_mut(&session) else {
            return;
        };
        let empty = !w.range_end.is_empty() && w.range_end != b"\0"[..] && w.key >= w.range_end;
        let answer = if empty {
            refused(Refusal::EmptyRange)
        } else if w.watch_id != 0 && s.watchers.contains_key(&w.watch_id) {
            refused(Refusal::DuplicateId)
        } else {
            if w.watch_id == 0 {
                w.watch_id = (0..)
                    .find(|id| !s.watchers.contains_key(id))
                    .expect("some id");
            }
            WatchResponse {
                header,
                watch_id: w.watch_id,
                created: true,
                ..Default::default()
            }
        };
        let accepted = !answer.canceled;
        let _ = s.out.send(answer);
        if accepted {
            s.watchers.insert(w.watch_id, w.clone());
            self.replay(session, &w);
        }
    }

    /// What happened from the start revision on.
    pub(super) fn replay(&mut self, session: u64, w: &WatchCreate) {
        if w.start_revision <= 0 {
            return;
        }
        let mut events: Vec<mvcc::Event> = Vec::new();
        for (key, versions) in &self.history {
            for (i, (at, value)) in versions.iter().enumerate() {
                if *at < w.start_revision {
                    continue;
                }
                let prev_kv = i.checked_sub(1).and_then(|i| versions[i].1.clone());
                events.push(match value.clone() {
                    Some(kv) => mvcc::Event {
                        kind: mvcc::EventKind::Put,
                        kv,
                        prev_kv,
                    },
                    None => mvcc::Event {
                        kind: mvcc::EventKind::Delete,
                        kv: mvcc::KeyValue {
                            key: key.clone(),
                            mod_revision: *at,
                            ..Default::default()
                        },
                        prev_kv,
                    },
                });
            }
        }
        events.sort_by_key(|e| e.kv.mod_revision);
        if let Some(s) = self.sessions.get(&session) {
            deliver(s, w.watch_id, w, self.header(), &events);
        }
    }
}

fn deliver(s: &Session, id: i64, w: &WatchCreate, header: Header, events: &[mvcc::Event]) {
    let range = mvcc::KeyRange {
        key: &w.key,
        end: &w.range_end,
    };
    let mut events: Vec<mvcc::Event> = events
        .iter()
        .filter(|e| range.contains(&e.kv.key))
        .filter(|e| match e.kind {
            mvcc::EventKind::Put => !w.no_put,
            mvcc::EventKind::Delete => !w.no_delete,
        })
        .cloned()
        .collect();
    if !w.prev_kv {
        events.iter_mut().for_each(|e| e.prev_kv = None);
    }
    if !events.is_empty() {
        let fragment = w.fragment;
        let _ = s.out.send(WatchResponse {
            header,
            watch_id: id,
            fragment,
            events,
            ..Default::default()
        });
    }
}

pub struct DoubleWatch {
    pub(super) double: Double,
    pub(super) id: u64,
    pub(super) out: mpsc::UnboundedReceiver<WatchResponse>,
}

impl WatchSession for DoubleWatch {
    fn command(&mut self, command: WatchCommand) {
        let mut state = self.double.state();
        let header = state.header();
        match command {
            WatchCommand::Create(w) => state.create(self.id, w),
            WatchCommand::Cancel { watch_id } => {
                if let Some(s) = state.sessions.get_mut(&self.id)
                    && s.watchers.remove(&watch_id).is_some()
                {
                    let canceled = true;
                    let _ = s.out.send(WatchResponse {
                        header,
                        watch_id,
                        canceled,
                        ..Default::default()
                    });
                }
            }
            WatchCommand::Progress => {
                if let Some(s) = state.sessions.get(&self.id) {
                    let _ = s.out.send(WatchResponse {
                        header,
                        watch_id: -1,
                        ..Default::default()
                    });
                }
            }
        }
    }

    async fn next(&mut self) -> Option<WatchResponse> {
        self.out.recv().await
    }
}

impl Drop for DoubleWatch {
    fn drop(&mut self) {
        self.double.state().sessions.remove(&self.id);
    }
}
