//! Moving groups between the logs of cores, with the machine stopped at every operation of the move.
//!
//! The logs are real ones over simulated disks, one machine for all of them: when it stops, every disk
//! tears what it had in flight. Whatever was moved when it stopped, and whatever number of cores is asked
//! for next, each group must be whole in the log where the layout says it lives, and nowhere else.

use std::path::PathBuf;
use std::task::{Context, Poll, Waker};

use henge::OpenError;
use henge::engine::layout::{Layout, Placement, Router};
use henge::engine::rehome::{Ground, rehome};
use henge::wal::disk::Disk;
use henge::wal::disk::sim::{Fault, Keep, SimHandle};
use henge::wal::{Collect, Event, Identity, Options, Wal};

const SHARDS: usize = 5;
const CORES_MAX: usize = 4;
const US: Identity = Identity {
    cluster_id: 1,
    member_id: 1,
};

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        batch_bytes_max: 8 << 10,
        ..Options::default()
    }
}

/// The machine: one disk per core's log, and the layout file.
#[derive(Clone)]
struct Machine {
    disks: Vec<SimHandle>,
    layout: Layout,
    writes: usize,
    /// This write of the layout stops the machine; with true, after it was done.
    stop_at_write: Option<(usize, bool)>,
    stopped: bool,
}

impl Machine {
    fn fork(&self, seed: u64) -> Self {
        let disks = self.disks.iter().map(|disk| disk.fork(seed)).collect();
        Machine {
            disks,
            ..self.clone()
        }
    }

    /// Opens the directory, as the engine does before its cores start.
    fn open(&mut self, cores: usize) -> Result<(), OpenError> {
        let mut layout = self.layout.clone();
        rehome(self, &mut layout, &Placement::turns(cores), &options(), &US)?;
        assert_eq!(
            layout, self.layout,
            "what was returned is not what is on disk"
        );
        Ok(())
    }

    fn crash(&mut self, seed: u64) {
        for (at, disk) in self.disks.iter().enumerate() {
            disk.crash(&Keep::Seeded(seed ^ at as u64));
        }
        self.stopped = false;
        self.stop_at_write = None;
    }

    fn has_stopped(&self) -> bool {
        self.stopped || self.disks.iter().any(SimHandle::is_crashed)
    }

    fn log(&self, core: usize) -> (Wal, Collect) {
        let mut found = Collect::default();
        let disk = Box::new(self.disks[core].disk());
        let (wal, _) = Wal::open(&PathBuf::from("sim"), &options(), &US, disk, &mut found)
            .expect("the log opens");
        (wal, found)
    }

    /// Every group is whole where it lives, and nowhere else.
    fn check(&self, written: &Collect) {
        assert_eq!(self.layout.moving, None);
        for core in 0..CORES_MAX {
            let (_wal, found) = self.log(core);
            for shard in 0..SHARDS {
                let group = shard as u64 + 1;
                let home = self.layout.placement.home(shard) == core;
                let expected = home.then(|| &written.groups[&group]);
                assert_eq!(
                    found.groups.get(&group),
                    expected,
                    "group {group}, core {core}"
                );
            }
        }
    }
}

impl Ground for Machine {
    fn log_dir(&self, core: usize) -> PathBuf {
        PathBuf::from(format!("core-{core}"))
    }

    fn disk(&mut self, core: usize) -> Box<dyn Disk> {
        Box::new(self.disks[core].disk())
    }

    fn write_layout(&mut self, layout: &Layout) -> Result<(), OpenError> {
        let this = self.writes;
        self.writes += 1;
        let stop = self.stop_at_write.filter(|(at, _)| *at == this);
        if stop.is_none_or(|(_, done)| done) {
            self.layout = layout.clone();
        }
        self.stopped |= stop.is_some();
        self.wait()
    }

    fn wait(&mut self) -> Result<(), OpenError> {
        if self.has_stopped() {
            return Err(OpenError::HostDied);
        }
        Ok(())
    }
}

/// Two cores with five groups between them, whose logs fill several segments: entries of changing
/// terms, a suffix that was replaced, and one group that begins after a checkpoint.
fn machine(seed: u64) -> (Machine, Collect) {
    let machine = Machine {
        disks: (0..CORES_MAX as u64)
            .map(|at| SimHandle::new(seed ^ at, 3))
            .collect(),
        layout: Layout {
            shards: SHARDS,
            router: Router::Hash,
            placement: Placement::turns(2),
            moving: None,
            making: false,
        },
        writes: 0,
        stop_at_write: None,
        stopped: false,
    };
    let mut written = Collect::default();
    for core in 0..2 {
        let (mut wal, _) = machine.log(core);
        let groups: Vec<u64> = (core as u64 + 1..=SHARDS as u64).step_by(2).collect();
        for round in 0..14_u64 {
            for group in &groups {
                for index in 3 * round + 1..=3 * round + 3 {
                    let payload = vec![(index ^ group) as u8; 40 * index as usize];
                    wal.entry(*group, 1 + round / 4, index, 0, &payload)
                        .expect("staged");
                }
                wal.hard_state(*group, 1 + round / 4, 1, 3 * round);
            }
            commit(&mut wal);
        }
        if core == 0 {
            // The third group was checkpointed, the first lost its last entry to another leader.
            wal.compacted(3, 20, 2);
            wal.entry(1, 9, 42, 0, b"another").expect("staged");
            commit(&mut wal);
        }
        wal.close();
        while event(&mut wal) != Event::Closed {}
        drop(wal);
        written.groups.extend(machine.log(core).1.groups);
    }
    assert_eq!(written.groups.len(), SHARDS);
    assert_eq!(
        written.groups[&1].entries.back().map(|entry| entry.term),
        Some(9)
    );
    (machine, written)
}

fn event(wal: &mut Wal) -> Event {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(event) = wal.poll(&mut cx) {
            return event;
        }
    }
}

fn commit(wal: &mut Wal) {
    let lsn = wal.staged_lsn();
    wal.submit().expect("a healthy log");
    while !matches!(event(wal), Event::Durable(at) if at >= lsn) {}
}

#[test]
fn groups_follow_the_number_of_cores_and_come_back() {
    let (mut machine, written) = machine(1);
    for cores in [3, 1, 4, 4, 2, 3] {
        machine.open(cores).expect("moves");
        assert_eq!(machine.layout.placement, Placement::turns(cores));
        machine.check(&written);
    }
}

#[test]
fn a_placement_of_the_callers_own_is_followed() {
    let (mut machine, written) = machine(2);
    let mut layout = machine.layout.clone();
    let placed = Placement {
        cores: 3,
        homes: vec![2, 2, 0, 2, 1],
    };
    rehome(&mut machine, &mut layout, &placed, &options(), &US).expect("moves");
    machine.check(&written);
}

/// Runs a move from two cores to `to` with the machine stopping where `arm` says, then opens with `next`
/// cores; `false` once the stop lies behind the end of the move.
fn stopped_move(
    (whole, written): &(Machine, Collect),
    to: usize,
    next: usize,
    seed: u64,
    arm: impl Fn(&mut Machine),
) -> bool {
    let mut machine = whole.fork(seed);
    arm(&mut machine);
    let moved = machine.open(to);
    if moved.is_ok() && !machine.has_stopped() {
        return false;
    }
    machine.crash(seed);
    // And once more, somewhere in what follows.
    let again = usize::try_from(seed % 5).expect("small");
    if let Some(disk) = machine.disks.get(again) {
        disk.fail(seed % 37, Fault::Crash);
        let second = machine.open(next);
        if second.is_err() || machine.has_stopped() {
            machine.crash(!seed);
        }
        machine.disks.iter().for_each(SimHandle::heal);
    }
    machine.open(next).expect("opens after a stop");
    assert_eq!(
        machine.layout.placement,
        Placement::turns(next),
        "seed {seed}"
    );
    machine.check(written);
    true
}

#[test]
fn a_move_can_be_stopped_at_every_operation_and_gone_on_with_any_number_of_cores() {
    let start = machine(3);
    let mut stops = 0_u64;
    for to in [1, 3] {
        for disk in 0..CORES_MAX {
            for n in 0.. {
                stops += 1;
                let next = [2, to, 4][(stops % 3) as usize];
                let arm = |machine: &mut Machine| machine.disks[disk].fail(n, Fault::Crash);
                if !stopped_move(&start, to, next, stops, arm) {
                    break;
                }
            }
        }
        for write in 0..2 {
            for done in [false, true] {
                for next in [2, to, 4] {
                    stops += 1;
                    let arm = |machine: &mut Machine| machine.stop_at_write = Some((write, done));
                    assert!(stopped_move(&start, to, next, stops, arm));
                }
            }
        }
    }
    assert!(stops > 150, "only {stops} places to stop at");
}

#[test]
fn a_log_that_lost_entries_is_not_moved_and_keeps_what_it_has() {
    let (mut machine, written) = machine(4);
    let before = machine.layout.clone();
    // One byte of group 4's twentieth entry, in the log of core 1.
    let needle = [20 ^ 4; 40];
    let disk = &machine.disks[1];
    let mut files = disk.names().into_iter().filter_map(|name| {
        let bytes = disk.file(&name)?;
        let at = bytes
            .windows(needle.len())
            .position(|seen| seen == needle)?;
        Some((name, at))
    });
    let (name, at) = files.next_back().expect("the entry is in the log");
    disk.rot(&name, at, &[0]);
    let refused = machine.open(1).expect_err("a copy would hide the loss");
    assert!(refused.to_string().contains("offset"), "{refused}");
    assert_eq!(machine.layout, before, "no move was begun");
    disk_is_whole(&machine, 0, &written);
    // Where nothing moves, nothing is refused here: the core itself sees to what is left.
    machine.open(2).expect("as it stands");
}

/// The groups of a core's log are as they were written.
fn disk_is_whole(machine: &Machine, core: usize, written: &Collect) {
    let (_wal, found) = machine.log(core);
    assert!(!found.groups.is_empty());
    for (group, found) in &found.groups {
        assert_eq!(Some(found), written.groups.get(group), "group {group}");
    }
}
