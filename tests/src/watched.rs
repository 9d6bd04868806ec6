//! What watchers were shown, held against what they asked for, against each other and against the history.
//!
//! A [`Bookmark`] is a client's place: it takes every header at its word, as clients do that resume after
//! the last revision they were told. [`Watched`] knows every revision's changes from the watchers of
//! everything, and finds what was left out, repeated, torn or made up.
//! Promises: a note that names a revision before what its watcher asked for or was shown, one that names a
//! revision whose changes it was not shown, an event too many or too few, are each an error that names the
//! revisions.
//! Must never know: processes, sockets, time. Tested below with planted faults.

use std::collections::BTreeMap;

use crate::etcd::{Event, KeyValue, WatchCreateRequest, WatchResponse};
use crate::history::{History, name};

/// A watcher's place, over all streams that it was resumed on.
#[derive(Clone, Debug)]
pub struct Bookmark {
    key: Vec<u8>,
    end: Vec<u8>,
    /// Everything after here is owed. Unknown until its first stream has said where it begins.
    at: Option<i64>,
    /// Where it began.
    began: Option<i64>,
    created: bool,
    /// What it was shown, in that order.
    events: Vec<Event>,
}

impl Bookmark {
    /// A watcher of keys from `key` to `end`, of what comes after revision `at`, which may be one that does
    /// not exist yet; without it, of what comes next.
    pub fn new(key: Vec<u8>, end: Vec<u8>, at: Option<i64>) -> Self {
        Bookmark {
            key,
            end,
            at,
            began: at,
            created: false,
            events: Vec::new(),
        }
    }

    /// A watcher of everything after revision `at`.
    pub fn of_all(at: i64) -> Self {
        Bookmark::new(vec![0], vec![0], Some(at))
    }

    /// Whether it sees everything.
    pub fn is_of_all(&self) -> bool {
        self.key == [0] && self.end == [0]
    }

    /// Everything up to here was shown, or not asked for.
    pub fn at(&self) -> Option<i64> {
        self.at
    }

    /// The request that resumes it on a new stream, as number `watch_id`.
    pub fn create(&mut self, watch_id: i64) -> WatchCreateRequest {
        self.created = false;
        WatchCreateRequest {
            key: self.key.clone(),
            range_end: self.end.clone(),
            start_revision: self.at.map_or(0, |at| at + 1),
            progress_notify: true,
            watch_id,
        }
    }

    /// Takes a response of its stream; the error is a broken promise.
    pub fn take(&mut self, response: WatchResponse) -> Result<(), String> {
        let named = response.header.map_or(0, |header| header.revision);
        if response.created {
            if std::mem::replace(&mut self.created, true) || response.canceled {
                return Err("was created twice, or refused".to_owned());
            }
            if self.at.is_none() {
                (self.at, self.began) = (Some(named), Some(named));
            }
            return Ok(());
        }
        let Some(at) = self.at.filter(|_| self.created) else {
            return Err("had a response before it was created".to_owned());
        };
        if response.canceled {
            let compacted = response.compact_revision;
            return Err(format!(
                "was cancelled at {at}; compacted up to {compacted}"
            ));
        }
        let mut last = at;
        for event in &response.events {
            let revision = revision(event);
            // Equal ones are of one revision: a response holds whole revisions.
            if revision <= at || revision < last {
                return Err(format!(
                    "is owed what comes after {at} and was shown {revision} after {last}"
                ));
            }
            last = revision;
        }
        if named < last {
            let what = if response.events.is_empty() {
                "told"
            } else {
                "shown more, and told"
            };
            return Err(format!(
                "is owed what comes after {at} and was {what} of {named}"
            ));
        }
        self.at = Some(named);
        self.events.extend(response.events);
        Ok(())
    }

    fn wants(&self, key: &[u8]) -> bool {
        match self.end.as_slice() {
            [] => key == self.key,
            [0] => key >= self.key.as_slice(),
            end => key >= self.key.as_slice() && key < end,
        }
    }
}

/// Every revision's changes, as far as watchers were shown them.
#[derive(Debug, Default)]
pub struct Watched {
    revisions: BTreeMap<i64, Vec<Event>>,
    /// Up to where everything was compared.
    checked: i64,
    /// Watchers, and events, that were compared.
    watchers: u64,
    events: u64,
}

impl Watched {
    /// Watchers and their events that were compared so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.watchers, self.events)
    }

    /// Compares what watchers were shown, those of everything first, which have to know every revision up to
    /// `revision`; and all of it with what was acknowledged.
    pub fn check(
        &mut self,
        history: &History,
        revision: i64,
        bookmarks: &[Bookmark],
    ) -> Result<(), String> {
        let (of_all, others): (Vec<_>, Vec<_>) = bookmarks.iter().partition(|b| b.is_of_all());
        for bookmark in &of_all {
            for events in bookmark
                .events
                .chunk_by(|a, b| self::revision(a) == self::revision(b))
            {
                let at = self::revision(&events[0]);
                let first = self.revisions.entry(at).or_insert_with(|| events.to_vec());
                if first != events {
                    return Err(format!(
                        "two watchers were shown revision {at} as {} and as {}",
                        show(&*first),
                        show(events)
                    ));
                }
            }
        }
        // A new store is at revision 1, which changes nothing.
        for at in self.checked.max(1) + 1..=revision {
            let Some(events) = self.revisions.get(&at) else {
                return Err(format!("no watcher was shown revision {at} of {revision}"));
            };
            history.check_events(at, events)?;
        }
        for bookmark in of_all.into_iter().chain(others) {
            self.compare(bookmark, revision)?;
            self.watchers += 1;
            self.events += bookmark.events.len() as u64;
        }
        self.checked = revision;
        Ok(())
    }

    /// A watcher was shown what it wants of every revision from where it began to `last`, and nothing else.
    fn compare(&self, bookmark: &Bookmark, last: i64) -> Result<(), String> {
        let (Some(began), Some(at)) = (bookmark.began, bookmark.at) else {
            return Err("a watcher was never created".to_owned());
        };
        if at < last {
            return Err(format!(
                "a watcher stands at {at}; the last revision is {last}"
            ));
        }
        // One may know already of what the others will be shown next time.
        let owed = self
            .revisions
            .iter()
            .filter(|(at, _)| (began + 1..=last).contains(*at));
        let wanted = owed.flat_map(|(_, events)| events);
        let wanted = wanted.filter(|event| bookmark.wants(key(event)));
        let mut shown = bookmark
            .events
            .iter()
            .filter(|event| revision(event) <= last);
        for wanted in wanted {
            let shown = shown.next();
            if shown != Some(wanted) {
                return Err(format!(
                    "a watcher of {}..{} after {began} was shown {} instead of {}",
                    name(&bookmark.key),
                    name(&bookmark.end),
                    show(shown),
                    show([wanted])
                ));
            }
        }
        match shown.next() {
            None => Ok(()),
            Some(extra) => Err(format!(
                "a watcher of {}..{} after {began} was shown {}",
                name(&bookmark.key),
                name(&bookmark.end),
                show([extra])
            )),
        }
    }
}

fn pair(event: &Event) -> Option<&KeyValue> {
    event.kv.as_ref()
}

fn key(event: &Event) -> &[u8] {
    pair(event).map_or(&[], |kv| &kv.key)
}

fn revision(event: &Event) -> i64 {
    pair(event).map_or(0, |kv| kv.mod_revision)
}

fn show<'a>(events: impl IntoIterator<Item = &'a Event>) -> String {
    let shown = events.into_iter().map(|event| {
        let what = if event.kind == 0 { "put" } else { "delete" };
        format!("{what} {} at {}", name(key(event)), revision(event))
    });
    let shown: Vec<_> = shown.collect();
    if shown.is_empty() {
        return "nothing".to_owned();
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Header;
    use crate::history::{Session, Stamp, Write};

    const fn stamp(revision: i64) -> Stamp {
        Stamp {
            session: 1,
            sequence: revision as u64,
            len: 40,
        }
    }

    fn put(key: &str, revision: i64) -> Event {
        let kv = KeyValue {
            key: key.into(),
            value: stamp(revision).bytes(),
            mod_revision: revision,
            ..KeyValue::default()
        };
        Event {
            kind: 0,
            kv: Some(kv),
        }
    }

    fn said(revision: i64, events: Vec<Event>) -> WatchResponse {
        let header = Some(Header {
            revision,
            ..Header::default()
        });
        WatchResponse {
            header,
            watch_id: 1,
            events,
            ..WatchResponse::default()
        }
    }

    fn created(mut bookmark: Bookmark, revision: i64) -> Bookmark {
        let _ = bookmark.create(1);
        let said = WatchResponse {
            created: true,
            ..said(revision, Vec::new())
        };
        bookmark.take(said).expect("created");
        bookmark
    }

    fn shown(bookmark: Bookmark, responses: Vec<WatchResponse>) -> Bookmark {
        let mut bookmark = created(bookmark, 9);
        for response in responses {
            bookmark.take(response).expect("in order");
        }
        bookmark
    }

    /// a at 2, b at 3, a at 4, all acknowledged.
    fn everything() -> (History, Vec<Event>) {
        let mut history = History::new(1);
        let acked = [("a", 2), ("b", 3), ("a", 4)];
        let events = acked.map(|(key, at)| put(key, at)).into();
        let acked = acked.map(|(key, at)| (at, vec![Write::Put(key.into(), stamp(at))]));
        let session = Session {
            acked: acked.into(),
            unknown: None,
        };
        history.record(session).expect("revisions rise");
        (history, events)
    }

    /// Item by item what a note may not say.
    #[test]
    fn a_note_from_before_the_begin_or_the_last_event_is_found() {
        let mut future = created(Bookmark::new(b"a".into(), Vec::new(), Some(51)), 2);
        assert!(
            future
                .take(said(2, Vec::new()))
                .is_err_and(|why| why.contains("told of 2"))
        );
        future.take(said(51, Vec::new())).expect("there");
        let mut past = shown(Bookmark::of_all(1), vec![said(4, vec![put("a", 2)])]);
        assert!(past.take(said(3, Vec::new())).is_err());
        assert!(
            past.take(said(4, vec![put("a", 4)])).is_err(),
            "it was told of 4"
        );
        assert!(past.take(said(5, vec![put("a", 6)])).is_err());
        assert!(past.take(said(6, vec![put("a", 6), put("a", 5)])).is_err());
    }

    #[test]
    fn what_comes_next_begins_where_created_says() {
        let bookmark = created(Bookmark::new(b"a".into(), Vec::new(), None), 3);
        assert_eq!(bookmark.at(), Some(3));
        let (history, events) = everything();
        let all = shown(Bookmark::of_all(1), vec![said(4, events)]);
        let silent = Bookmark {
            at: Some(4),
            ..bookmark
        };
        let verdict = Watched::default().check(&history, 4, &[silent, all]);
        assert!(verdict.is_err_and(|why| why.contains("nothing instead of put a at 4")));
    }

    #[test]
    fn planted_faults_are_found() {
        let (history, events) = everything();
        let all = || shown(Bookmark::of_all(1), vec![said(4, events.clone())]);
        let of_a = |shown_events: Vec<Event>| {
            let a = Bookmark::new(b"a".into(), Vec::new(), Some(1));
            shown(a, vec![said(4, shown_events)])
        };
        let check = |bookmarks: &[Bookmark]| Watched::default().check(&history, 4, bookmarks);
        check(&[all(), of_a(vec![put("a", 2), put("a", 4)])]).expect("sound");
        let wrong = [
            (
                "instead of put a at 2",
                vec![all(), of_a(vec![put("a", 4)])],
            ),
            (
                "nothing instead of put a at 4",
                vec![all(), of_a(vec![put("a", 2)])],
            ),
            (
                "was shown put b at 3",
                vec![all(), of_a(vec![put("a", 2), put("b", 3), put("a", 4)])],
            ),
            (
                "was shown revision 4",
                vec![shown(
                    Bookmark::of_all(1),
                    vec![said(4, events[..2].to_vec())],
                )],
            ),
            (
                "as put b at 3",
                vec![
                    all(),
                    shown(
                        Bookmark::of_all(2),
                        vec![said(4, vec![put("c", 3), put("a", 4)])],
                    ),
                ],
            ),
            (
                "stands at 3",
                vec![
                    all(),
                    shown(
                        Bookmark::new(b"x".into(), vec![], Some(1)),
                        vec![said(3, vec![])],
                    ),
                ],
            ),
        ];
        for (text, bookmarks) in wrong {
            let why = check(&bookmarks).expect_err(text);
            assert!(why.contains(text), "expected `{text}` in: {why}");
        }
        let mut lost = History::new(1);
        let acked = vec![(3, vec![Write::Put(b"c".into(), stamp(3))])];
        lost.record(Session {
            acked,
            unknown: None,
        })
        .expect("one");
        assert!(
            Watched::default().check(&lost, 4, &[all()]).is_err(),
            "another write was acknowledged"
        );
    }
}
