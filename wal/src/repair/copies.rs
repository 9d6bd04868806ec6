//! What is there twice and was read from its other copy is written again, both copies alike.
//!
//! Why here and not by the log while it runs: an acknowledged block is never rewritten in place, as a write
//! that tears would then hit what was good. A repair writes the whole file anew beside the old one. Marks and
//! footers are left: what they repeat is in the records, and they go with their segment.

use super::overlay::Overlay;
use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::chain::{DiskSource, open_files};
use crate::identity::{Birth, fault};
use crate::scan::{Expect, Window};
use crate::segment;
use crate::{Healed, OpenError};

/// Lays the changes over the files; which copies are good then, and which are not.
pub(super) fn mend(
    overlay: &mut Overlay<'_>,
    birth: &Birth,
    healed: Vec<Healed>,
) -> Result<(Vec<Healed>, Vec<Healed>), OpenError> {
    let files = open_files(overlay, birth.uuid)?;
    let (mut mended, mut unmended) = (Vec::new(), Vec::new());
    for one in healed {
        let name = one.file.file_name().map(|name| name.to_string_lossy());
        let seq = name.and_then(|name| segment::seq_of(&name));
        let found = seq.and_then(|seq| files.get(&seq));
        let Some(found) = found.filter(|_| one.mendable) else {
            unmended.push(one);
            continue;
        };
        let seq = found.file.seq;
        if one.offset == 0 {
            if let Some(header) = found.header {
                overlay.patch(seq, 0, header.blocks().to_vec());
            }
            mended.push(one);
            continue;
        }
        let expect = Expect {
            uuid: birth.uuid,
            seq,
            offset: one.offset,
            lsn: 0,
            prev: 0,
            limit: found.file.bytes,
        };
        match batch_at(overlay, found.file.file, &expect)? {
            Some(header) => {
                let [head, trailer] = header.copies();
                let end = one.offset + u64::from(header.len);
                overlay.patch(seq, one.offset, head.to_vec());
                overlay.patch(seq, end - HEADER_BYTES as u64, trailer.to_vec());
                mended.push(one);
            }
            None => unmended.push(one),
        }
    }
    Ok((mended, unmended))
}

fn batch_at(
    overlay: &mut Overlay<'_>,
    file: crate::disk::FileId,
    expect: &Expect,
) -> Result<Option<BatchHeader>, OpenError> {
    let mut source = DiskSource {
        disk: overlay,
        file,
    };
    let found = Window::new(&mut source).header_at(expect);
    found.map_err(|e| fault(overlay, &segment::name(expect.seq), "read", e))
}
