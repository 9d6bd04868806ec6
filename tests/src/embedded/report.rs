//! What a process under test tells the one that kills it: a line before each operation and one after its
//! acknowledgement, through a pipe.
//!
//! Promises: a line that was written survives kill -9, as the pipe holds it; an operation whose second line
//! is missing is unknown. A line is written whole or, where the process died in between, not at all (a pipe
//! takes up to 4,096 bytes at once).
//! Must never know: how an operation is carried out. Tested below.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::history::{Operation, Session, Stamp, Write};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The engine is open; the revision of each shard.
    Opened(Vec<i64>),
    /// A session is about to do this.
    Begin(u64, Operation),
    /// What it did last is acknowledged, at this revision.
    Acked(u64, i64),
    /// Something that cannot be.
    Wrong(String),
}

impl Line {
    /// As it goes through the pipe, its end included.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = match self {
            Line::Opened(revisions) => {
                text.push_str("opened");
                revisions.iter().try_for_each(|at| write!(text, " {at}"))
            }
            Line::Begin(session, operation) => {
                let _ = write!(text, "begin {session}");
                operation.iter().try_for_each(|change| match change {
                    Write::Put(key, stamp) => {
                        let key = String::from_utf8_lossy(key);
                        write!(text, " {key} {} {}", stamp.sequence, stamp.len)
                    }
                    Write::Delete(key) => write!(text, " {} -", String::from_utf8_lossy(key)),
                })
            }
            Line::Acked(session, revision) => write!(text, "acked {session} {revision}"),
            Line::Wrong(why) => write!(text, "wrong {}", why.replace('\n', " ")),
        };
        text.push('\n');
        text
    }

    /// Reads a line back; none if it is no such line.
    pub fn parse(line: &str) -> Option<Line> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.split_ascii_whitespace();
        match kind {
            "opened" => {
                let revisions = words.map(|word| word.parse().ok());
                Some(Line::Opened(revisions.collect::<Option<_>>()?))
            }
            "begin" => {
                let session = words.next()?.parse().ok()?;
                let mut operation = Vec::new();
                while let Some(key) = words.next() {
                    operation.push(change(session, key, words.next()?, &mut words)?);
                }
                Some(Line::Begin(session, operation))
            }
            "acked" => Some(Line::Acked(
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
            )),
            "wrong" => Some(Line::Wrong(rest.to_owned())),
            _ => None,
        }
    }
}

fn change<'a>(
    session: u64,
    key: &str,
    word: &str,
    words: &mut impl Iterator<Item = &'a str>,
) -> Option<Write> {
    let key = key.as_bytes().to_vec();
    if word == "-" {
        return Some(Write::Delete(key));
    }
    let stamp = Stamp {
        session,
        sequence: word.parse().ok()?,
        len: words.next()?.parse().ok()?,
    };
    Some(Write::Put(key, stamp))
}

/// All that one process said.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Revision of each shard when it had opened; none if it was killed before.
    pub opened: Option<Vec<i64>>,
    /// Its sessions by their number.
    pub sessions: BTreeMap<u64, Session>,
}

impl Report {
    /// From its lines. The error is a violation by itself.
    pub fn read(lines: &[String]) -> Result<Report, String> {
        let mut report = Report::default();
        for line in lines {
            let line = Line::parse(line).ok_or_else(|| format!("not understood: {line:?}"))?;
            report.take(line)?;
        }
        Ok(report)
    }

    fn take(&mut self, line: Line) -> Result<(), String> {
        match line {
            Line::Opened(revisions) => self.opened = Some(revisions),
            Line::Begin(id, operation) => {
                let session = self.sessions.entry(id).or_default();
                if session.unknown.replace(operation).is_some() {
                    return Err(format!("session {id} has two operations under way"));
                }
            }
            Line::Acked(id, revision) => {
                let session = self.sessions.entry(id).or_default();
                let operation = session.unknown.take();
                let operation =
                    operation.ok_or_else(|| format!("session {id} was answered twice"))?;
                session.acked.push((revision, operation));
            }
            Line::Wrong(why) => return Err(why),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let put = |session: u64, key: &str| {
            let stamp = Stamp {
                session,
                sequence: 3,
                len: 50,
            };
            Write::Put(key.into(), stamp)
        };
        vec![
            Line::Opened(vec![1, 5]),
            Line::Begin(7, vec![put(7, "a"), put(7, "b")]),
            Line::Acked(7, 6),
            Line::Begin(7, vec![Write::Delete("a".into())]),
            Line::Begin(8, vec![put(8, "c")]),
            Line::Wrong("no".to_owned()),
        ]
    }

    #[test]
    fn lines_come_through_as_they_are() {
        for line in lines() {
            let text = line.text();
            assert_eq!(Line::parse(text.trim_end()), Some(line), "{text:?}");
        }
        for bad in [
            "",
            "begin",
            "begin 1 key",
            "acked 1",
            "acked 1 x",
            "opened x",
        ] {
            assert_eq!(Line::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_has_no_answer_is_unknown() {
        let lines = lines();
        let said = lines.iter().map(|line| line.text().trim_end().to_owned());
        let said: Vec<String> = said.collect();
        let (wrong, good) = said.split_last().expect("there are lines");
        let report = Report::read(good).expect("nothing wrong");
        assert_eq!(report.opened, Some(vec![1, 5]));
        assert_eq!(report.sessions[&7].acked[0].0, 6);
        assert_eq!(
            report.sessions[&7].unknown,
            Some(vec![Write::Delete("a".into())])
        );
        assert!(report.sessions[&8].unknown.is_some());
        assert_eq!(
            Report::read(std::slice::from_ref(wrong)).err(),
            Some("no".to_owned())
        );
        let twice = [&good[..3], &good[2..3]].concat();
        assert!(Report::read(&twice).is_err(), "answered twice");
    }
}
