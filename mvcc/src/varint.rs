//! Unsigned LEB128 numbers, as used inside records, history packs and snapshots.
//!
//! Reading never panics and never reads past the slice: a snapshot comes from outside. Tested here
//! and by the snapshot's damage tests.

/// Most bytes that one number takes.
pub(crate) const LEN_MAX: usize = 10;

/// Bytes that `value` takes.
pub(crate) fn len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends `value`.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes `value` into a buffer; the bytes it took.
pub(crate) fn put_in(out: &mut [u8; LEN_MAX], mut value: u64) -> &[u8] {
    let mut len = 0;
    while value >= 0x80 {
        out[len] = value as u8 | 0x80;
        value >>= 7;
        len += 1;
    }
    out[len] = value as u8;
    &out[..=len]
}

/// Takes a number off the front of `input`; `None` if it is cut short or does not fit 64 bits.
pub(crate) fn take(input: &mut &[u8]) -> Option<u64> {
    if let Some((&byte, rest)) = input.split_first()
        && byte < 0x80
    {
        *input = rest;
        return Some(u64::from(byte));
    }
    let mut value = 0u64;
    for (i, &byte) in input.iter().enumerate().take(LEN_MAX) {
        if i == LEN_MAX - 1 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *input = &input[i + 1..];
            return Some(value);
        }
    }
    None
}

/// Takes `len` bytes off the front of `input`.
pub(crate) fn take_bytes<'a>(input: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (head, tail) = input.split_at_checked(usize::try_from(len).ok()?)?;
    *input = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_in_the_length_announced() {
        let edges = (0..64).flat_map(|shift| [(1u64 << shift) - 1, 1 << shift, (1 << shift) + 1]);
        for value in edges.chain([u64::MAX]) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            assert_eq!(bytes.len(), len(value), "{value}");
            assert_eq!(put_in(&mut [0; LEN_MAX], value), bytes);
            let mut input = bytes.as_slice();
            assert_eq!(take(&mut input), Some(value));
            assert!(input.is_empty());
            for cut in 0..bytes.len() {
                assert_eq!(take(&mut &bytes[..cut]), None, "cut {value} at {cut}");
            }
        }
    }

    #[test]
    fn too_large_numbers_are_refused() {
        assert_eq!(take(&mut &[0xff; 11][..]), None);
        assert_eq!(
            take(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]),
            None
        );
    }
}
