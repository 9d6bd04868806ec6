//! `simple`, `enter-joint` and `leave-joint`: configurations and the progress of their members.

use henge_raft::Membership;
use henge_raft::membership::{Changer, parse_changes};
use henge_raft::progress::ProgressMap;

use crate::datadriven::Case;

pub struct Environment(Changer);

impl Environment {
    pub fn new() -> Environment {
        Environment(Changer {
            membership: Membership::default(),
            progress: ProgressMap::default(),
            last_index: 0,
            inflight_max: (10, 0),
        })
    }

    pub fn handle(&mut self, case: &Case) -> String {
        let outcome = self.change(case);
        // New members start at the end of a log that grows with each command.
        self.0.last_index += 1;
        match outcome {
            Ok(()) => format!("{}\n{}", self.0.membership, self.0.progress),
            Err(error) => error,
        }
    }

    fn change(&mut self, case: &Case) -> Result<(), String> {
        let steps = parse_changes(&case.input)?;
        let outcome = match case.command.as_str() {
            "simple" => self.0.simple(&steps),
            "enter-joint" => {
                let auto_leave = case.values("autoleave").is_some_and(|it| it == ["true"]);
                self.0.enter_joint(auto_leave, &steps)
            }
            "leave-joint" if !steps.is_empty() => {
                return Err("this command takes no input".to_string());
            }
            "leave-joint" => self.0.leave_joint(),
            _ => return Err("unknown command".to_string()),
        };
        let (membership, progress) = outcome.map_err(|error| error.to_string())?;
        self.0.membership = membership;
        self.0.progress = progress;
        Ok(())
    }
}
