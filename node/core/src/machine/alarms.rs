//! Alarms: what is so wrong with a group that everybody is told, until somebody says that it is mended.
//!
//! As etcd's: replicated state, raised by the member that sees the cause and lowered by hand. While one for
//! space is raised nothing is taken in that adds data, on every member alike and from the same entry on;
//! while one for corruption is raised nothing of the data is served. A member's own disk that is full is no
//! alarm of this kind: it falls by itself (see `shard::admit`).
//!
//! Promises: deterministic; what it writes into a checkpoint it reads back, and nothing is written while
//! nothing is raised, so that such a checkpoint is as it always was. Must never know: quotas, clients.

use henge_api::{Alarm, AlarmAction, AlarmMember, Error};

use super::command::Command;

/// Begins the machine's own part of a checkpoint. As the length of a frame of the store's stream, which is
/// what else can stand there, it would be more than that believes.
const MAGIC: &[u8; 8] = b"HENGEMC\0";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 8 + 4 + 4;
const ALARM_BYTES: usize = 8 + 1;

/// The alarms that are raised, by kind and member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    raised: Vec<AlarmMember>,
}

/// The machine's part of a checkpoint is not one of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Written by a newer version.
    #[error(
        "the machine's part has version {0}, this program knows {VERSION}; use the newer program"
    )]
    Newer(u32),
    /// Cut short, or with an unknown alarm.
    #[error("the machine's part is damaged")]
    Damaged,
}

impl Alarms {
    /// All that are raised.
    pub fn list(&self) -> &[AlarmMember] {
        &self.raised
    }

    /// Whether one of this kind is raised, by any member.
    pub fn is_raised(&self, alarm: Alarm) -> bool {
        self.raised.iter().any(|raised| raised.alarm == alarm)
    }

    /// Whether this one is.
    pub fn has(&self, alarm: AlarmMember) -> bool {
        self.raised.contains(&alarm)
    }

    /// Does what an applied command says; which alarms it is about, as etcd answers: one that was raised
    /// already is answered as well, one that is lowered and was not raised is not.
    pub(super) fn apply(&mut self, action: AlarmAction, alarm: AlarmMember) -> Vec<AlarmMember> {
        match action {
            AlarmAction::Activate => {
                if let Err(at) = self.raised.binary_search(&alarm) {
                    self.raised.insert(at, alarm);
                }
                vec![alarm]
            }
            AlarmAction::Deactivate => match self.raised.binary_search(&alarm) {
                Ok(at) => vec![self.raised.remove(at)],
                Err(_) => Vec::new(),
            },
        }
    }

    /// Whether a command is refused while these are raised.
    pub(super) fn refuse(&self, command: &Command<'_>) -> Result<(), Error> {
        let own = matches!(
            command,
            Command::Alarm { .. }
                | Command::LeaseRenew { .. }
                | Command::LeaseRenewMany { .. }
                | Command::LeaseExpire { .. }
        );
        if self.raised.is_empty() || own {
            return Ok(());
        }
        if self.is_raised(Alarm::Corrupt) {
            return Err(Error::Corrupt);
        }
        match self.is_raised(Alarm::NoSpace) && command.adds() {
            true => Err(Error::NoSpace),
            false => Ok(()),
        }
    }

    /// What a checkpoint begins with, if there is anything to say.
    pub fn image(&self) -> Option<Vec<u8>> {
        let count = u32::try_from(self.raised.len())
            .ok()
            .filter(|count| *count > 0)?;
        let mut out = Vec::with_capacity(HEAD_BYTES + self.raised.len() * ALARM_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        for raised in &self.raised {
            out.extend_from_slice(&raised.member_id.to_le_bytes());
            out.push(raised.alarm as u8);
        }
        Some(out)
    }

    /// What the first piece of a checkpoint says; nothing if that is the store's already.
    pub fn of_image(bytes: &[u8]) -> Result<Option<Self>, ImageError> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Ok(None);
        };
        let (version, rest) = rest.split_first_chunk().ok_or(ImageError::Damaged)?;
        match u32::from_le_bytes(*version) {
            VERSION => {}
            newer => return Err(ImageError::Newer(newer)),
        }
        let (count, rest) = rest.split_first_chunk().ok_or(ImageError::Damaged)?;
        let count = u32::from_le_bytes(*count) as usize;
        if rest.len() / ALARM_BYTES != count || rest.len() % ALARM_BYTES != 0 {
            return Err(ImageError::Damaged);
        }
        let mut alarms = Self::default();
        for entry in rest.chunks_exact(ALARM_BYTES) {
            let (member, kind) = entry.split_first_chunk().ok_or(ImageError::Damaged)?;
            let alarm = Alarm::from_u8(kind[0]).ok_or(ImageError::Damaged)?;
            let member_id = u64::from_le_bytes(*member);
            alarms.apply(AlarmAction::Activate, AlarmMember { alarm, member_id });
        }
        Ok(Some(alarms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(member_id: u64, alarm: Alarm) -> AlarmMember {
        AlarmMember { alarm, member_id }
    }

    #[test]
    fn raising_and_lowering_answer_as_etcd_does() {
        let mut alarms = Alarms::default();
        let (one, two) = (alarm(1, Alarm::NoSpace), alarm(2, Alarm::NoSpace));
        assert_eq!(alarms.apply(AlarmAction::Activate, two), [two]);
        assert_eq!(alarms.apply(AlarmAction::Activate, one), [one]);
        assert_eq!(alarms.apply(AlarmAction::Activate, one), [one], "again");
        assert_eq!(alarms.list(), [one, two]);
        assert_eq!(alarms.apply(AlarmAction::Deactivate, two), [two]);
        assert!(alarms.is_raised(Alarm::NoSpace), "the other member's is");
        assert_eq!(alarms.apply(AlarmAction::Deactivate, two), [], "not raised");
        let corrupt = alarm(1, Alarm::Corrupt);
        assert_eq!(alarms.apply(AlarmAction::Deactivate, corrupt), []);
        assert_eq!(alarms.apply(AlarmAction::Deactivate, one), [one]);
        assert_eq!(alarms, Alarms::default());
    }

    /// Renewals share entries, and those were refused: while the members' data differed, no lease lived on.
    #[test]
    fn regression_leases_are_renewed_while_the_data_is_kept_back() {
        let mut alarms = Alarms::default();
        alarms.apply(AlarmAction::Activate, alarm(1, Alarm::Corrupt));
        let one = Command::LeaseRenew { id: 1 };
        let many = Command::LeaseRenewMany { ids: vec![1, 2] };
        assert_eq!(alarms.refuse(&one), Ok(()));
        assert_eq!(alarms.refuse(&many), Ok(()));
        let grant = Command::LeaseGrant { id: 1, ttl_s: 60 };
        assert_eq!(alarms.refuse(&grant), Err(Error::Corrupt));
    }

    #[test]
    fn a_checkpoint_says_what_is_raised_and_nothing_where_nothing_is() {
        let mut alarms = Alarms::default();
        assert_eq!(alarms.image(), None);
        for member in [7, u64::MAX, 1] {
            alarms.apply(AlarmAction::Activate, alarm(member, Alarm::NoSpace));
            alarms.apply(AlarmAction::Activate, alarm(member, Alarm::Corrupt));
        }
        let image = alarms.image().expect("something is raised");
        assert_eq!(Alarms::of_image(&image), Ok(Some(alarms)));
        for cut in 8..image.len() {
            assert!(Alarms::of_image(&image[..cut]).is_err(), "cut at {cut}");
        }
        let mut newer = image.clone();
        newer[8] = 9;
        assert_eq!(Alarms::of_image(&newer), Err(ImageError::Newer(9)));
        let mut unknown = image;
        *unknown.last_mut().expect("not empty") = 77;
        assert_eq!(Alarms::of_image(&unknown), Err(ImageError::Damaged));
        assert_eq!(Alarms::of_image(b"\x20\0\0\0\x01HENGEMV\0"), Ok(None));
    }
}
