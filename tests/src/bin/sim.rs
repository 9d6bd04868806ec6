//! Runs the simulator: `sim --seed N [--seconds S] [--seeds K] [--nodes 1|3 | --shards N|any] [--planted
//! NAME]`.
//!
//! Prints the first seed first and a line of `key=value` pairs last; exits with 1 on a violation, with 2
//! on a bad argument. With neither `--seconds` nor `--seeds`, one seed is run.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use henge_tests::sim::aside::NAMES;
use henge_tests::sim::{self, Options, Planted, Stats};

const USAGE: &str = "sim [--seed N] [--seconds S] [--seeds K] [--nodes 1|3 | --shards N|any \
[--segment-bytes B]] \
                     [--virtual-ms MS] [--planted NAME] [--print]";

struct Arguments {
    seed: u64,
    seconds: Option<u64>,
    seeds: Option<u64>,
    nodes: Option<usize>,
    /// A machine with so many shards; 0: with as many as the seed decides.
    shards: Option<usize>,
    segment_bytes: Option<u64>,
    virtual_ms: Option<u64>,
    planted: Option<Planted>,
    print: bool,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\nusage: {USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("seed={}", arguments.seed);
    let started = now();
    let mut total = Stats::default();
    let mut seeds = 0;
    let mut violation = None;
    while more(&arguments, seeds, started) {
        let options = options(&arguments, arguments.seed.wrapping_add(seeds));
        seeds += 1;
        match sim::run(&options) {
            Ok(stats) => total.add(&stats),
            Err(found) => {
                println!("violation at seed {}: {found}", options.seed);
                println!("repeat it with: {}", options.command());
                violation = Some(options.seed);
                break;
            }
        }
    }
    report(&total, seeds, started.elapsed(), violation);
    if violation.is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        seed: 1,
        seconds: None,
        seeds: None,
        nodes: None,
        shards: None,
        segment_bytes: None,
        virtual_ms: None,
        planted: None,
        print: false,
    };
    while let Some(word) = words.next() {
        if word == "--print" {
            arguments.print = true;
            continue;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value"))?;
        let number = || {
            value
                .parse()
                .map_err(|_| format!("{word}: {value:?} is not a number"))
        };
        match word.as_str() {
            "--seed" => arguments.seed = number()?,
            "--seconds" => arguments.seconds = Some(number()?),
            "--seeds" => arguments.seeds = Some(number()?),
            "--virtual-ms" => arguments.virtual_ms = Some(number()?),
            "--segment-bytes" => match number()? {
                bytes @ 65_536..=67_108_864 => arguments.segment_bytes = Some(bytes),
                bytes => return Err(format!("--segment-bytes: {bytes} is not 64 KiB to 64 MiB")),
            },
            "--planted" => arguments.planted = Some(value.parse()?),
            "--nodes" => match number()? {
                1 => arguments.nodes = Some(1),
                3 => arguments.nodes = Some(3),
                other => return Err(format!("--nodes: {other} is neither 1 nor 3")),
            },
            "--shards" if value == "any" => arguments.shards = Some(0),
            "--shards" => match usize::try_from(number()?) {
                Ok(shards @ 1..=1_000) => arguments.shards = Some(shards),
                _ => return Err(format!("--shards: {value} is not between 1 and 1000")),
            },
            _ => return Err(format!("{word:?} is not known")),
        }
    }
    Ok(arguments)
}

fn options(arguments: &Arguments, seed: u64) -> Options {
    let mut options = match (arguments.planted, arguments.shards) {
        (_, Some(_)) => Options::machine(seed),
        (Some(planted), None) => planted.options(seed),
        (None, None) => Options::new(seed),
    };
    options.planted = arguments.planted;
    options.segment_bytes = arguments.segment_bytes;
    options.nodes = arguments.nodes.unwrap_or(options.nodes);
    if let Some(shards @ 1..) = arguments.shards {
        options.shards = shards;
    }
    options.virtual_ms = arguments.virtual_ms.unwrap_or(options.virtual_ms);
    options.print = arguments.print;
    options
}

fn more(arguments: &Arguments, done: u64, started: Instant) -> bool {
    match (arguments.seeds, arguments.seconds) {
        (Some(seeds), _) if done >= seeds => false,
        (_, Some(seconds)) => started.elapsed() < Duration::from_secs(seconds),
        (Some(_), None) => true,
        (None, None) => done == 0,
    }
}

fn report(total: &Stats, seeds: u64, elapsed: Duration, violation: Option<u64>) {
    let violation = violation.map_or("none".to_owned(), |seed| seed.to_string());
    let cuts = NAMES.iter().zip(total.aside.cuts);
    let cuts: Vec<_> = cuts
        .map(|(name, cut)| format!("cut_{name}={cut}"))
        .collect();
    println!(
        "seeds={seeds} seconds={:.1} virtual_seconds={} events={} turns={} operations={} \
         not_done={} unknown={} revisions={} watch_responses={} watch_notes={} watches_compacted={} \
         faults={} starts={} failed_starts={} moves={} crashes={} poisoned={} frames_lost={} checkpoints={} \
         purged={} {} trace={:016x} \
         violation={violation}",
        elapsed.as_secs_f64(),
        total.virtual_us / 1_000_000,
        total.events,
        total.turns,
        total.counts.done,
        total.counts.not_done,
        total.counts.unknown,
        total.revisions,
        total.watch_responses,
        total.watch_notes,
        total.watches_compacted,
        total.faults,
        total.starts,
        total.failed_starts,
        total.moves,
        total.crashes,
        total.poisoned,
        total.frames_lost,
        total.aside.checkpoints,
        total.aside.purged,
        cuts.join(" "),
        total.trace,
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long to run is the user's time, not the simulation's"
)]
fn now() -> Instant {
    Instant::now()
}
