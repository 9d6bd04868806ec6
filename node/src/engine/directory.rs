//! The data directory: made, locked while it is opened, and brought into the layout that was asked for.
//!
//! Promises: a directory that is somebody else's is not touched; two opens never arrange it at the same
//! time; what is removed is only the log of a core that no shard lives on, and only once `LAYOUT` says
//! so durably, and what an open that failed has made itself; what one member wrote is not opened by
//! another, or with other voters.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use henge_wal::disk::Disk;
use henge_wal::disk::thread::ThreadDisk;
use henge_wal::{Identity, Options};

use super::OpenError;
use super::builder::ClusterConfig;
use super::layout::{self, Layout, Placement, Router};
use super::rehome::{Ground, rehome};
use crate::cluster::members::{self, Membership};
use crate::host::place::processors;

/// Longest sleep between two looks at a disk that does not answer.
const WAIT: Duration = Duration::from_millis(100);
/// The log of a core that is no more, on its way out.
const RETIRED: &str = "retired-";

/// How many cores.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cores {
    /// So many.
    Are(usize),
    /// One for each shard, and for each processor this process may use.
    Available,
}

impl Cores {
    /// Their number, for so many shards.
    fn count(self, shards: usize) -> usize {
        match self {
            Cores::Are(cores) => cores,
            Cores::Available => processors().min(shards),
        }
    }
}

/// What a caller asked for; what it left open is as the directory has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) cores: Option<Cores>,
    pub(super) shards: Option<usize>,
    pub(super) homes: Vec<usize>,
    pub(super) router: Option<Router>,
}

/// A data directory in the layout that was asked for, locked against other opens.
pub(super) struct Directory {
    dir: PathBuf,
    pub(super) layout: Layout,
    /// Whose it is said to be now, and what it says itself.
    asked: Membership,
    recorded: Option<Membership>,
    /// What this open has made, which goes again if the engine does not come up. Before the lock goes.
    made: Made,
    /// Locked until the cores hold their logs.
    _lock: File,
}

/// What an open has made so far. It goes when this is dropped.
struct Made {
    dir: PathBuf,
    /// The outermost directory that had to be made, if one had.
    outermost: Option<PathBuf>,
    /// The directory was empty and was laid out here, under its lock: no log in it is anybody else's.
    laid_out: bool,
}

impl Made {
    /// It is the engine's now.
    fn keep(&mut self) {
        (self.outermost, self.laid_out) = (None, false);
    }

    fn remove(&self) -> std::io::Result<()> {
        if self.laid_out {
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if name.starts_with("core-") || name == "checkpoints" {
                    fs::remove_dir_all(entry.path())?;
                } else if name == layout::NAME || name == "LAYOUT.tmp" {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        let Some(outermost) = &self.outermost else {
            return Ok(());
        };
        // Each only if it is empty: somebody may have put something there meanwhile.
        for dir in self.dir.ancestors() {
            fs::remove_dir(dir)?;
            if dir == outermost {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // What cannot be removed stays, and is taken over by the next open.
        let _ = self.remove();
    }
}

impl Directory {
    /// Makes or takes the directory and arranges it as asked.
    pub(super) fn open(
        dir: &Path,
        asked: &Asked,
        options: &Options,
        cluster: &ClusterConfig,
    ) -> Result<Self, OpenError> {
        let failed = |error| at(dir, error);
        let members = Membership::of(cluster);
        let identity = Identity {
            cluster_id: members.cluster_id,
            member_id: members.member_id,
        };
        let mut made = Made {
            dir: dir.to_owned(),
            outermost: make_dir(dir)?,
            laid_out: false,
        };
        let lock = File::open(dir).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut directory = match Layout::read(dir).map_err(failed)? {
            None => {
                refuse_strangers(dir)?;
                let layout = fresh(asked)?;
                made.laid_out = true;
                layout.write(dir).map_err(failed)?;
                Directory {
                    dir: dir.to_owned(),
                    layout,
                    asked: members,
                    recorded: None,
                    made,
                    _lock: lock,
                }
            }
            Some(Err(why)) => {
                let path = dir.join(layout::NAME);
                return Err(OpenError::BadLayout { path, why });
            }
            Some(Ok(layout)) => Directory {
                dir: dir.to_owned(),
                layout,
                recorded: recorded(dir)?,
                asked: members,
                made,
                _lock: lock,
            },
        };
        directory.look_who_is_there()?;
        let wanted = directory.wanted(asked)?;
        directory.look_for_logs()?;
        let mut layout = directory.layout.clone();
        rehome(&mut directory, &mut layout, &wanted, options, &identity)
            .map_err(|error| directory.explain(error))?;
        directory.retire().map_err(failed)?;
        Ok(directory)
    }

    /// All cores hold their logs: it is the member's that was asked for.
    pub(super) fn opened(mut self) -> Result<(), OpenError> {
        self.made.keep();
        if self.recorded.as_ref() != Some(&self.asked)
            && let Err(error) = self.asked.write(&self.dir)
        {
            // A full disk must not keep a member from serving what it has. The next open tries again.
            tracing::warn!(dir = %self.dir.display(), %error, "the list of members cannot be written");
        }
        if self.layout.making {
            self.layout.making = false;
            self.layout
                .write(&self.dir)
                .map_err(|error| at(&self.dir, error))?;
        }
        Ok(())
    }

    /// The same member with other voters could elect a leader that lacks what is in this directory. That
    /// it is another member altogether is for the log to say: it may be in use.
    fn look_who_is_there(&self) -> Result<(), OpenError> {
        match &self.recorded {
            Some(found)
                if found.cluster_id == self.asked.cluster_id
                    && found.member_id == self.asked.member_id
                    && !found.is_same(&self.asked) =>
            {
                Err(self.other(found.clone()))
            }
            _ => Ok(()),
        }
    }

    fn other(&self, found: Membership) -> OpenError {
        OpenError::OtherMembers {
            path: self.dir.join(members::NAME),
            found: Box::new(found),
            asked: Box::new(self.asked.clone()),
        }
    }

    /// A log that is another member's, with what is known about that one.
    pub(super) fn explain(&self, error: OpenError) -> OpenError {
        match (error, &self.recorded) {
            (OpenError::Wal(henge_wal::OpenError::WrongIdentity { .. }), Some(found))
                if !found.is_same(&self.asked) =>
            {
                self.other(found.clone())
            }
            (error, _) => error,
        }
    }

    /// Where the shards shall live; refuses what a directory cannot become.
    fn wanted(&self, asked: &Asked) -> Result<Placement, OpenError> {
        let layout = &self.layout;
        let other = |found: String, asked: String| {
            let path = self.dir.join(layout::NAME);
            Err(OpenError::Layout { path, found, asked })
        };
        if let Some(shards) = asked.shards
            && shards != layout.shards
        {
            return other(
                format!("{} shards", layout.shards),
                format!("{shards} shards"),
            );
        }
        if let Some(router) = &asked.router
            && *router != layout.router
        {
            return other(describe(&layout.router), describe(router));
        }
        // As it is, or as a move that was cut short would have made it.
        let present = layout.moving.as_ref().unwrap_or(&layout.placement);
        let cores = asked
            .cores
            .map_or(present.cores, |cores| cores.count(layout.shards));
        let wanted = if asked.homes.is_empty() && cores == present.cores {
            present.clone()
        } else {
            Placement {
                cores,
                homes: asked.homes.clone(),
            }
        };
        check("cores", wanted.check(layout.shards))?;
        Ok(wanted)
    }

    /// A log that is gone would look like one that was never written to: its shards would come up empty.
    fn look_for_logs(&self) -> Result<(), OpenError> {
        if self.layout.making {
            return Ok(());
        }
        for core in 0..self.layout.placement.cores {
            let path = self.log_dir(core);
            if !path.join("IDENTITY").exists() {
                return Err(OpenError::MissingLog { path });
            }
        }
        Ok(())
    }

    /// Removes the logs of cores that are no more.
    fn retire(&self) -> std::io::Result<()> {
        let mut gone = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let core = name.strip_prefix("core-").and_then(|n| n.parse().ok());
            if core.is_some_and(|core: usize| core >= self.layout.placement.cores) {
                // Renamed first: half of a log must never be found under a log's name.
                let retired = self.dir.join(format!("{RETIRED}{name}"));
                if retired.exists() {
                    fs::remove_dir_all(&retired)?;
                }
                fs::rename(self.dir.join(name), &retired)?;
                gone.push(retired);
            } else if name.starts_with(RETIRED) {
                gone.push(self.dir.join(name));
            }
        }
        if !gone.is_empty() {
            sync_dir(&self.dir)?;
        }
        gone.iter()
            .filter(|path| path.exists())
            .try_for_each(fs::remove_dir_all)
    }
}

impl Ground for Directory {
    fn log_dir(&self, core: usize) -> PathBuf {
        self.dir.join(format!("core-{core}"))
    }

    fn disk(&mut self, _: usize) -> Box<dyn Disk> {
        Box::new(ThreadDisk::new(4))
    }

    fn write_layout(&mut self, layout: &Layout) -> Result<(), OpenError> {
        layout
            .write(&self.dir)
            .map_err(|error| at(&self.dir, error))?;
        self.layout = layout.clone();
        Ok(())
    }

    fn wait(&mut self) -> Result<(), OpenError> {
        std::thread::park_timeout(WAIT);
        Ok(())
    }
}

fn recorded(dir: &Path) -> Result<Option<Membership>, OpenError> {
    match Membership::read(dir).map_err(|error| at(dir, error))? {
        None => Ok(None),
        Some(Ok(membership)) => Ok(Some(membership)),
        Some(Err(why)) => Err(OpenError::BadLayout {
            path: dir.join(members::NAME),
            why,
        }),
    }
}

fn fresh(asked: &Asked) -> Result<Layout, OpenError> {
    let shards = asked.shards.unwrap_or(1);
    let router = asked.router.clone().unwrap_or_default();
    let placement = Placement {
        cores: asked.cores.map_or(1, |cores| cores.count(shards)),
        homes: asked.homes.clone(),
    };
    check("cores", placement.check(shards))?;
    check("router", router.check(shards))?;
    Ok(Layout {
        shards,
        router,
        placement,
        moving: None,
        making: true,
    })
}

fn check(setting: &'static str, checked: Result<(), &'static str>) -> Result<(), OpenError> {
    checked.map_err(|why| OpenError::Config {
        setting,
        why: why.to_owned(),
    })
}

fn describe(router: &Router) -> String {
    match router {
        Router::Hash => "the hash router".to_owned(),
        Router::Ranges(splits) => format!("the range router split at {splits:?}"),
    }
}

/// Makes the directory; returns the outermost one that was not there.
fn make_dir(dir: &Path) -> Result<Option<PathBuf>, OpenError> {
    let missing = dir
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists());
    let outermost = missing.last().map(Path::to_owned);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| at(dir, error))?;
    // The new directory's name is durable only once its parent is synced.
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_dir(parent.unwrap_or(Path::new("."))).map_err(|error| at(dir, error))?;
    Ok(outermost)
}

/// A directory with something else in it is somebody else's.
fn refuse_strangers(dir: &Path) -> Result<(), OpenError> {
    let Some(stranger) = first_entry(dir).map_err(|error| at(dir, error))? else {
        return Ok(());
    };
    let error = std::io::Error::other(format!(
        "not a henge data directory: it holds {stranger:?} but no LAYOUT file; give an empty or new \
         directory"
    ));
    Err(at(dir, error))
}

fn first_entry(dir: &Path) -> std::io::Result<Option<std::ffi::OsString>> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if name != "lost+found" && name != "LAYOUT.tmp" {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

fn at(path: &Path, error: std::io::Error) -> OpenError {
    OpenError::Directory {
        path: path.to_owned(),
        error,
    }
}
