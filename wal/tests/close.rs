//! Closing ends: whatever waits for a segment, and whether or not there is room for one.

mod common;

use std::path::Path;
use std::task::{Context, Poll, Waker};

use common::{open, small};
use henge_wal::disk::sim::SimHandle;
use henge_wal::{Event, Options, Wal};

/// Polls this often must be enough: every operation takes at most three steps.
const POLLS_MAX: usize = 1_000;

/// Closes, and says which batches became durable before the end.
fn close(mut wal: Wal) -> Vec<u64> {
    wal.close();
    let mut cx = Context::from_waker(Waker::noop());
    let mut durable = Vec::new();
    for _ in 0..POLLS_MAX {
        match wal.poll(&mut cx) {
            Poll::Ready(Event::Closed) => return durable,
            Poll::Ready(Event::Durable(lsn)) => durable.push(lsn),
            _ => {}
        }
    }
    panic!("never closed; durable so far: {durable:?}");
}

#[test]
fn what_waits_for_a_segment_is_written_before_the_end() {
    // Stop after every possible number of steps of the pipeline that makes the first segments.
    for steps in 0..30 {
        let machine = SimHandle::new(steps, 3);
        let options = Options {
            ready_segments: 1,
            ..small()
        };
        let mut wal = open(Path::new("sim"), &options, Box::new(machine.disk()))
            .expect("opens")
            .wal;
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..steps {
            let _ = wal.poll(&mut cx);
        }
        // More than a segment holds: the later batches wait for the next one.
        let mut last = 0;
        for index in 1..=40 {
            last = wal.entry(1, 1, index, 0, &[7; 4_000]).expect("fits");
            wal.submit().expect("healthy");
        }
        let durable = close(wal);
        assert!(
            durable.contains(&last),
            "closed after {steps} steps without batch {last}: {durable:?}"
        );
    }
}

#[test]
fn a_full_disk_does_not_hold_up_the_end() {
    let machine = SimHandle::new(1, 3);
    let mut wal = open(Path::new("sim"), &small(), Box::new(machine.disk()))
        .expect("opens")
        .wal;
    machine.set_capacity(Some(0));
    for index in 1..=200 {
        wal.entry(1, 1, index, 0, &[7; 4_000]).expect("fits");
        wal.submit().expect("healthy");
    }
    close(wal);
}
