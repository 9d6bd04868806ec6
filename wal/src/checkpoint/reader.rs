//! Reading a checkpoint back, chunk by chunk, each verified before it is handed out.

use std::path::PathBuf;

use bytes::Bytes;

use super::format::{self, HEAD_BYTES, HEADER_BYTES, Next};
use super::{CHUNK_BYTES_MAX, CheckpointError, Meta, io};
use crate::disk::{AlignedBuf, Disk, FileId, Op, Output, place_of};

/// Bytes read from the file at once.
const READ_BYTES: usize = 1024 * 1024;

/// A checkpoint file being read. Blocks: for use at start.
pub struct Reader<'d> {
    disk: &'d mut dyn Disk,
    file: FileId,
    name: String,
    path: PathBuf,
    meta: Meta,
    /// What was read of the file and not taken yet, from `at` on; the next is read from `next` on.
    buf: AlignedBuf,
    at: usize,
    next: u64,
    offset: u64,
    chunks: u64,
    bytes: u64,
    chain: u32,
    ended: bool,
}

impl<'d> Reader<'d> {
    /// Open a file, named as [`latest`](super::latest) does, and verify its header.
    pub fn open(disk: &'d mut dyn Disk, name: &str) -> Result<Self, CheckpointError> {
        let file = match disk.run(Op::Open { name: name.into() }) {
            Ok(Output::Opened { file, .. }) => file,
            Ok(_) => {
                return Err(io(
                    disk,
                    name,
                    "open",
                    std::io::Error::other("no file came"),
                ));
            }
            Err(e) => return Err(io(disk, name, "open", e)),
        };
        let mut reader = Reader {
            path: place_of(disk.path(), name),
            disk,
            file,
            name: name.into(),
            meta: Meta::default(),
            buf: AlignedBuf::default(),
            at: 0,
            next: 0,
            offset: 0,
            chunks: 0,
            bytes: 0,
            chain: 0,
            ended: false,
        };
        let mut header = vec![0; HEADER_BYTES];
        reader.fill(&mut header, "shorter than a header")?;
        reader.meta = format::read_header(&header).map_err(|e| match e {
            Ok(found) => CheckpointError::NewerFormat {
                path: reader.path.clone(),
                found,
                known: format::FORMAT,
            },
            Err(what) => reader.damaged(what),
        })?;
        reader.offset = HEADER_BYTES as u64;
        Ok(reader)
    }

    /// The file, for messages.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Whose snapshot it is.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The next chunk. `None` after the last one, when the footer has proven that it was the last.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, CheckpointError> {
        if self.ended {
            return Ok(None);
        }
        let mut head = [0; HEAD_BYTES];
        self.fill(&mut head, "the file ends early")?;
        match Next::decode(&head) {
            None => Err(self.damaged("no chunk or footer")),
            Some(Next::Footer {
                chunks,
                bytes,
                chain,
            }) => {
                if (chunks, bytes, chain) != (self.chunks, self.bytes, self.chain) {
                    return Err(self.damaged("the footer counts other chunks"));
                }
                self.ended = true;
                Ok(None)
            }
            Some(Next::Chunk {
                bytes,
                number,
                group,
                index,
                crc,
            }) => {
                if (number, group, index) != (self.chunks, self.meta.group, self.meta.index) {
                    return Err(self.damaged("a chunk from elsewhere"));
                }
                if bytes as usize > CHUNK_BYTES_MAX {
                    return Err(self.damaged("an impossible chunk length"));
                }
                self.chunk(bytes as usize, crc).map(Some)
            }
        }
    }

    fn chunk(&mut self, len: usize, crc: u32) -> Result<Bytes, CheckpointError> {
        let mut bytes = vec![0; len.next_multiple_of(8)];
        self.fill(&mut bytes, "the file ends early")?;
        let padding = bytes.split_off(len);
        if crc32c::crc32c(&bytes) != crc || padding.iter().any(|b| *b != 0) {
            return Err(self.damaged("checksum of a chunk"));
        }
        self.offset += (HEAD_BYTES + len.next_multiple_of(8)) as u64;
        self.chunks += 1;
        self.bytes += len as u64;
        self.chain = format::chain(self.chain, crc);
        Ok(bytes.into())
    }

    /// The next bytes of the file; its end before that is damage.
    fn fill(&mut self, mut bytes: &mut [u8], end: &'static str) -> Result<(), CheckpointError> {
        while !bytes.is_empty() {
            if self.at == self.buf.len() {
                self.read()?;
                if self.buf.is_empty() {
                    return Err(self.damaged(end));
                }
            }
            let n = bytes.len().min(self.buf.len() - self.at);
            bytes[..n].copy_from_slice(&self.buf[self.at..self.at + n]);
            bytes = &mut bytes[n..];
            self.at += n;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), CheckpointError> {
        (self.buf, self.at) = (AlignedBuf::default(), 0);
        // Less than was asked for was the end of the file.
        if !self.next.is_multiple_of(READ_BYTES as u64) {
            return Ok(());
        }
        let read = self.disk.run(Op::Read {
            file: self.file,
            offset: self.next,
            bytes: READ_BYTES,
        });
        match read {
            Ok(Output::Buf(buf)) => {
                self.next += buf.len() as u64;
                self.buf = buf;
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(e) => Err(io(self.disk, &self.name, "read", e)),
        }
    }

    fn damaged(&self, what: &'static str) -> CheckpointError {
        CheckpointError::Damaged {
            path: self.path.clone(),
            offset: self.offset,
            what,
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        // It was only read: whether it closes changes nothing.
        let _ = self.disk.run(Op::Close { file: self.file });
    }
}
