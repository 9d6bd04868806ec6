//! Kill -9 of a process that embeds an engine with many shards, opened with another number of cores each
//! time, briefly; `crash --embedded-shards 64` is the long run. The checker finds what is planted.

use std::process::{Command, Output};

fn crash(arguments: &[&str]) -> Output {
    let run = Command::new(env!("CARGO_BIN_EXE_crash"))
        .args(arguments)
        .output()
        .expect("crash runs");
    // Shown when the test fails: the seed is in it.
    println!("{}", String::from_utf8_lossy(&run.stdout));
    println!("{}", String::from_utf8_lossy(&run.stderr));
    run
}

#[test]
fn acknowledged_writes_of_every_shard_survive_kills_and_other_numbers_of_cores() {
    let run = crash(&["--embedded-shards", "16", "--rounds", "3"]);
    assert!(run.status.success());
}

#[test]
fn a_log_that_forgets_and_a_transaction_in_pieces_are_found() {
    for planted in ["lost-tail", "split-txn"] {
        let run = crash(&[
            "--embedded-shards",
            "16",
            "--rounds",
            "10",
            "--planted",
            planted,
        ]);
        assert_eq!(run.status.code(), Some(1), "{planted}");
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(said.contains("VIOLATION"), "{planted}");
    }
}
