//! Messages, entries and Readys as one line (or a few) for people: the formats of etcd's library.
//!
//! Promises: the text is exactly that of etcd's `DescribeReady`, `DescribeMessage`, `DescribeEntry`.
//! Must never know: anything beyond the values it prints.
//! Tests: every transcript.

use std::fmt::{self, Write};

use crate::membership::{ConfChangeV2, DecodeError};
use crate::message::{
    ConfState, Entry, EntryKind, HardState, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Message,
    MessageKind, NONE, Snapshot, SoftState,
};
use crate::ready::Ready;

/// One entry: `1/12 EntryNormal "data"`.
pub fn entry(entry: &Entry) -> String {
    let described = match entry.kind {
        EntryKind::Normal => quoted(&entry.data),
        kind => changes(ConfChangeV2::from_entry(kind, &entry.data)),
    };
    let space = if described.is_empty() { "" } else { " " };
    format!(
        "{}/{} {}{space}{described}",
        entry.term, entry.index, entry.kind
    )
}

/// Entries, one a line, each line ended.
pub fn entries(entries: &[Entry]) -> String {
    entries.iter().map(|it| entry(it) + "\n").collect()
}

/// One message; with entries or responses, several lines, the last not ended.
pub fn message(message: &Message) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_message(&mut out, "", message);
    out
}

/// A Ready: several lines, each ended, or `<empty Ready>`.
pub fn ready(ready: &Ready) -> String {
    let mut out = String::new();
    let _ = write_ready(&mut out, ready);
    match out.is_empty() {
        true => "<empty Ready>".to_string(),
        false => format!("Ready MustSync={}:\n{out}", ready.must_sync),
    }
}

/// `Term:1 Vote:2 Commit:3`.
pub fn hard_state(state: &HardState) -> String {
    match state.vote {
        0 => format!("Term:{} Commit:{}", state.term, state.commit),
        vote => format!("Term:{} Vote:{vote} Commit:{}", state.term, state.commit),
    }
}

/// `Lead:1 State:StateLeader`.
pub fn soft_state(state: &SoftState) -> String {
    format!("Lead:{} State:{}", state.leader, state.role)
}

/// `Index:4 Term:1 ConfState:Voters:[1 2] …`.
pub fn snapshot(snapshot: &Snapshot) -> String {
    let meta = &snapshot.meta;
    format!(
        "Index:{} Term:{} ConfState:{}",
        meta.index,
        meta.term,
        conf_state(&meta.conf_state)
    )
}

/// `Voters:[1 2] VotersOutgoing:[] Learners:[] LearnersNext:[] AutoLeave:false`.
pub fn conf_state(state: &ConfState) -> String {
    format!(
        "Voters:{} VotersOutgoing:{} Learners:{} LearnersNext:{} AutoLeave:{}",
        ids(&state.voters),
        ids(&state.voters_outgoing),
        ids(&state.learners),
        ids(&state.learners_next),
        state.auto_leave
    )
}

impl fmt::Display for ConfChangeV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transition:{}", self.transition)?;
        for change in &self.changes {
            write!(
                f,
                " changes:{{type:{} node_id:{}}}",
                change.kind, change.node_id
            )?;
        }
        if !self.context.is_empty() {
            write!(f, " context:{}", quoted(&self.context))?;
        }
        Ok(())
    }
}

fn write_ready(out: &mut String, ready: &Ready) -> fmt::Result {
    if let Some(state) = &ready.soft_state {
        writeln!(out, "{}", soft_state(state))?;
    }
    if !ready.hard_state.is_empty() {
        writeln!(out, "HardState {}", hard_state(&ready.hard_state))?;
    }
    if !ready.read_states.is_empty() {
        let states = ready.read_states.iter();
        let states = states.map(|state| format!("{{{} {}}}", state.index, ids(&state.context)));
        writeln!(out, "ReadStates [{}]", states.collect::<Vec<_>>().join(" "))?;
    }
    let to_append = local_or(ready, MessageKind::StorageAppend, &ready.entries);
    if !to_append.is_empty() {
        write!(out, "Entries:\n{}", entries(to_append))?;
    }
    if let Some(it) = ready.snapshot.as_ref().filter(|it| !it.is_empty()) {
        writeln!(out, "Snapshot {}", snapshot(it))?;
    }
    let to_apply = local_or(ready, MessageKind::StorageApply, &ready.committed_entries);
    if !to_apply.is_empty() {
        write!(out, "CommittedEntries:\n{}", entries(to_apply))?;
    }
    if !ready.messages.is_empty() {
        writeln!(out, "Messages:")?;
        for it in &ready.messages {
            writeln!(out, "{}", message(it))?;
        }
    }
    Ok(())
}

/// With async storage writes a Ready has its entries only in the messages to the local threads.
fn local_or<'a>(ready: &'a Ready, kind: MessageKind, entries: &'a [Entry]) -> &'a [Entry] {
    let local = ready.messages.iter().find(|message| message.kind == kind);
    local.map_or(entries, |message| &message.entries)
}

fn write_message(out: &mut String, indent: &str, message: &Message) -> fmt::Result {
    let (from, to) = (target(message.from), target(message.to));
    let Message {
        kind,
        term,
        log_term,
        index,
        ..
    } = message;
    write!(
        out,
        "{indent}{from}->{to} {kind} Term:{term} Log:{log_term}/{index}"
    )?;
    if message.reject {
        write!(out, " Rejected (Hint: {})", message.reject_hint)?;
    }
    if message.commit != 0 {
        write!(out, " Commit:{}", message.commit)?;
    }
    if message.vote != 0 {
        write!(out, " Vote:{}", message.vote)?;
    }
    match &*message.entries {
        [] => {}
        [only] => write!(out, " Entries:[{}]", entry(only))?,
        several => {
            write!(out, " Entries:[")?;
            for it in several {
                write!(out, "\n{indent}  {}", entry(it))?;
            }
            write!(out, "\n{indent}]")?;
        }
    }
    if let Some(it) = message.snapshot.as_ref().filter(|it| !it.is_empty()) {
        write!(out, "\n{indent}  Snapshot: {}", snapshot(it))?;
    }
    if !message.responses.is_empty() {
        write!(out, " Responses:[")?;
        for response in &message.responses {
            out.push('\n');
            write_message(out, &format!("{indent}  "), response)?;
        }
        write!(out, "\n{indent}]")?;
    }
    Ok(())
}

fn target(id: u64) -> String {
    match id {
        NONE => "None".to_string(),
        LOCAL_APPEND_THREAD => "AppendThread".to_string(),
        LOCAL_APPLY_THREAD => "ApplyThread".to_string(),
        id => format!("{id:x}"),
    }
}

fn changes(change: Result<ConfChangeV2, DecodeError>) -> String {
    match change {
        Ok(change) => change
            .changes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
        Err(error) => error.to_string(),
    }
}

fn ids<T: fmt::Display>(ids: impl IntoIterator<Item = T>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    format!("[{}]", ids.join(" "))
}

/// Bytes in quotes, as Go's `%q` writes them for what people type.
fn quoted(data: &[u8]) -> String {
    let mut out = String::from('"');
    for chunk in data.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                control if control.is_control() => {
                    let _ = write!(out, "\\x{:02x}", control as u32);
                }
                plain => out.push(plain),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn payloads_are_quoted() {
        let data = Bytes::from_static(b"a\"b\\\n\x01\xff");
        let described = entry(&Entry {
            term: 1,
            index: 2,
            data,
            ..Entry::default()
        });
        assert_eq!(described, r#"1/2 EntryNormal "a\"b\\\n\x01\xff""#);
    }

    #[test]
    fn an_empty_change_has_no_text() {
        let kind = EntryKind::ConfChangeV2;
        assert_eq!(
            entry(&Entry {
                kind,
                ..Entry::default()
            }),
            "0/0 EntryConfChangeV2"
        );
    }
}
