//! From a put to its event: one operation of `watch`.
//!
//! Promises: the event counts when it arrives, also if the put's own answer comes later; events of others'
//! puts to the same key are not taken for it. Must never know: what it runs against.
#![allow(
    clippy::disallowed_methods,
    reason = "a load generator measures real time"
)]

use std::pin::pin;
use std::time::Instant;

use super::op::Answer;

/// Waits for a put, which answers its revision, and for its event. `next` waits for the next revisions that
/// a watcher is shown; it may be dropped between two of them.
pub async fn seen(
    put: impl Future<Output = Result<i64, String>>,
    mut next: impl AsyncFnMut() -> Result<Vec<i64>, String>,
) -> Result<Answer, String> {
    let mut put = pin!(put);
    let mut written = None;
    let mut shown: Vec<(i64, Instant)> = Vec::new();
    loop {
        if let Some(written) = written
            && let Some((_, at)) = shown.iter().find(|(revision, _)| *revision >= written)
        {
            return Ok(Answer {
                events: shown.len() as u64,
                at: Some(*at),
                ..Answer::default()
            });
        }
        tokio::select! {
            revision = &mut put, if written.is_none() => written = Some(revision?),
            revisions = next() => {
                let at = Instant::now();
                shown.extend(revisions?.into_iter().map(|revision| (revision, at)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(put: impl Future<Output = Result<i64, String>>, events: &[&[i64]]) -> Answer {
        let mut events = events.iter();
        let next = async || match events.next() {
            Some(revisions) => Ok(revisions.to_vec()),
            None => std::future::pending().await,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(seen(put, next)).expect("it is seen")
    }

    #[test]
    fn an_event_counts_whether_it_comes_before_or_after_the_answer_and_others_do_not() {
        assert_eq!(run(async { Ok(7) }, &[&[5], &[6, 7]]).events, 3);
        let late = async {
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            Ok(7)
        };
        let answer = run(late, &[&[6], &[7], &[8]]);
        assert!(answer.at.is_some() && answer.events >= 2, "{answer:?}");
    }
}
