//! Reading a checkpoint back, chunk by chunk, each verified before it is handed out.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::format::{self, HEAD_BYTES, HEADER_BYTES, Next};
use super::{CHUNK_BYTES_MAX, CheckpointError, Meta, io};

/// Bytes read from the file at once.
const READ_BYTES: usize = 1024 * 1024;

/// A checkpoint file being read. Blocks: for use at start, or on a helper thread.
pub struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    meta: Meta,
    offset: u64,
    chunks: u64,
    bytes: u64,
    chain: u32,
    ended: bool,
}

impl Reader {
    /// Open a file and verify its header.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(|e| io(path, "open", e))?;
        let mut file = BufReader::with_capacity(READ_BYTES, file);
        let mut header = vec![0; HEADER_BYTES];
        let damaged = |what| CheckpointError::Damaged {
            path: path.into(),
            offset: 0,
            what,
        };
        let read = file.read_exact(&mut header);
        read.map_err(|e| short(e, path, damaged("shorter than a header")))?;
        let meta = format::read_header(&header).map_err(|e| match e {
            Ok(found) => CheckpointError::NewerFormat {
                path: path.into(),
                found,
                known: format::FORMAT,
            },
            Err(what) => damaged(what),
        })?;
        let offset = HEADER_BYTES as u64;
        let path = path.into();
        Ok(Self {
            file,
            path,
            meta,
            offset,
            chunks: 0,
            bytes: 0,
            chain: 0,
            ended: false,
        })
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
        self.fill(&mut head)?;
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
        self.fill(&mut bytes)?;
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

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        let read = self.file.read_exact(bytes);
        read.map_err(|e| short(e, &self.path, self.damaged("the file ends early")))
    }

    fn damaged(&self, what: &'static str) -> CheckpointError {
        CheckpointError::Damaged {
            path: self.path.clone(),
            offset: self.offset,
            what,
        }
    }
}

/// The end of a file where there should be more is damage; anything else is the system's.
fn short(e: std::io::Error, path: &Path, damage: CheckpointError) -> CheckpointError {
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => damage,
        _ => io(path, "read", e),
    }
}
