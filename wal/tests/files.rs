//! Files and directories that are not what they should be: lost, cut short, stale, another log's, another
//! member's. Each is refused and named, and nothing is touched.

mod common;

use common::model::{Rec, Twin};
use common::sealed::{live, reopened, sealed};
use common::small;
use henge_wal::disk::sim::SimHandle;
use henge_wal::{Identity, OpenError};

#[test]
fn lost_cut_and_stale_files_are_refused() {
    let (machine, state) = sealed();
    let live = live(&machine);
    for (name, _) in &live {
        let copy = machine.fork(1);
        copy.set_file(name, None);
        let refused = reopened(&copy).expect_err("a segment is missing");
        assert!(
            matches!(refused, OpenError::MissingSegment { .. }),
            "{name}: {refused}"
        );

        for keep in [0, 4096, 20_000] {
            let copy = machine.fork(1);
            let bytes = machine.file(name).expect("a segment");
            copy.set_file(name, Some(bytes[..keep].to_vec()));
            assert!(reopened(&copy).is_err(), "{name} cut to {keep} bytes");
        }
        // An older segment's bytes under another one's name: good checksums, wrong place.
        for (other, _) in live.iter().filter(|(other, _)| other != name) {
            let copy = machine.fork(1);
            copy.set_file(name, machine.file(other));
            assert!(reopened(&copy).is_err(), "{other} as {name}");
        }
    }
    for name in machine.names().iter().filter(|n| n.ends_with(".seg")) {
        if live.iter().all(|(segment, _)| segment != name) {
            let copy = machine.fork(1);
            copy.set_file(name, None);
            assert_eq!(
                reopened(&copy).map(|r| r.0).as_ref(),
                Ok(&state),
                "a ready one: {name}"
            );
        }
    }
    let foreign = sealed_by(99);
    let stray = machine.fork(1);
    stray.set_file("00000000000000ff.seg", foreign.file(&live[0].0));
    assert!(matches!(
        reopened(&stray),
        Err(OpenError::ForeignSegment { .. })
    ));
}

fn sealed_by(seed: u64) -> SimHandle {
    let mut twin = Twin::new(SimHandle::new(seed, 1), small());
    twin.open().expect("a new log");
    twin.stage(Rec::Entry(1, 1, 1, vec![1; 10]));
    twin.submit();
    twin.settle();
    twin.close();
    twin.machine
}

#[test]
fn a_wrong_directory_is_refused_and_not_touched() {
    let (machine, _) = sealed();
    let before: Vec<_> = machine.names().iter().map(|n| machine.file(n)).collect();
    let open_as = |machine: &SimHandle, identity: Identity| {
        let disk = Box::new(machine.disk());
        henge_wal::Wal::open("sim".as_ref(), &small(), &identity, disk, &mut ())
            .map(drop)
            .expect_err("refused")
    };
    let other = Identity {
        cluster_id: 1,
        ..common::US
    };
    assert!(matches!(
        open_as(&machine, other),
        OpenError::WrongIdentity {
            found_cluster: 0xc1,
            ..
        }
    ));
    let unnamed = machine.fork(1);
    unnamed.set_file("IDENTITY", None);
    assert!(matches!(
        open_as(&unnamed, common::US),
        OpenError::BadIdentity { .. }
    ));
    let damaged = machine.fork(1);
    damaged.set_file(
        "IDENTITY",
        machine.file("IDENTITY").map(|mut b| {
            b[20] ^= 1;
            b
        }),
    );
    assert!(matches!(
        open_as(&damaged, common::US),
        OpenError::BadIdentity { .. }
    ));
    let photos = SimHandle::new(1, 1);
    photos.set_file("holiday.jpg", Some(vec![1]));
    assert!(
        matches!(open_as(&photos, common::US), OpenError::NotOurs { ref found, .. } if found == "holiday.jpg")
    );
    assert_eq!(photos.names(), ["holiday.jpg"]);
    let after: Vec<_> = machine.names().iter().map(|n| machine.file(n)).collect();
    assert!(before == after);
}
