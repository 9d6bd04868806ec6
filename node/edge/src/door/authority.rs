//! Header blocks whose `:authority` this HTTP/2 layer would not take, made into ones that it takes.
//!
//! `h2` resets a stream whose `:authority` is no URI authority: a list of addresses with commas
//! (gRPC's C core with more than one address), `%2F` (gRPC targets), `#initially=[…]` (etcd's Go
//! client 3.5.0), nothing at all. etcd takes any, and nobody here reads it. So such a value becomes a
//! harmless one before `h2` sees it; why here and not elsewhere is decision 23.
//!
//! Promises: a block with nothing to change is not copied and costs a walk over its fields' lengths;
//! what is changed decodes to the same fields but for that one value, also for later blocks that refer
//! to the client's table of earlier fields; what is kept for a connection is bounded. Must never know:
//! frames, sockets, what a field means.
//!
//! How it gets by without HPACK's table: a harmless value is written *without* indexing, so where the
//! client has that field in its table, the receiver's table has nothing: a **phantom**. Only how many
//! fields were put in since (its age) matters. References to younger ones stay as they are, those to
//! older ones move down by one, those to the phantom itself become the harmless field again. The
//! receiver's table holds at least what the client's does, since it lacks nothing but phantoms.

use std::collections::VecDeque;

use httlib_huffman::DecoderSpeed;
use http::uri::Authority;

/// `:authority` in HPACK's static table (RFC 7541, appendix A), and the first place after that table.
const AUTHORITY: usize = 1;
const DYNAMIC: usize = 62;
/// Most fields in a table of 4,096 bytes, which is all we let a client have: each counts 32 bytes and more.
const FIELDS_MAX: usize = 4_096 / 32;
/// `:authority: x`, literal, without indexing.
const HARMLESS: &[u8] = &[AUTHORITY as u8, 1, b'x'];
/// Longest integer in a header block: nothing that long fits a frame.
const INTEGER_MAX: usize = 1 << 24;

/// What is known of one client's table: where the fields are that the receiver does not have.
#[derive(Debug, Default)]
pub(crate) struct Rewriter {
    /// Ages of the phantoms, youngest first.
    phantoms: VecDeque<usize>,
    /// Ages, in the client's table, of the authorities that the receiver has too: their name may be referred
    /// to.
    known: VecDeque<usize>,
}

/// A header block that HPACK does not allow: the receiver of it will say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Where a reference leads.
enum Place {
    /// As the client said.
    Same,
    Moved(usize),
    Phantom,
}

impl Rewriter {
    /// Whether later blocks depend on this one's work.
    pub(crate) fn has_rewritten(&self) -> bool {
        !self.phantoms.is_empty()
    }

    /// `block` as the receiver should see it; None where it is as it should be.
    ///
    /// # Errors
    /// [`Malformed`]: it is to be handed on as it came.
    pub(crate) fn block(&mut self, block: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        let mut out: Option<Vec<u8>> = None;
        let mut at = 0;
        while let Some(&first) = block.get(at) {
            let start = at;
            let change = match first {
                0x80.. => self.indexed(block, &mut at)?,
                0x20..0x40 => {
                    integer(block, &mut at, 5)?; // a new size of the table
                    None
                }
                _ => self.literal(block, &mut at)?,
            };
            match (change, &mut out) {
                (Some(change), None) => {
                    let mut copy = Vec::with_capacity(block.len() + HARMLESS.len());
                    copy.extend_from_slice(&block[..start]);
                    copy.extend_from_slice(&change);
                    out = Some(copy);
                }
                (Some(change), Some(out)) => out.extend_from_slice(&change),
                (None, Some(out)) => out.extend_from_slice(&block[start..at]),
                (None, None) => {}
            }
        }
        Ok(out)
    }

    /// A field that is in a table.
    fn indexed(&self, block: &[u8], at: &mut usize) -> Result<Option<Vec<u8>>, Malformed> {
        let index = integer(block, at, 7)?;
        Ok(match self.place(index) {
            // The static table has it with an empty value.
            Place::Same if index == AUTHORITY => Some(HARMLESS.to_vec()),
            Place::Same => None,
            Place::Phantom => Some(HARMLESS.to_vec()),
            Place::Moved(index) => {
                let mut out = Vec::new();
                put_integer(&mut out, 0x80, 7, index);
                Some(out)
            }
        })
    }

    /// A field that is written out; its name may be in a table.
    fn literal(&mut self, block: &[u8], at: &mut usize) -> Result<Option<Vec<u8>>, Malformed> {
        let first = block.get(*at).copied().unwrap_or(0);
        let enters = first & 0xc0 == 0x40;
        let (bits, kind) = if enters { (6, 0x40) } else { (4, first & 0xf0) };
        let index = integer(block, at, bits)?;
        let place = self.place(index);
        let after_index = *at;
        let is_authority = match (index, &place) {
            (AUTHORITY, _) | (_, Place::Phantom) => true,
            (DYNAMIC.., _) => self.known.contains(&(index - DYNAMIC)),
            (0, _) => string(block, at)?.is(b":authority"),
            _ => false,
        };
        let value = string(block, at)?;
        if is_authority && !value.is_authority() {
            if enters {
                self.entered();
                self.phantoms.push_front(0);
            }
            return Ok(Some(HARMLESS.to_vec()));
        }
        if enters {
            self.entered();
            if is_authority {
                self.known.push_front(0);
            }
        }
        let index = match place {
            Place::Same => return Ok(None),
            Place::Moved(index) => index,
            Place::Phantom => AUTHORITY,
        };
        let mut out = Vec::new();
        put_integer(&mut out, kind, bits, index);
        out.extend_from_slice(&block[after_index..*at]);
        Ok(Some(out))
    }

    fn place(&self, index: usize) -> Place {
        if self.phantoms.is_empty() || index < DYNAMIC {
            return Place::Same;
        }
        let age = index - DYNAMIC;
        let younger = self.phantoms.iter().take_while(|p| **p < age).count();
        match (self.phantoms.get(younger), younger) {
            (Some(phantom), _) if *phantom == age => Place::Phantom,
            (_, 0) => Place::Same,
            (_, n) => Place::Moved(index - n),
        }
    }

    /// The client put a field into its table: all others are one older, and the oldest are gone.
    fn entered(&mut self) {
        for ages in [&mut self.phantoms, &mut self.known] {
            for age in ages.iter_mut() {
                *age += 1;
            }
            while ages.back().is_some_and(|age| *age >= FIELDS_MAX) {
                ages.pop_back();
            }
        }
    }
}

/// A string of a header block, as it was sent.
struct Text<'b> {
    huffman: bool,
    bytes: &'b [u8],
}

impl Text<'_> {
    fn is(&self, wanted: &[u8]) -> bool {
        if !self.huffman {
            return self.bytes == wanted;
        }
        // No code is shorter than five bits or, in a pseudo field's name, longer than eight.
        self.bytes.len() <= wanted.len() && self.decoded().is_some_and(|text| text == wanted)
    }

    /// Whether the HTTP/2 layer takes it as `:authority`. What cannot be decoded is its to refuse.
    fn is_authority(&self) -> bool {
        let takes = |bytes: &[u8]| Authority::try_from(bytes).is_ok();
        if self.huffman {
            self.decoded().is_none_or(|text| takes(&text))
        } else {
            takes(self.bytes)
        }
    }

    fn decoded(&self) -> Option<Vec<u8>> {
        let mut text = Vec::with_capacity(self.bytes.len() * 8 / 5);
        httlib_huffman::decode(self.bytes, &mut text, DecoderSpeed::FourBits).ok()?;
        Some(text)
    }
}

fn string<'b>(block: &'b [u8], at: &mut usize) -> Result<Text<'b>, Malformed> {
    let huffman = block.get(*at).ok_or(Malformed)? & 0x80 != 0;
    let len = integer(block, at, 7)?;
    let bytes = block.get(*at..).and_then(|rest| rest.get(..len));
    let bytes = bytes.ok_or(Malformed)?;
    *at += len;
    Ok(Text { huffman, bytes })
}

/// An integer whose first `bits` bits stand in the low bits of the byte at `at` (RFC 7541 §5.1).
fn integer(block: &[u8], at: &mut usize, bits: u32) -> Result<usize, Malformed> {
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*block.get(*at).ok_or(Malformed)?) & most;
    *at += 1;
    if value < most {
        return Ok(value);
    }
    let mut shift = 0;
    loop {
        let byte = *block.get(*at).ok_or(Malformed)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
        shift += 7;
        if value > INTEGER_MAX || shift > 21 {
            return Err(Malformed);
        }
    }
}

fn put_integer(out: &mut Vec<u8>, kind: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    let low = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    if value < most {
        return out.push(kind | low(value));
    }
    out.push(kind | low(most));
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(low(rest & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(low(rest));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Field = (Vec<u8>, Vec<u8>);

    /// What a client puts into its blocks: literals of three kinds, references, new table sizes.
    #[derive(Clone, Debug)]
    enum Part {
        Literal {
            name: usize,
            value: usize,
            kind: u8,
            huffman: bool,
            by_table: bool,
        },
        Known(usize),
        /// The static table's `:authority`, which is empty.
        Empty,
        Size(usize),
    }

    const NAMES: [&[u8]; 4] = [b":authority", b":path", b"x-one", b"content-type"];
    const VALUES: [&[u8]; 8] = [
        b"127.0.0.1:2379",
        b"",
        b"a:1,b:2",
        b"a%2Fb",
        b"#initially=[http://127.0.0.1:2379]",
        b"[::1]:1",
        b"a b",
        &[b'v'; 300],
    ];

    /// A client's table of fields, to the letter of RFC 7541 §4.
    struct Table {
        fields: VecDeque<Field>,
        size: usize,
        max: usize,
    }

    impl Table {
        fn shrink(&mut self, room: usize) {
            while self.size + room > self.max {
                let Some((n, v)) = self.fields.pop_back() else {
                    return;
                };
                self.size -= n.len() + v.len() + 32;
            }
        }

        fn enter(&mut self, field: Field) {
            let bytes = field.0.len() + field.1.len() + 32;
            self.shrink(bytes);
            if bytes <= self.max {
                self.size += bytes;
                self.fields.push_front(field);
            }
        }
    }

    fn put_string(out: &mut Vec<u8>, text: &[u8], huffman: bool) {
        let mut coded = Vec::new();
        if huffman {
            httlib_huffman::encode(text, &mut coded).expect("any text");
        } else {
            coded.extend_from_slice(text);
        }
        put_integer(out, u8::from(huffman) << 7, 7, coded.len());
        out.extend_from_slice(&coded);
    }

    /// The block, and the fields it means.
    fn encode(parts: &[Part], table: &mut Table) -> (Vec<u8>, Vec<Field>) {
        let (mut out, mut fields) = (Vec::new(), Vec::new());
        for part in parts {
            match *part {
                // Only at the beginning of a block, and never above what was allowed.
                Part::Size(max) if fields.is_empty() => {
                    put_integer(&mut out, 0x20, 5, max);
                    table.max = max;
                    table.shrink(0);
                }
                Part::Size(_) => {}
                Part::Empty => {
                    out.push(0x80 | AUTHORITY as u8);
                    fields.push((NAMES[0].to_vec(), Vec::new()));
                }
                Part::Known(n) => {
                    if let Some(field) = table.fields.get(n) {
                        put_integer(&mut out, 0x80, 7, DYNAMIC + n);
                        fields.push(field.clone());
                    }
                }
                Part::Literal {
                    name,
                    value,
                    kind,
                    huffman,
                    by_table,
                } => {
                    let field = (NAMES[name].to_vec(), VALUES[value].to_vec());
                    let bits = if kind == 0x40 { 6 } else { 4 };
                    let known = table.fields.iter().position(|(n, _)| *n == field.0);
                    match (known, name) {
                        // A name in the table of earlier fields. `:authority`, which all encoders take from
                        // the static one, may be referred to there as well.
                        (Some(n), 1..) if by_table => {
                            put_integer(&mut out, kind, bits, DYNAMIC + n);
                        }
                        (Some(n), 0) if by_table && value % 2 == 0 => {
                            put_integer(&mut out, kind, bits, DYNAMIC + n);
                        }
                        (_, 0) if by_table => put_integer(&mut out, kind, bits, AUTHORITY),
                        _ => {
                            put_integer(&mut out, kind, bits, 0);
                            put_string(&mut out, &field.0, huffman);
                        }
                    }
                    put_string(&mut out, &field.1, huffman);
                    if kind == 0x40 {
                        table.enter(field.clone());
                    }
                    fields.push(field);
                }
            }
        }
        // A field of the static table ends every block: a size may not be last.
        out.push(0x83);
        fields.push((b":method".to_vec(), b"POST".to_vec()));
        (out, fields)
    }

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let literal = (
            0..NAMES.len(),
            0..VALUES.len(),
            prop::sample::select(vec![0x40_u8, 0x40, 0x40, 0, 0x10]),
            any::<bool>(),
            any::<bool>(),
        );
        let literal = literal.prop_map(|(name, value, kind, huffman, by_table)| Part::Literal {
            name,
            value,
            kind,
            huffman,
            by_table,
        });
        let known = (0..40_usize).prop_map(Part::Known);
        let size = prop::sample::select(vec![0, 100, 500, 4_096]).prop_map(Part::Size);
        prop::collection::vec(
            prop_oneof![
                6 => literal, 6 => known, 1 => Just(Part::Empty), 1 => size
            ],
            0..12,
        )
    }

    proptest! {
        /// A decoder that knows nothing of all this (another library's) reads the rewritten blocks, one
        /// after another, as the fields the client meant, with every odd authority made harmless.
        #[test]
        fn rewritten_blocks_mean_the_same_but_for_odd_authorities(
            blocks in prop::collection::vec(parts(), 1..30)
        ) {
            let mut table = Table { fields: VecDeque::new(), size: 0, max: 4_096 };
            let mut rewriter = Rewriter::default();
            let mut decoder = loona_hpack::Decoder::new();
            for parts in blocks {
                let (block, fields) = encode(&parts, &mut table);
                let rewritten = rewriter.block(&block).expect("well formed");
                let got = decoder.decode(rewritten.as_deref().unwrap_or(&block));
                let wanted: Vec<Field> = fields
                    .into_iter()
                    .map(|(name, value)| match Authority::try_from(&value[..]) {
                        Err(_) if name == b":authority" => (name, b"x".to_vec()),
                        _ => (name, value),
                    })
                    .collect();
                prop_assert_eq!(got.expect("decodes"), wanted);
                prop_assert!(rewriter.phantoms.len() + rewriter.known.len() <= FIELDS_MAX);
            }
        }

        #[test]
        fn garbage_is_malformed_or_left_alone_and_never_panics(
            blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..8)
        ) {
            let mut rewriter = Rewriter::default();
            for block in blocks {
                // Whatever it says: it came back.
                let _ = rewriter.block(&block);
                prop_assert!(rewriter.phantoms.len() <= FIELDS_MAX);
            }
        }

        #[test]
        fn coded_text_is_read_as_it_was_written(text in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut bytes = Vec::new();
            httlib_huffman::encode(&text, &mut bytes).expect("any text");
            let coded = Text { huffman: true, bytes: &bytes };
            prop_assert_eq!(coded.decoded(), Some(text));
        }
    }

    #[test]
    fn a_block_with_nothing_odd_is_not_copied() {
        let mut rewriter = Rewriter::default();
        let mut block = vec![0x83, 0x86, 0x41];
        put_string(&mut block, b"localhost:2379", true);
        assert_eq!(rewriter.block(&block), Ok(None));
        assert_eq!(rewriter.block(&[0x83, 0x86, 0xbe]), Ok(None));
        assert!(!rewriter.has_rewritten());
    }

    /// The name of an odd authority was seen only where it was written out or in the static table.
    #[test]
    fn regression_an_odd_authority_named_by_an_earlier_one_is_made_harmless() {
        let mut rewriter = Rewriter::default();
        assert_eq!(rewriter.block(&[0x41, 1, b'a']), Ok(None));
        let by_name = |kind| [kind, 3, b'a', b' ', b'b'];
        // Literals without indexing, never indexed (their name's place is 15 and 47 more), and with.
        for kind in [0x0f, 0x1f] {
            let block = [&[kind, 47][..], &by_name(0)[1..]].concat();
            assert_eq!(rewriter.block(&block), Ok(Some(HARMLESS.to_vec())));
        }
        let block = by_name(0x40 | DYNAMIC as u8);
        assert_eq!(rewriter.block(&block), Ok(Some(HARMLESS.to_vec())));
        // That one is a phantom now; the first is one older.
        assert_eq!(rewriter.block(&[0xbe]), Ok(Some(HARMLESS.to_vec())));
        assert_eq!(rewriter.block(&[0xbf]), Ok(Some(vec![0xbe])));
    }

    #[test]
    fn cut_off_blocks_and_endless_integers_are_malformed() {
        for block in [
            &[0x41_u8][..],
            &[0x41, 5, b'a'],
            &[0xff],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x00],
            &[0x00, 1],
        ] {
            assert_eq!(
                Rewriter::default().block(block),
                Err(Malformed),
                "{block:?}"
            );
        }
    }
}
