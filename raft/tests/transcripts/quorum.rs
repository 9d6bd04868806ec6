//! `committed` and `vote`: what a majority, or a pair of them, decides.
//!
//! Each result is also checked against others that must be the same (halves swapped, a configuration
//! joined with itself or with nothing); a difference is printed, and so fails the transcript.

use std::collections::BTreeMap;

use henge_raft::quorum::{JointConfig, MajorityConfig, VoteResult};

use crate::datadriven::{Case, number};

pub fn handle(case: &Case) -> String {
    evaluate(case).unwrap_or_else(|error| format!("error: {error}"))
}

fn evaluate(case: &Case) -> Result<String, String> {
    let listed = |key: &str| case.values(key).unwrap_or_default();
    let ids = |key: &str| {
        listed(key)
            .iter()
            .map(|id| number(id))
            .collect::<Result<Vec<_>, _>>()
    };
    let is_joint = case.values("cfgj").is_some();
    let one = ids("cfg")?;
    let two = if listed("cfgj") == ["zero"] {
        Vec::new()
    } else {
        ids("cfgj")?
    };
    let mut order: Vec<u64> = Vec::new();
    for id in one.iter().chain(&two) {
        if !order.contains(id) {
            order.push(*id);
        }
    }
    let answers = listed(if case.command == "vote" {
        "votes"
    } else {
        "idx"
    });
    if answers.len() != order.len() {
        return Err(format!(
            "mismatched input (explicit or _) for voters {order:?}: {answers:?}"
        ));
    }
    // `_` stands for "no answer".
    let answers: BTreeMap<u64, &str> = order
        .into_iter()
        .zip(answers.iter().map(String::as_str))
        .filter(|it| it.1 != "_")
        .collect();
    let voters = JointConfig {
        incoming: MajorityConfig::new(&one),
        outgoing: MajorityConfig::new(&two),
    };
    match case.command.as_str() {
        "committed" => committed(&voters, is_joint, &answers),
        "vote" => vote(&voters, &answers),
        other => Err(format!("unknown command {other}")),
    }
}

fn committed(
    voters: &JointConfig,
    is_joint: bool,
    answers: &BTreeMap<u64, &str>,
) -> Result<String, String> {
    let mut acked = BTreeMap::new();
    for (id, index) in answers {
        acked.insert(*id, number(index)?);
    }
    let lookup = |id: u64| acked.get(&id).copied();
    let mut out = voters.describe(lookup);
    let index = voters.committed_index(lookup);
    let mut compare = |other: u64, how: &str| {
        if other != index {
            out += &format!("{} <-- {how}\n", shown(other));
        }
    };
    compare(swapped(voters).committed_index(lookup), "via symmetry");
    if !is_joint {
        let config = &voters.incoming;
        compare(config.committed_index(lookup), "via majority");
        let joined = JointConfig {
            incoming: config.clone(),
            outgoing: config.clone(),
        };
        compare(joined.committed_index(lookup), "via self-joint quorum");
        for id in config
            .iter()
            .filter(|id| lookup(*id).is_some_and(|it| it > 0 && it < index))
        {
            // Who is behind the committed index can fall back further.
            for lower in [lookup(id).unwrap_or(1) - 1, 0] {
                let overlaid = |it| if it == id { Some(lower) } else { lookup(it) };
                compare(config.committed_index(overlaid), "via overlay");
            }
        }
    }
    Ok(out + &shown(index))
}

fn vote(voters: &JointConfig, answers: &BTreeMap<u64, &str>) -> Result<String, String> {
    let mut votes = BTreeMap::new();
    for (id, vote) in answers {
        let is_yes = match *vote {
            "y" => true,
            "n" => false,
            other => return Err(format!("unknown vote: {other}")),
        };
        votes.insert(*id, is_yes);
    }
    let lookup = |id: u64| votes.get(&id).copied();
    let result: VoteResult = voters.vote_result(lookup);
    let other = swapped(voters).vote_result(lookup);
    match other == result {
        true => Ok(result.to_string()),
        false => Ok(format!("{other} <-- via symmetry\n{result}")),
    }
}

fn swapped(voters: &JointConfig) -> JointConfig {
    JointConfig {
        incoming: voters.outgoing.clone(),
        outgoing: voters.incoming.clone(),
    }
}

fn shown(index: u64) -> String {
    match index {
        u64::MAX => "∞".to_string(),
        index => index.to_string(),
    }
}
