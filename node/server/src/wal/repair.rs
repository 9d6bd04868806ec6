//! `henge wal repair`: what making a log open again costs, said and done.
//!
//! Promises: nothing is written without `--yes`. Must never know: how a log is mended; `henge_wal::repair`
//! does.

use std::path::Path;

use henge_wal::Damage;
use henge_wal::repair::{self, Plan, RepairError, Step};

use super::{EXIT_DAMAGED, EXIT_FAILED, EXIT_GROUPS, classify, healed_json, with_advice};
use crate::output::{out, tell};

/// What to do about a log that does not open, where a repair has just said no.
const NO_REPAIR: &str = "no repair is known for this, and nothing was changed: put the files back as they \
were, \
                         or bring out what can be read with `henge wal salvage`";

pub(super) fn mend(log: &Path, json: bool, yes: bool) -> u8 {
    let done = if yes {
        repair::apply(log)
    } else {
        repair::plan(log)
    };
    let plan = match done {
        Ok(plan) => plan,
        Err(RepairError::Open(error)) => {
            tell!(
                "henge wal: {}: {}: {}",
                log.display(),
                classify(&error).0,
                with_advice(&error, NO_REPAIR)
            );
            return EXIT_DAMAGED;
        }
        Err(error) => {
            tell!("henge wal: {}: {error}", log.display());
            return EXIT_FAILED;
        }
    };
    if json {
        out!("{}", plan_json(log, &plan, yes));
    } else {
        for line in plan_lines(&plan, yes) {
            out!("{}: {line}", log.display());
        }
    }
    let damaged = !plan.damaged.is_empty() || plan.nameless;
    match (plan.reopens(), yes) {
        (true, false) => EXIT_DAMAGED,
        (true, true) if damaged => EXIT_GROUPS,
        (false, false) if !plan.steps.is_empty() => EXIT_GROUPS,
        _ => 0,
    }
}

fn plan_json(log: &Path, plan: &Plan, yes: bool) -> serde_json::Value {
    let bridges = plan.bridges.iter().map(|bridge| {
        serde_json::json!({
            "file": bridge.file.display().to_string(), "offset": bridge.offset, "bytes": bridge.bytes,
            "first_batch": bridge.batches.0, "last_batch": bridge.batches.1,
        })
    });
    let damaged = plan.damaged.iter().map(|damage| {
        let known = damage.last < Damage::NO_END;
        let last = known.then_some(damage.last);
        serde_json::json!({ "group": damage.group, "first": damage.first, "last": last })
    });
    let steps = plan.steps.iter().map(|step| {
        let last = (step.last < Damage::NO_END).then_some(step.last);
        serde_json::json!({ "group": step.group, "keep": step.keep, "last": last })
    });
    let headers = plan.headers.iter().map(|file| file.display().to_string());
    serde_json::json!({
        "log": log.display().to_string(), "done": yes,
        "bridges": bridges.collect::<Vec<_>>(), "headers": headers.collect::<Vec<_>>(),
        "damaged": damaged.collect::<Vec<_>>(), "nameless": plan.nameless,
        "mended": healed_json(&plan.mended), "unmended": healed_json(&plan.unmended),
        "steps": steps.collect::<Vec<_>>(),
    })
}

/// What was done, or would be.
fn plan_lines(plan: &Plan, yes: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for bridge in &plan.bridges {
        let verb = if yes {
            "are bridged"
        } else {
            "would be bridged"
        };
        let (first, last) = bridge.batches;
        lines.push(format!(
            "{} offset {}, {} bytes: batches {first}..={last} cannot be read and {verb}{}",
            bridge.file.display(),
            bridge.offset,
            bridge.bytes,
            if yes { "; a copy is in cut/" } else { "" }
        ));
    }
    for file in &plan.headers {
        let verb = if yes { "is made" } else { "would be made" };
        lines.push(format!("{}: the header {verb} again", file.display()));
    }
    for damage in &plan.damaged {
        let verb = if yes {
            "is damaged now"
        } else {
            "would be damaged"
        };
        let what = damage.to_string().replace(" lost ", " may have lost ");
        lines.push(format!(
            "{what}; it {verb}, and serves nothing until it is repaired"
        ));
    }
    if plan.reopens() {
        lines.push(if plan.damaged.is_empty() {
            "no group that is known lost anything".to_owned()
        } else {
            "all other groups are whole".to_owned()
        });
    }
    if plan.nameless {
        lines.push(
            "a group of which nothing else is in the log may have been there, too: it is damaged as a whole"
                .to_owned(),
        );
    }
    for healed in &plan.mended {
        let verb = if yes {
            "is good again"
        } else {
            "would be made good again"
        };
        lines.push(format!("{healed} {verb}"));
    }
    for healed in &plan.unmended {
        lines.push(format!(
            "{healed} stays damaged; it goes when its segment is purged"
        ));
    }
    for step in &plan.steps {
        lines.push(step_line(step, yes));
    }
    if plan.is_empty() {
        lines.push("no group is damaged".to_owned());
    }
    lines
}

fn step_line(step: &Step, yes: bool) -> String {
    let verb = if yes { "ends now" } else { "would end" };
    let given_up = match step.last {
        last if last < Damage::NO_END => format!("entries {}..={last}", step.keep + 1),
        _ => format!("all entries from {} on", step.keep + 1),
    };
    format!(
        "group {} {verb} at entry {}; {given_up} are given up",
        step.group, step.keep
    )
}
