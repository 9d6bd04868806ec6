//! A cluster driven by commands: etcd's `rafttest` vocabulary, in full.
//!
//! Nodes get the ids 1, 2, 3, …; messages wait until they are delivered or dropped; the state machine
//! appends what is proposed and keeps a snapshot of each state it was in.

#[path = "node.rs"]
mod node;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use henge_raft::membership::{ConfChange, ConfChangeV2, Transition, parse_changes};
use henge_raft::{
    ConfState, Config, Entry, EntryKind, HardState, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD,
    MemoryStorage, Message, MessageKind, ProposeError, RawNode, Snapshot, Storage, StorageError,
    describe, is_local_target,
};

use crate::datadriven::{Case, number};
use crate::nodes::{log_text, node_template, shortened};
use crate::output::{Output, indented};

type Outcome = Result<(), String>;

pub struct Environment {
    nodes: Vec<Node>,
    /// On the wire, in the order they were sent.
    messages: Vec<Message>,
    output: Output,
}

struct Node {
    raw: RawNode<History>,
    config: Config,
    append_work: VecDeque<Message>,
    apply_work: VecDeque<Message>,
}

/// A storage whose snapshot is always of the newest state. (That of `MemoryStorage` stays as it was
/// made, and that is not what a host would send.)
#[derive(Debug)]
struct History {
    log: MemoryStorage,
    states: Vec<Snapshot>,
}

impl Storage for History {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.log.initial_state()
    }
    fn entries(&self, lo: u64, hi: u64, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        self.log.entries(lo, hi, max_bytes)
    }
    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.log.term(index)
    }
    fn first_index(&self) -> Result<u64, StorageError> {
        self.log.first_index()
    }
    fn last_index(&self) -> Result<u64, StorageError> {
        self.log.last_index()
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(self.states.last().cloned().unwrap_or_default())
    }
}

impl Environment {
    pub fn new() -> Environment {
        Environment {
            nodes: Vec::new(),
            messages: Vec::new(),
            output: Output::default(),
        }
    }

    pub fn handle(&mut self, case: &Case) -> String {
        self.output.take();
        if let Err(error) = self.dispatch(case) {
            if self.output.is_quiet() {
                return error;
            }
            self.output.print(&error);
        }
        match self.output.take() {
            text if text.is_empty() => "ok".to_string(),
            text => text,
        }
    }

    fn dispatch(&mut self, case: &Case) -> Outcome {
        match case.command.as_str() {
            // A place for a debugger to stop at.
            "_breakpoint" => Ok(()),
            "add-nodes" => self.add_nodes(case),
            "campaign" => self
                .raw(case.id()?)?
                .campaign()
                .map_err(|error| error.to_string()),
            "compact" => self.compact(case),
            "deliver-msgs" => self.deliver_command(case),
            "process-ready" => self.each(case, "handling Ready", Self::process_ready),
            "process-append-thread" => {
                self.each(case, "processing append thread", Self::process_append)
            }
            "process-apply-thread" => {
                self.each(case, "processing apply thread", Self::process_apply)
            }
            "log-level" => self.output.set_level_named(case.word(0)?),
            "raft-log" => self.print_log(case.id()?),
            "raft-state" => self.print_states(),
            "set-randomized-election-timeout" => {
                let ticks = single(case, "timeout")? as u32;
                self.raw(case.id()?)?.set_randomized_election_timeout(ticks);
                Ok(())
            }
            "stabilize" => self.stabilize_command(case),
            "status" => {
                let status = self.raw(case.id()?)?.status();
                self.output.print(&status.progress.to_string());
                Ok(())
            }
            "tick-election" => self.tick(case.id()?, |config| config.election_tick),
            "tick-heartbeat" => self.tick(case.id()?, |config| config.heartbeat_tick),
            "transfer-leadership" => {
                let to = single(case, "to")?;
                self.raw(single(case, "from")?)?.transfer_leader(to);
                Ok(())
            }
            "forget-leader" => {
                self.raw(case.id()?)?.forget_leader();
                Ok(())
            }
            "send-snapshot" => self.send_snapshot(case),
            "propose" => {
                let data = Bytes::copy_from_slice(case.word(1)?.as_bytes());
                self.raw(case.id()?)?.propose(data).map_err(proposal_error)
            }
            "propose-conf-change" => self.propose_change(case),
            "report-unreachable" => match case.ids()?[..] {
                [on, about] => {
                    self.raw(on)?.report_unreachable(about);
                    Ok(())
                }
                _ => Err(
                    "must specify exactly two node indexes: node on which to report, and reported \
                    node"
                        .to_string(),
                ),
            },
            // Not in etcd's vocabulary; our own transcripts need them.
            "read-index" => {
                let context = Bytes::copy_from_slice(case.word(1)?.as_bytes());
                self.raw(case.id()?)?.read_index(context);
                Ok(())
            }
            "restart" => self.restart(case),
            "send-heartbeat" => self.send_heartbeat(case),
            _ => Err("unknown command".to_string()),
        }
    }

    /// `restart id [lost-after=index]`: with what its storage has, or only with part of it.
    fn restart(&mut self, case: &Case) -> Outcome {
        let lost_after = case
            .values("lost-after")
            .map(|_| single(case, "lost-after"))
            .transpose()?;
        let node = self.node(case.id()?)?;
        let storage = node.raw.storage();
        let (mut log, states) = (storage.log.clone(), storage.states.clone());
        if let Some(index) = lost_after {
            log = shortened(&log, index).map_err(|error| error.to_string())?;
        }
        // The state machine of these clusters starts from its first snapshot, and applies all again.
        let states = states.into_iter().take(1).collect();
        let raw = RawNode::new(node.config.clone(), History { log, states });
        node.raw = raw.map_err(|error| error.to_string())?;
        node.append_work.clear();
        node.apply_work.clear();
        Ok(())
    }

    /// `send-heartbeat from to commit=index`: puts a heartbeat on the wire, as `from` might send it.
    fn send_heartbeat(&mut self, case: &Case) -> Outcome {
        let [from, to] = case.ids()?[..] else {
            return Err("from and to are needed".to_string());
        };
        let (kind, commit) = (MessageKind::Heartbeat, single(case, "commit")?);
        let term = self.raw(from)?.term();
        let message = Message {
            kind,
            term,
            from,
            to,
            commit,
            ..Message::default()
        };
        self.output.print(&describe::message(&message));
        self.messages.push(message);
        Ok(())
    }

    fn node(&mut self, id: u64) -> Result<&mut Node, String> {
        let position = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        let node = position.and_then(|position| self.nodes.get_mut(position));
        node.ok_or_else(|| format!("there is no node {id}"))
    }

    fn raw(&mut self, id: u64) -> Result<&mut RawNode<History>, String> {
        self.node(id).map(|node| &mut node.raw)
    }

    fn add_nodes(&mut self, case: &Case) -> Outcome {
        let (config, snapshot) = node_template(case)?;
        let is_bootstrap = snapshot != Snapshot::default();
        if is_bootstrap && snapshot.meta.index <= 1 {
            return Err("index must be specified as > 1 due to bootstrap".to_string());
        }
        for _ in 0..case.id()? {
            let mut snapshot = snapshot.clone();
            let mut log = MemoryStorage::new();
            if is_bootstrap {
                snapshot.meta.term = 1;
                log.apply_snapshot(snapshot.clone())
                    .map_err(|error| error.to_string())?;
            }
            let id = self.nodes.len() as u64 + 1;
            let logger = Arc::new(self.output.clone());
            let config = Config {
                id,
                logger: Some(logger),
                ..config.clone()
            };
            let storage = History {
                log,
                states: vec![snapshot],
            };
            let raw = RawNode::new(config.clone(), storage).map_err(|error| error.to_string())?;
            let (append_work, apply_work) = (VecDeque::new(), VecDeque::new());
            self.nodes.push(Node {
                raw,
                config,
                append_work,
                apply_work,
            });
        }
        Ok(())
    }

    fn compact(&mut self, case: &Case) -> Outcome {
        let (id, index) = (case.id()?, number(case.word(1)?)?);
        let log = &mut self.raw(id)?.storage_mut().log;
        log.compact(index).map_err(|error| error.to_string())?;
        self.print_log(id)
    }

    fn tick(&mut self, id: u64, count: fn(&Config) -> u32) -> Outcome {
        let node = self.node(id)?;
        for _ in 0..count(&node.config) {
            node.raw.tick();
        }
        Ok(())
    }

    fn send_snapshot(&mut self, case: &Case) -> Outcome {
        let [from, to] = case.ids()?[..] else {
            return Err("from and to are needed".to_string());
        };
        let raw = self.raw(from)?;
        let snapshot = raw
            .storage()
            .snapshot()
            .map_err(|error| error.to_string())?;
        let (kind, term) = (MessageKind::Snap, raw.term());
        let snapshot = Some(Box::new(snapshot));
        let message = Message {
            kind,
            term,
            from,
            to,
            snapshot,
            ..Message::default()
        };
        self.output.print(&describe::message(&message));
        self.messages.push(message);
        Ok(())
    }

    fn propose_change(&mut self, case: &Case) -> Outcome {
        let mut is_v1 = false;
        let mut transition = Transition::Auto;
        for argument in &case.arguments[1..] {
            for value in &argument.values {
                match (argument.key.as_str(), value.as_str()) {
                    ("v1", value) => is_v1 = value == "true",
                    ("transition", "auto") => transition = Transition::Auto,
                    ("transition", "implicit") => transition = Transition::JointImplicit,
                    ("transition", "explicit") => transition = Transition::JointExplicit,
                    ("transition", value) => return Err(format!("unknown transition {value}")),
                    (key, _) => return Err(format!("unknown command {key}")),
                }
            }
        }
        let changes = parse_changes(&case.input)?;
        let raw = self.raw(case.id()?)?;
        if !is_v1 {
            let change = ConfChangeV2 {
                transition,
                changes,
                ..ConfChangeV2::default()
            };
            return raw.propose_conf_change(&change).map_err(proposal_error);
        }
        let [step] = changes[..] else {
            return Err("v1 conf change can only have one operation and no transition".to_string());
        };
        let change = ConfChange {
            kind: step.kind,
            node_id: step.node_id,
            ..ConfChange::default()
        };
        raw.propose_conf_change_v1(&change).map_err(proposal_error)
    }

    /// Runs `work` on each node named, under a heading if there are several.
    fn each(&mut self, case: &Case, title: &str, work: fn(&mut Self, u64) -> Outcome) -> Outcome {
        let ids = case.ids()?;
        for id in &ids {
            if ids.len() == 1 {
                work(self, *id)?;
            } else {
                self.under_heading(*id, title, work)?;
            }
        }
        Ok(())
    }

    fn under_heading(
        &mut self,
        id: u64,
        title: &str,
        work: impl FnOnce(&mut Self, u64) -> Outcome,
    ) -> Outcome {
        self.output.print(&format!("> {id} {title}\n"));
        let output = self.output.clone();
        indented(&output, || work(self, id))
    }

    fn process_ready(&mut self, id: u64) -> Outcome {
        let output = self.output.clone();
        let node = self.node(id)?;
        let ready = node.raw.ready();
        output.print(&describe::ready(&ready));
        let is_async = node.config.async_storage_writes;
        if !is_async {
            node.store(&ready.entries, ready.hard_state, ready.snapshot.as_ref())?;
            node.apply(&ready.committed_entries)?;
        }
        let (local, remote): (Vec<_>, Vec<_>) = ready
            .messages
            .into_iter()
            .partition(|message| is_local_target(message.to));
        for message in local {
            match message.to {
                LOCAL_APPEND_THREAD => node.append_work.push_back(message),
                LOCAL_APPLY_THREAD => node.apply_work.push_back(message),
                other => return Err(format!("{other} is not a local thread")),
            }
        }
        self.messages.extend(remote);
        if !is_async {
            self.raw(id)?.advance();
        }
        Ok(())
    }

    fn process_append(&mut self, id: u64) -> Outcome {
        let work = self.node(id)?.append_work.pop_front();
        self.process_work(id, work, "append", |node, work| {
            node.store(&work.entries, work.hard_state(), work.snapshot.as_deref())
        })
    }

    fn process_apply(&mut self, id: u64) -> Outcome {
        let work = self.node(id)?.apply_work.pop_front();
        self.process_work(id, work, "apply", |node, work| node.apply(&work.entries))
    }

    fn process_work(
        &mut self,
        id: u64,
        work: Option<Message>,
        thread: &str,
        handle: fn(&mut Node, &Message) -> Outcome,
    ) -> Outcome {
        let Some(mut work) = work else {
            self.output.print(&format!("no {thread} work to perform"));
            return Ok(());
        };
        let responses = std::mem::take(&mut work.responses);
        self.output
            .print(&format!("Processing:\n{}\n", describe::message(&work)));
        handle(self.node(id)?, &work)?;
        self.output.print("Responses:\n");
        for response in &responses {
            self.output
                .print(&format!("{}\n", describe::message(response)));
        }
        self.messages.extend(responses);
        Ok(())
    }

    fn deliver_command(&mut self, case: &Case) -> Outcome {
        let kind = match case.values("type") {
            None => None,
            Some(names) => {
                let find = |name: &String| {
                    MessageKind::ALL
                        .iter()
                        .copied()
                        .find(|kind| kind.name() == name.as_str())
                };
                let kind = names.first().and_then(find);
                Some(kind.ok_or_else(|| format!("unknown message type {names:?}"))?)
            }
        };
        let mut count = 0;
        for id in case.ids()? {
            count += self.deliver(id, kind, false);
        }
        for id in case.values("drop").unwrap_or_default() {
            count += self.deliver(number(id)?, kind, true);
        }
        if count == 0 {
            self.output.print("no messages\n");
        }
        Ok(())
    }

    /// Delivers or drops what is on the wire for `to`; returns how much that was.
    fn deliver(&mut self, to: u64, kind: Option<MessageKind>, is_drop: bool) -> usize {
        let is_meant = |message: &Message| {
            message.to == to
                && !(is_drop && is_local(message))
                && kind.is_none_or(|kind| message.kind == kind)
        };
        let (meant, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(is_meant);
        self.messages = rest;
        let count = meant.len();
        for message in meant {
            let dropped = if is_drop { "dropped: " } else { "" };
            self.output
                .print(&format!("{dropped}{}\n", describe::message(&message)));
            if is_drop {
                continue;
            }
            let outcome = self
                .raw(to)
                .map(|raw| raw.step(message).map_err(|it| it.to_string()));
            if let Err(error) | Ok(Err(error)) = outcome {
                self.output.print(&format!("{error}\n"));
            }
        }
        count
    }

    fn stabilize_command(&mut self, case: &Case) -> Outcome {
        let mut ids = case.ids()?;
        if ids.is_empty() {
            ids = (1..=self.nodes.len() as u64).collect();
        }
        let level = self.output.level();
        if let Some(name) = case.values("log-level").and_then(|names| names.first()) {
            self.output.set_level_named(name)?;
        }
        let outcome = self.stabilize(&ids);
        self.output.set_level(level);
        outcome
    }

    /// Handles Readys, messages and the work of the threads until there is nothing to do.
    fn stabilize(&mut self, ids: &[u64]) -> Outcome {
        loop {
            let mut is_done = true;
            for &id in ids {
                if self.raw(id)?.has_ready() {
                    self.under_heading(id, "handling Ready", Self::process_ready)?;
                    is_done = false;
                }
            }
            for &id in ids {
                if self.messages.iter().any(|message| message.to == id) {
                    self.under_heading(id, "receiving messages", |it, id| {
                        it.deliver(id, None, false);
                        Ok(())
                    })?;
                    is_done = false;
                }
            }
            for &id in ids {
                if !self.node(id)?.append_work.is_empty() {
                    self.under_heading(id, "processing append thread", Self::append_all)?;
                    is_done = false;
                }
            }
            for &id in ids {
                if !self.node(id)?.apply_work.is_empty() {
                    self.under_heading(id, "processing apply thread", Self::apply_all)?;
                    is_done = false;
                }
            }
            if is_done {
                return Ok(());
            }
        }
    }

    fn append_all(&mut self, id: u64) -> Outcome {
        while !self.node(id)?.append_work.is_empty() {
            self.process_append(id)?;
        }
        Ok(())
    }

    fn apply_all(&mut self, id: u64) -> Outcome {
        while !self.node(id)?.apply_work.is_empty() {
            self.process_apply(id)?;
        }
        Ok(())
    }

    fn print_log(&mut self, id: u64) -> Outcome {
        let log = &self.raw(id)?.storage().log;
        let text = log_text(log).map_err(|error| error.to_string())?;
        self.output.print(&text);
        Ok(())
    }

    fn print_states(&mut self) -> Outcome {
        for node in &self.nodes {
            let status = node.raw.status();
            let voter = match status.membership.voters.contains(status.id) {
                true => "(Voter)",
                false => "(Non-Voter)",
            };
            let (state, term) = (status.soft_state, status.hard_state.term);
            let (id, role, leader) = (status.id, state.role, state.leader);
            self.output
                .print(&format!("{id}: {role} {voter} Term:{term} Lead:{leader}\n"));
        }
        Ok(())
    }
}

fn single(case: &Case, key: &str) -> Result<u64, String> {
    let value = case.values(key).and_then(|values| values.first());
    number(value.ok_or_else(|| format!("{key}= is missing"))?)
}

/// etcd has one error for every dropped proposal.
fn proposal_error(error: ProposeError) -> String {
    match error {
        ProposeError::Dropped(_) => "raft proposal dropped".to_string(),
        error => error.to_string(),
    }
}

/// Between a node and its threads nothing gets lost.
fn is_local(message: &Message) -> bool {
    message.from == message.to || is_local_target(message.from) || is_local_target(message.to)
}
