//! Whose directory this is: the IDENTITY file, and the checks before anything is touched.
//!
//! ```text
//! 0    magic "HngIdent"      8 bytes
//! 8    format                u16, then 6 zero bytes
//! 16   cluster id            u64
//! 24   member id             u64
//! 32   log uuid              u128, random, in every block of the log
//! 48   birth id              u64, random, new each time a member is born into an empty directory
//! 56   zero
//! 124  CRC32C of the above   u32
//! ```
//!
//! A birth writes the first segment, then `IDENTITY.tmp`, then renames it: with an IDENTITY there is
//! always a segment, so lost segments are noticed; without one, a crashed birth is simply repeated.

use std::path::Path;

use crate::batch::FORMAT;
use crate::disk::{Disk, FileInfo, LockError, Op, Output};
use crate::le::{Fields, u16_at, u32_at, u64_at, u128_at};
use crate::segment::{self, PREPARE_NAME};
use crate::sizes::{Sizes, TooSmall};
use crate::{Identity, IoFault, OpenError, Options};

const MAGIC: [u8; 8] = *b"HngIdent";
const BYTES: usize = 128;
pub(crate) const IDENTITY_NAME: &str = "IDENTITY";
const IDENTITY_TMP: &str = "IDENTITY.tmp";
pub(crate) const LOCK_NAME: &str = "LOCK";
/// Folder for copies of torn tails.
pub(crate) const CUT_DIR: &str = "cut";
/// What a directory may hold before a log is born in it (`lost+found`: a fresh file system's root).
const BEFORE_BIRTH: [&str; 5] = [LOCK_NAME, IDENTITY_TMP, PREPARE_NAME, CUT_DIR, "lost+found"];

/// What IDENTITY says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Birth {
    pub(crate) identity: Identity,
    pub(crate) uuid: u128,
    pub(crate) birth_id: u64,
    /// It was made just now.
    pub(crate) created: bool,
}

impl Birth {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; BYTES];
        Fields::new(&mut out)
            .put(MAGIC)
            .u16(FORMAT)
            .put([0; 6])
            .u64(self.identity.cluster_id)
            .u64(self.identity.member_id)
            .u128(self.uuid)
            .u64(self.birth_id);
        let crc = crc32c::crc32c(&out[..BYTES - 4]);
        out[BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// What the file says; `path` is for the message.
    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Self, OpenError> {
        let bad = |what| OpenError::BadIdentity {
            path: path.into(),
            what,
        };
        if bytes.get(..8) != Some(&MAGIC[..]) {
            return Err(bad("not an IDENTITY file of Henge"));
        }
        let found = u16_at(bytes, 8);
        if found > FORMAT {
            return Err(OpenError::NewerFormat {
                path: path.into(),
                found,
                known: FORMAT,
            });
        }
        if bytes.len() != BYTES || crc32c::crc32c(&bytes[..BYTES - 4]) != u32_at(bytes, BYTES - 4) {
            return Err(bad("damaged (checksum)"));
        }
        let identity = Identity {
            cluster_id: u64_at(bytes, 16),
            member_id: u64_at(bytes, 24),
        };
        let (uuid, birth_id) = (u128_at(bytes, 32), u64_at(bytes, 48));
        Ok(Self {
            identity,
            uuid,
            birth_id,
            created: false,
        })
    }
}

/// Check the directory, take its lock, and read its IDENTITY. `None`: no log was born there yet.
pub(crate) fn enter(disk: &mut dyn Disk, asked: &Identity) -> Result<Option<Birth>, OpenError> {
    // Before the lock nothing is written: a wrong path must not leave a LOCK file behind. A log of
    // another member has a LOCK already, and if a process holds it, that is the first thing to know.
    match look(disk, asked) {
        Ok(_) | Err(OpenError::WrongIdentity { .. }) => {}
        Err(error) => return Err(error),
    }
    disk.make()
        .map_err(|e| fault(disk, "", "make the directory", e))?;
    disk.lock().map_err(|e| match e {
        LockError::Held { holder } => OpenError::Locked {
            path: disk.path().join(LOCK_NAME),
            holder,
        },
        LockError::Io(e) => fault(disk, LOCK_NAME, "lock", e),
    })?;
    look(disk, asked)
}

/// How large its segments are; `born`: it is about to be begun.
pub(crate) fn sizes(
    disk: &mut dyn Disk,
    options: &Options,
    born: bool,
) -> Result<Sizes, OpenError> {
    let files = disk
        .list()
        .map_err(|e| fault(disk, "", "list", e))?
        .unwrap_or_default();
    let ours = |f: &&FileInfo| segment::seq_of(&f.name).is_some() || f.name == PREPARE_NAME;
    let held = files.iter().filter(ours).map(|f| f.bytes).sum();
    let room = disk.room();
    let path = || disk.path().to_path_buf();
    Sizes::choose(options, room, held, born).map_err(|why| match why {
        TooSmall::File(bytes) => OpenError::FileLimit {
            path: path(),
            limit: room.map_or(0, |room| room.file_bytes_max),
            bytes,
        },
        TooSmall::Room(bytes) => OpenError::NoRoom {
            path: path(),
            free: room.map_or(0, |room| room.free_bytes),
            bytes,
        },
    })
}

/// An operating-system error with its file.
pub(crate) fn fault(
    disk: &dyn Disk,
    name: &str,
    doing: &'static str,
    e: std::io::Error,
) -> OpenError {
    let path = if name.is_empty() {
        disk.path().into()
    } else {
        disk.path().join(name)
    };
    OpenError::Io {
        path,
        doing,
        fault: IoFault::from(e),
    }
}

/// The IDENTITY of the directory, if it has one and it is the one asked for.
fn look(disk: &mut dyn Disk, asked: &Identity) -> Result<Option<Birth>, OpenError> {
    let files = disk
        .list()
        .map_err(|e| fault(disk, "", "list", e))?
        .unwrap_or_default();
    if !files.iter().any(|f| f.name == IDENTITY_NAME) {
        return unborn(disk, &files).map(|()| None);
    }
    let path = disk.path().join(IDENTITY_NAME);
    let birth = Birth::decode(&load(disk, IDENTITY_NAME)?, &path)?;
    if birth.identity != *asked {
        return Err(OpenError::WrongIdentity {
            path,
            cluster: asked.cluster_id,
            member: asked.member_id,
            found_cluster: birth.identity.cluster_id,
            found_member: birth.identity.member_id,
        });
    }
    Ok(Some(birth))
}

/// Without IDENTITY there may only be what a crashed birth leaves.
fn unborn(disk: &mut dyn Disk, files: &[FileInfo]) -> Result<(), OpenError> {
    for file in files {
        if segment::seq_of(&file.name).is_some() {
            if !matches!(header_of(disk, &file.name)?, segment::Found::Nothing) {
                return Err(OpenError::BadIdentity {
                    path: disk.path().join(IDENTITY_NAME),
                    what: "missing, but there are segments",
                });
            }
        } else if !BEFORE_BIRTH.contains(&file.name.as_str()) {
            let (path, found) = (disk.path().into(), file.name.clone());
            return Err(OpenError::NotOurs { path, found });
        }
    }
    Ok(())
}

fn header_of(disk: &mut dyn Disk, name: &str) -> Result<segment::Found, OpenError> {
    let opened = disk.run(Op::Open { name: name.into() });
    let Output::Opened { file, .. } = opened.map_err(|e| fault(disk, name, "open", e))? else {
        return Ok(segment::Found::Nothing);
    };
    let read = disk.run(Op::Read {
        file,
        offset: 0,
        bytes: segment::DATA_AT as usize,
    });
    let closed = disk.run(Op::Close { file });
    let found = match read.map_err(|e| fault(disk, name, "read", e))? {
        Output::Buf(buf) => segment::SegmentHeader::find(&buf, 0),
        _ => segment::Found::Nothing,
    };
    closed.map_err(|e| fault(disk, name, "close", e))?;
    Ok(found)
}

fn load(disk: &mut dyn Disk, name: &str) -> Result<Vec<u8>, OpenError> {
    match disk
        .run(Op::Load { name: name.into() })
        .map_err(|e| fault(disk, name, "read", e))?
    {
        Output::Bytes(bytes) => Ok(bytes),
        _ => Ok(Vec::new()),
    }
}

/// Begin a log.
pub(crate) fn give_birth(
    disk: &mut dyn Disk,
    asked: &Identity,
    segment_bytes: u64,
) -> Result<Birth, OpenError> {
    let random = disk
        .entropy()
        .map_err(|e| fault(disk, "", "draw a random id for", e))?;
    let (uuid, birth_id) = (u128_at(&random, 0), u64_at(&random, 16));
    let birth = Birth {
        identity: *asked,
        uuid,
        birth_id,
        created: true,
    };
    let (prepare, first) = (PREPARE_NAME.to_string(), segment::name(1));
    let (tmp, identity) = (IDENTITY_TMP.to_string(), IDENTITY_NAME.to_string());
    let steps = [
        Op::Zero {
            name: prepare.clone(),
            bytes: segment_bytes,
            pause_ms: 0,
            spread_ms: 0,
        },
        Op::Rename {
            from: prepare,
            to: first,
        },
        Op::SyncDir,
        Op::Store {
            name: tmp.clone(),
            bytes: birth.encode(),
        },
        Op::Rename {
            from: tmp,
            to: identity,
        },
        Op::SyncDir,
    ];
    for step in steps {
        disk.run(step)
            .map_err(|e| fault(disk, "", "create a log in", e))?;
    }
    Ok(birth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives_encoding_and_no_flip_goes_unseen() {
        let identity = Identity {
            cluster_id: 1,
            member_id: 2,
        };
        let birth = Birth {
            identity,
            uuid: 3,
            birth_id: 4,
            created: false,
        };
        let bytes = birth.encode();
        assert_eq!(Birth::decode(&bytes, Path::new("d")), Ok(birth));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Birth::decode(&bad, Path::new("d")).is_err(), "{at}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        let error = Birth::decode(&newer, Path::new("d"));
        assert!(matches!(
            error,
            Err(OpenError::NewerFormat {
                found: 2,
                known: 1,
                ..
            })
        ));
    }
}
