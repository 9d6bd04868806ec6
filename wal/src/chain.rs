//! The directory's side of recovery: which segment files there are, which of them form the log, and
//! what becomes of the rest. The judgement is in `recover`.

use std::collections::{BTreeMap, BTreeSet};

use crate::ahead::Ahead;
use crate::batch::FORMAT;
use crate::disk::{AlignedBuf, Disk, FileId, Op, Output};
use crate::error::{Corruption, Obstacle};
use crate::identity::{CUT_DIR, fault};
use crate::pipeline::SegmentFile;
use crate::scan::{Expect, Source};
use crate::segment::{self, DATA_AT, FLAG_READY, Found, SegmentHeader};
use crate::sizes::Sizes;
use crate::{BLOCK_BYTES, Cut, Lsn, OpenError, Options, Shortage};

/// A segment file as it was found.
pub(crate) struct FoundFile {
    pub(crate) file: SegmentFile,
    pub(crate) header: Option<SegmentHeader>,
    /// The first blocks are neither zeros nor a header of an earlier life.
    pub(crate) touched: bool,
    /// What it testified when it was made ready.
    pub(crate) ready: Option<SegmentHeader>,
    /// Good copies of the header.
    pub(crate) copies: u8,
    /// The size that its header says, of whatever life; 0: no copy can be read.
    pub(crate) said: u64,
}

impl FoundFile {
    fn new(file: SegmentFile) -> Self {
        Self {
            file,
            header: None,
            touched: false,
            ready: None,
            copies: 0,
            said: 0,
        }
    }

    /// It has the size that it was made with, as far as that is known.
    pub(crate) fn is_whole(&self) -> bool {
        self.said == 0 || self.said == self.file.bytes
    }

    /// Cut so far that not even its header is there: nobody knows what it was. (Files get their name when
    /// they have their size.)
    pub(crate) fn is_emptied(&self) -> bool {
        self.said == 0 && self.file.bytes < Options::SEGMENT_BYTES_MIN
    }

    /// Where its batches must end: as it says itself, not as the file does. One that was cut or grew is
    /// judged by what is in it.
    fn limit(&self) -> u64 {
        match self.said {
            said if (DATA_AT..=Options::SEGMENT_BYTES_MAX).contains(&said) => said,
            _ => self.file.bytes,
        }
    }
}

/// Reads a file through the disk seam.
pub(crate) struct DiskSource<'d> {
    pub(crate) disk: &'d mut dyn Disk,
    pub(crate) file: FileId,
}

impl Source for DiskSource<'_> {
    fn read(&mut self, offset: u64, bytes: usize) -> std::io::Result<AlignedBuf> {
        match self.disk.run(Op::Read {
            file: self.file,
            offset,
            bytes,
        })? {
            Output::Buf(buf) => Ok(buf),
            _ => Err(std::io::Error::other("a read brought no bytes")),
        }
    }
}

/// Reads a segment for its replay: what was read ahead, or by itself. Blocks that cannot be read come
/// as zeros, which no batch passes for, and are noted: they are damage like any other (fault D6).
pub(crate) struct LogSource<'d> {
    pub(crate) disk: DiskSource<'d>,
    pub(crate) ahead: Option<&'d mut Ahead>,
    pub(crate) unreadable: &'d mut BTreeSet<(FileId, u64)>,
}

impl Source for LogSource<'_> {
    fn read(&mut self, offset: u64, bytes: usize) -> std::io::Result<AlignedBuf> {
        let file = self.disk.file;
        let ahead = self.ahead.as_mut().and_then(|a| a.take(file, offset));
        match ahead.unwrap_or_else(|| self.disk.read(offset, bytes)) {
            Err(e) if e.raw_os_error() == Some(libc::EIO) => self.piecemeal(offset, bytes),
            read => read,
        }
    }

    fn give_back(&mut self, buf: AlignedBuf) {
        if let Some(ahead) = &mut self.ahead {
            ahead.give_back(buf);
        }
    }
}

impl LogSource<'_> {
    fn piecemeal(&mut self, offset: u64, bytes: usize) -> std::io::Result<AlignedBuf> {
        let mut out = AlignedBuf::with_capacity(bytes);
        let mut any = false;
        for at in (offset..offset + bytes as u64).step_by(BLOCK_BYTES) {
            match self.disk.read(at, BLOCK_BYTES) {
                Ok(block) if block.is_empty() => break,
                Ok(block) => {
                    any = true;
                    out.extend(&block);
                }
                Err(e) if e.raw_os_error() == Some(libc::EIO) => {
                    self.unreadable.insert((self.disk.file, at));
                    out.extend(&[0; BLOCK_BYTES]);
                }
                Err(e) => return Err(e),
            }
        }
        // Where nothing at all can be read it is the disk that is broken, not a place on it.
        match any {
            true => Ok(out),
            false => Err(std::io::Error::from_raw_os_error(libc::EIO)),
        }
    }
}

/// Open every segment file and read its header.
pub(crate) fn open_files(
    disk: &mut dyn Disk,
    uuid: u128,
) -> Result<BTreeMap<u64, FoundFile>, OpenError> {
    let listed = disk
        .list()
        .map_err(|e| fault(disk, "", "list", e))?
        .unwrap_or_default();
    let mut files = BTreeMap::new();
    for info in listed.iter().filter(|f| !f.is_dir) {
        let Some(seq) = segment::seq_of(&info.name) else {
            continue;
        };
        let opened = disk.run(Op::Open {
            name: info.name.clone(),
        });
        let opened = opened.map_err(|e| fault(disk, &info.name, "open", e))?;
        let Output::Opened { file, bytes } = opened else {
            continue;
        };
        let read = DiskSource { disk, file }.read(0, DATA_AT as usize + crate::BLOCK_BYTES);
        let blocks = read.map_err(|e| fault(disk, &info.name, "read", e))?;
        let path = disk.path().join(&info.name);
        let mut found = FoundFile::new(SegmentFile { seq, file, bytes });
        let header = SegmentHeader::find(&blocks, seq);
        if let Found::Header { header, .. } = &header {
            found.said = header.bytes;
        }
        match header {
            Found::Newer(found) => {
                return Err(OpenError::NewerFormat {
                    path,
                    found,
                    known: FORMAT,
                });
            }
            Found::Header { header, .. } if header.uuid != uuid => {
                return Err(OpenError::ForeignSegment { path });
            }
            Found::Header { header, .. } if header.flags & FLAG_READY != 0 => {
                found.ready = Some(header);
            }
            Found::Header { header, copies } if header.seq == seq => {
                found.header = Some(header);
                found.copies = copies;
                found.touched = true;
            }
            Found::Header { .. } => {}
            Found::Nothing => found.touched = blocks.iter().any(|b| *b != 0),
        }
        files.insert(seq, found);
    }
    Ok(files)
}

/// The log's segments, oldest first, each the predecessor the next one names.
pub(crate) struct Chain {
    pub(crate) segments: Vec<SegmentHeader>,
    pub(crate) files: Vec<FileId>,
    /// As they say themselves, and as they are.
    pub(crate) sizes: Vec<u64>,
    pub(crate) file_ends: Vec<u64>,
    /// The one before the oldest, which is not there: purged, or missing. 0: there was none.
    pub(crate) before: u64,
}

impl Chain {
    pub(crate) fn find(
        disk: &dyn Disk,
        files: &BTreeMap<u64, FoundFile>,
    ) -> Result<Self, OpenError> {
        let mut chain = Self {
            segments: vec![],
            files: vec![],
            sizes: vec![],
            file_ends: vec![],
            before: 0,
        };
        let mut at = files.values().rev().find(|f| f.header.is_some());
        let low_seq = at.and_then(|f| f.header).map_or(0, |h| h.low_seq);
        while let Some(header) = at.and_then(|f| f.header) {
            chain.segments.push(header);
            chain.before = header.prev_seq;
            // Only backwards: a header that says otherwise names nothing.
            at = files
                .get(&header.prev_seq)
                .filter(|_| header.prev_seq < header.seq);
            // Row 8. Below the low mark it may be a leftover of any kind.
            if let Some(bare) = at.filter(|f| f.header.is_none())
                && header.prev_seq >= low_seq
            {
                let last = header.first_lsn.saturating_sub(1);
                return Err(headless(disk, bare, last, last));
            }
        }
        chain.segments.reverse();
        for header in &chain.segments {
            chain.files.push(files[&header.seq].file.file);
            chain.sizes.push(files[&header.seq].limit());
            chain.file_ends.push(files[&header.seq].file.bytes);
        }
        Ok(chain)
    }
}

/// Keep what is cut: under the same name each time, so repeating a recovery changes nothing. Without room
/// for a copy it stays where it is: nothing is written there as long as the segment is needed.
pub(crate) fn keep_copy(
    disk: &mut dyn Disk,
    cut: &mut Cut,
    files: &BTreeMap<u64, FoundFile>,
) -> Result<(), OpenError> {
    let name = |p: &std::path::Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
    let (Some(from), Some(to)) = (name(&cut.file), name(&cut.kept)) else {
        return Ok(());
    };
    let Some(found) = segment::seq_of(&from).and_then(|seq| files.get(&seq)) else {
        return Ok(());
    };
    let read = DiskSource {
        disk,
        file: found.file.file,
    }
    .read(cut.offset, cut.bytes as usize);
    let bytes = read.map_err(|e| fault(disk, &from, "read", e))?.to_vec();
    let name = format!("{CUT_DIR}/{to}");
    let stored = disk.run(Op::Store {
        name: name.clone(),
        bytes,
    });
    match stored {
        Err(e) if Shortage::of(&e).is_some() => {
            cut.kept = cut.file.clone();
            return Ok(());
        }
        stored => stored.map_err(|e| fault(disk, &name, "keep a copy in", e))?,
    };
    disk.run(Op::SyncDir)
        .map_err(|e| fault(disk, "", "sync", e))?;
    Ok(())
}

/// Give every file that is not in the log a number never used; remove what is older than the log or has
/// another size than it had, or than segments have now.
pub(crate) fn renumber(
    disk: &mut dyn Disk,
    files: BTreeMap<u64, FoundFile>,
    sizes: &Sizes,
    last_seq: u64,
    max_seq: u64,
) -> Result<(Vec<SegmentFile>, u64), OpenError> {
    let (mut ready, mut next_seq) = (Vec::new(), max_seq + 1);
    let any = !files.is_empty();
    for (seq, found) in files {
        let (from, file) = (segment::name(seq), found.file.file);
        if seq > last_seq && found.is_whole() && sizes.is_usable(found.file.bytes) {
            let to = segment::name(next_seq);
            let renamed = disk.run(Op::Rename {
                from: from.clone(),
                to,
            });
            renamed.map_err(|e| fault(disk, &from, "rename", e))?;
            ready.push(SegmentFile {
                seq: next_seq,
                ..found.file
            });
            next_seq += 1;
        } else {
            disk.run(Op::Close { file })
                .map_err(|e| fault(disk, &from, "close", e))?;
            let removed = disk.run(Op::Remove { name: from.clone() });
            removed.map_err(|e| fault(disk, &from, "remove", e))?;
        }
    }
    if any {
        disk.run(Op::SyncDir)
            .map_err(|e| fault(disk, "", "sync", e))?;
    }
    Ok((ready, next_seq))
}

/// The error for a segment of the log whose header cannot be read. `lsn`: a batch that was in it.
pub(crate) fn headless(disk: &dyn Disk, found: &FoundFile, lsn: Lsn, durable: Lsn) -> OpenError {
    let (seq, bytes) = (found.file.seq, found.file.bytes);
    let expect = Expect {
        lsn,
        ..Expect::nowhere()
    };
    let (what, obstacle) = match found.is_emptied() {
        true => (
            format!("the file was cut to {bytes} bytes, its header with it"),
            Obstacle::Emptied(seq),
        ),
        false => (
            "both copies of the segment header".into(),
            Obstacle::Header(seq),
        ),
    };
    corrupt(disk, seq, expect, durable, what, obstacle)
}

/// The error that names damage.
pub(crate) fn corrupt(
    disk: &dyn Disk,
    seq: u64,
    expect: Expect,
    durable_lsn: Lsn,
    what: String,
    obstacle: Obstacle,
) -> OpenError {
    let file = disk.path().join(segment::name(seq));
    let (offset, lsn) = (expect.offset, expect.lsn);
    OpenError::Corrupt(Box::new(Corruption {
        file,
        offset,
        lsn,
        durable_lsn,
        what,
        groups: vec![],
        obstacle,
    }))
}

impl Expect {
    /// No place: for errors that need only a number.
    pub(crate) fn nowhere() -> Self {
        Self {
            uuid: 0,
            seq: 0,
            offset: 0,
            lsn: 0,
            prev: 0,
            limit: 0,
        }
    }
}
