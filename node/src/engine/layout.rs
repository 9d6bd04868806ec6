//! The `LAYOUT` file of a data directory: which core holds which shard, and how keys find their shard.
//!
//! Written as a whole under another name and renamed, so that it is the old one or the new one. Ends
//! with a checksum: a flipped bit in a split key would send keys to the wrong shard. While a move is
//! under way it names where from and where to, so that any later open can finish it (see `rehome`).
//! Drawn in docs/format.md. Must never know: logs, groups' contents.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use bytes::Bytes;

/// Its name in the data directory.
pub const NAME: &str = "LAYOUT";
/// Longest file that is read: room for the most shards and long split keys.
const BYTES_MAX: u64 = 64 << 20;
const HEAD: &str = "henge layout 2";

/// How a key finds its shard. Fixed when the directory is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Router {
    /// By a hash of the key: even load, ranges touch every shard.
    #[default]
    Hash,
    /// By order: shard `n` holds the keys from split `n - 1` (inclusive) to split `n` (exclusive), so
    /// that a range touches few shards. One split key less than there are shards, in ascending order.
    Ranges(Vec<Bytes>),
}

/// On which core each shard lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Number of cores.
    pub cores: usize,
    /// The core of each shard; empty: by turns.
    pub homes: Vec<usize>,
}

/// What a data directory is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of shards; never changes.
    pub shards: usize,
    /// How keys find them; never changes.
    pub router: Router,
    /// Where they live.
    pub placement: Placement,
    /// Where they are on their way to.
    pub moving: Option<Placement>,
    /// The logs may not be there yet: the directory is being made.
    pub making: bool,
}

impl Placement {
    /// Shards on cores by turns.
    pub fn turns(cores: usize) -> Self {
        Placement {
            cores,
            homes: Vec::new(),
        }
    }

    /// The core of a shard.
    pub fn home(&self, shard: usize) -> usize {
        match self.homes.get(shard) {
            Some(home) => *home,
            None => shard % self.cores.max(1),
        }
    }

    /// What cannot be.
    pub fn check(&self, shards: usize) -> Result<(), &'static str> {
        if self.cores == 0 || self.cores > shards {
            return Err("must be between 1 and the number of shards");
        }
        if !self.homes.is_empty() && self.homes.len() != shards {
            return Err("a placement names one core for each shard");
        }
        if self.homes.iter().any(|home| *home >= self.cores) {
            return Err("a placement names cores from 0 to one less than their number");
        }
        Ok(())
    }
}

impl Router {
    /// What cannot be.
    pub fn check(&self, shards: usize) -> Result<(), &'static str> {
        let Router::Ranges(splits) = self else {
            return Ok(());
        };
        if splits.len() + 1 != shards {
            return Err("ranges need one split key less than there are shards");
        }
        let ascending = splits.is_sorted_by(|left, right| left < right);
        if !ascending || splits.first().is_some_and(Bytes::is_empty) {
            return Err("split keys must not be empty and must ascend");
        }
        Ok(())
    }
}

impl Layout {
    /// The layout of a directory; `None` if it has none.
    pub fn read(dir: &Path) -> std::io::Result<Option<Result<Layout, String>>> {
        let file = match fs::File::open(dir.join(NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(Some(decode(&bytes)))
    }

    /// Makes this the layout of the directory; durable when it returns.
    pub fn write(&self, dir: &Path) -> std::io::Result<()> {
        let temporary = dir.join(format!("{NAME}.tmp"));
        let mut file = fs::File::create(&temporary)?;
        file.write_all(self.encode().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(NAME))?;
        fs::File::open(dir)?.sync_all()
    }

    /// The text of the file.
    pub fn encode(&self) -> String {
        let mut text = format!("{HEAD}\nshards {}\n", self.shards);
        match &self.router {
            Router::Hash => text.push_str("router hash\n"),
            Router::Ranges(splits) => {
                text.push_str("router ranges");
                for split in splits {
                    text.push(' ');
                    split
                        .iter()
                        .for_each(|byte| put(&mut text, format_args!("{byte:02x}")));
                }
                text.push('\n');
            }
        }
        placement(&mut text, "", &self.placement);
        if let Some(moving) = &self.moving {
            placement(&mut text, "moving-", moving);
        }
        if self.making {
            text.push_str("making\n");
        }
        let check = crc32c::crc32c(text.as_bytes());
        put(&mut text, format_args!("check {check:08x}\n"));
        text
    }
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(what);
}

fn placement(text: &mut String, prefix: &str, placement: &Placement) {
    put(text, format_args!("{prefix}cores {}\n", placement.cores));
    if !placement.homes.is_empty() {
        put(text, format_args!("{prefix}homes"));
        for home in &placement.homes {
            put(text, format_args!(" {home}"));
        }
        text.push('\n');
    }
}

/// Reads the text of the file; what is wrong with it otherwise.
pub fn decode(bytes: &[u8]) -> Result<Layout, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    if let Some(old) = text.strip_prefix("format 1, ") {
        return decode_1(old.trim()).ok_or_else(|| "its format 1 line is odd".to_owned());
    }
    if !text.starts_with("henge layout ") {
        return Err("it does not begin with its format".to_owned());
    }
    if !text.starts_with(&format!("{HEAD}\n")) {
        return Err("a newer version wrote it; use that one".to_owned());
    }
    let at = text.rfind("check ").ok_or("its checksum is missing")?;
    let (body, check) = text.split_at(at);
    if check != format!("check {:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err("its checksum is wrong; restore it from a copy".to_owned());
    }
    decode_2(body).ok_or_else(|| "a line of it is odd".to_owned())
}

fn decode_1(text: &str) -> Option<Layout> {
    let (cores, shards) = text.strip_prefix("cores ")?.split_once(", shards ")?;
    checked(Layout {
        shards: shards.parse().ok()?,
        router: Router::Hash,
        placement: Placement::turns(cores.parse().ok()?),
        moving: None,
        making: false,
    })
}

fn decode_2(body: &str) -> Option<Layout> {
    let (mut shards, mut router, mut making) = (None, None, false);
    let (mut cores, mut homes) = (None, Vec::new());
    let (mut moving_cores, mut moving_homes) = (None, Vec::new());
    for line in body.lines().skip(1) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "shards" => shards = rest.parse().ok(),
            "router" => router = Some(decode_router(rest)?),
            "cores" => cores = Some(rest.parse().ok()?),
            "homes" => homes = numbers(rest)?,
            "moving-cores" => moving_cores = Some(rest.parse().ok()?),
            "moving-homes" => moving_homes = numbers(rest)?,
            "making" => making = true,
            _ => return None,
        }
    }
    let moving = moving_cores.map(|cores| Placement {
        cores,
        homes: moving_homes,
    });
    let cores = cores?;
    checked(Layout {
        shards: shards?,
        router: router?,
        placement: Placement { cores, homes },
        moving,
        making,
    })
}

fn checked(layout: Layout) -> Option<Layout> {
    let shards = layout.shards;
    layout.placement.check(shards).ok()?;
    layout.router.check(shards).ok()?;
    if let Some(moving) = &layout.moving {
        moving.check(shards).ok()?;
    }
    Some(layout)
}

fn decode_router(text: &str) -> Option<Router> {
    match text.split_once(' ').unwrap_or((text, "")) {
        ("hash", "") => Some(Router::Hash),
        ("ranges", splits) => {
            let splits = splits.split_ascii_whitespace().map(from_hex);
            Some(Router::Ranges(splits.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

fn from_hex(text: &str) -> Option<Bytes> {
    let bytes = text.as_bytes().chunks(2).map(|pair| {
        let digits = std::str::from_utf8(pair).ok().filter(|d| d.len() == 2)?;
        u8::from_str_radix(digits, 16).ok()
    });
    Some(bytes.collect::<Option<Vec<_>>>()?.into())
}

fn numbers(text: &str) -> Option<Vec<usize>> {
    text.split(' ').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Layout> {
        let plain = Layout {
            shards: 3,
            router: Router::Hash,
            placement: Placement::turns(2),
            moving: None,
            making: true,
        };
        let ranges = Layout {
            router: Router::Ranges(vec![
                Bytes::from_static(b"g\0 x"),
                Bytes::from_static(b"p\xff"),
            ]),
            moving: Some(Placement {
                cores: 3,
                homes: vec![2, 0, 1],
            }),
            placement: Placement {
                cores: 2,
                homes: vec![1, 1, 0],
            },
            making: false,
            ..plain.clone()
        };
        vec![plain, ranges]
    }

    #[test]
    fn what_is_written_is_read() {
        for layout in samples() {
            assert_eq!(decode(layout.encode().as_bytes()), Ok(layout));
        }
        let old = decode(b"format 1, cores 2, shards 5\n").expect("format 1");
        assert_eq!((old.placement, old.shards), (Placement::turns(2), 5));
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_refused() {
        for layout in samples() {
            let text = layout.encode();
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                assert!(decode(&bytes).is_err(), "byte {at} of {text}");
                assert!(decode(&text.as_bytes()[..at]).is_err(), "cut at {at}");
            }
        }
        assert!(decode(b"format 1, cores 0, shards 5").is_err());
        assert!(decode(b"henge layout 3\n").is_err_and(|why| why.contains("newer")));
    }
}
