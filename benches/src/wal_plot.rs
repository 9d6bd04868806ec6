//! Plots as PNG files, from the benchmark's own figures: bars and lines on a small canvas.
//!
//! Promises: what is drawn is what was given; the same figures give the same bytes. An encoder of our
//! own (palette of 16 colours, runs compressed with fixed Huffman codes, RFC 1950–1951): a plotting
//! crate would be a tree of dependencies for four pictures. Must never know: what is measured.

use std::io;
use std::path::Path;

const WIDTH: usize = 880;
const HEIGHT: usize = 420;
const LEFT: usize = 90;
const BOTTOM: usize = 360;
const TOP: usize = 50;
const RIGHT: usize = 860;

/// Colours by number: 0 is the paper, 1 the ink, then the series'.
const PALETTE: [[u8; 3]; 8] = [
    [255, 255, 255],
    [40, 40, 40],
    [33, 102, 172],
    [214, 96, 77],
    [90, 160, 90],
    [150, 110, 180],
    [220, 220, 220],
    [120, 120, 120],
];
const INK: u8 = 1;
const GRID: u8 = 6;

/// A row of values of one colour.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Values: bars' heights, or points (x, y) of a line.
    pub points: Vec<(f64, f64)>,
}

/// A picture being drawn.
struct Canvas {
    pixels: Vec<u8>,
}

/// Groups of bars: one group per label, one bar per series.
pub fn bars(
    path: &Path,
    title: &str,
    unit: &str,
    labels: &[String],
    series: &[Series],
) -> io::Result<()> {
    let values = series.iter().flat_map(|s| &s.points).map(|p| p.1);
    let max = values.fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.1;
    let mut canvas = Canvas::new(title, unit, series);
    canvas.scale(max);
    let group = (RIGHT - LEFT) / labels.len().max(1);
    let bar = group / (series.len() + 1);
    for (at, label) in labels.iter().enumerate() {
        let left = LEFT + at * group + bar / 2;
        for (n, one) in series.iter().enumerate() {
            let value = one.points.get(at).map_or(0.0, |p| p.1);
            let height = (value / max * (BOTTOM - TOP) as f64) as usize;
            let x = left + n * bar;
            canvas.fill(x, BOTTOM - height, x + bar.max(3) - 2, BOTTOM, n as u8 + 2);
            canvas.text(x, (BOTTOM - height).saturating_sub(14), &short(value), INK);
        }
        canvas.text(left, BOTTOM + 10, label, INK);
    }
    canvas.save(path)
}

/// Lines over a common x axis, whose figures are at `ticks`.
pub fn lines(
    path: &Path,
    title: &str,
    unit: &str,
    ticks: &[(f64, String)],
    series: &[Series],
) -> io::Result<()> {
    let max = |f: fn(&(f64, f64)) -> f64| {
        let all = series.iter().flat_map(|s| &s.points).map(f);
        all.fold(0.0, f64::max).max(f64::MIN_POSITIVE)
    };
    let (x_max, y_max) = (max(|p| p.0), max(|p| p.1) * 1.1);
    let mut canvas = Canvas::new(title, unit, series);
    canvas.scale(y_max);
    let place = |(x, y): (f64, f64)| {
        let right = LEFT as f64 + x / x_max * (RIGHT - LEFT - 20) as f64;
        let up = BOTTOM as f64 - y / y_max * (BOTTOM - TOP) as f64;
        (right, up)
    };
    for (x, label) in ticks {
        let (right, _) = place((*x, 0.0));
        canvas.fill(right as usize, TOP, right as usize + 1, BOTTOM, GRID);
        canvas.text((right as usize).saturating_sub(10), BOTTOM + 10, label, INK);
    }
    for (n, one) in series.iter().enumerate() {
        for pair in one.points.windows(2) {
            canvas.line(place(pair[0]), place(pair[1]), n as u8 + 2);
        }
    }
    canvas.save(path)
}

fn short(value: f64) -> String {
    match value {
        v if v >= 9_999.5 => format!("{:.0}K", v / 1e3),
        v if v >= 1_000.0 => format!("{:.1}K", v / 1e3),
        v if v >= 10.0 => format!("{v:.0}"),
        v => format!("{v:.2}"),
    }
}

impl Canvas {
    fn new(title: &str, unit: &str, series: &[Series]) -> Self {
        let mut canvas = Canvas {
            pixels: vec![0; WIDTH * HEIGHT],
        };
        canvas.text(LEFT, 12, title, INK);
        canvas.text(8, 32, unit, 7);
        for (n, one) in series.iter().enumerate() {
            let x = LEFT + n * 190;
            canvas.fill(x, HEIGHT - 24, x + 12, HEIGHT - 12, n as u8 + 2);
            canvas.text(x + 18, HEIGHT - 23, &one.name, INK);
        }
        canvas
    }

    fn scale(&mut self, max: f64) {
        for step in 0..=4 {
            let y = BOTTOM - (BOTTOM - TOP) * step / 4;
            self.fill(LEFT, y, RIGHT, y + 1, if step == 0 { INK } else { GRID });
            self.text(8, y - 5, &short(max * step as f64 / 4.0), INK);
        }
    }

    fn fill(&mut self, left: usize, top: usize, right: usize, bottom: usize, colour: u8) {
        for y in top..bottom.min(HEIGHT) {
            for x in left..right.min(WIDTH) {
                self.pixels[y * WIDTH + x] = colour;
            }
        }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: u8) {
        let steps = (to.0 - from.0)
            .abs()
            .max((to.1 - from.1).abs())
            .ceil()
            .max(1.0);
        for step in 0..=steps as usize {
            let part = step as f64 / steps;
            let x = from.0 + (to.0 - from.0) * part;
            let y = from.1 + (to.1 - from.1) * part;
            let (x, y) = (x as usize, y.max(0.0) as usize);
            self.fill(x, y, x + 2, y + 2, colour);
        }
    }

    /// Letters of 3 by 5 dots, doubled.
    fn text(&mut self, left: usize, top: usize, text: &str, colour: u8) {
        for (n, letter) in text.chars().enumerate() {
            let dots = glyph(letter.to_ascii_uppercase());
            for (row, line) in dots.iter().enumerate() {
                for column in (0..3).filter(|column| line >> (2 - column) & 1 == 1) {
                    let (x, y) = (left + n * 8 + column * 2, top + row * 2);
                    self.fill(x, y, x + 2, y + 2, colour);
                }
            }
        }
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, self.png())
    }

    fn png(&self) -> Vec<u8> {
        let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut header = Vec::new();
        header.extend((WIDTH as u32).to_be_bytes());
        header.extend((HEIGHT as u32).to_be_bytes());
        header.extend([4, 3, 0, 0, 0]); // 4 bits, palette
        chunk(&mut out, b"IHDR", &header);
        chunk(&mut out, b"PLTE", &PALETTE.concat());
        let mut rows = Vec::new();
        for row in self.pixels.chunks(WIDTH) {
            rows.push(0); // no filter
            rows.extend(
                row.chunks(2)
                    .map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&0)),
            );
        }
        chunk(&mut out, b"IDAT", &zlib(&rows));
        chunk(&mut out, b"IEND", &[]);
        out
    }
}

fn chunk(out: &mut Vec<u8>, kind: &[u8; 4], body: &[u8]) {
    out.extend((body.len() as u32).to_be_bytes());
    let mut checked = kind.to_vec();
    checked.extend(body);
    out.extend(&checked);
    out.extend(crc32(&checked).to_be_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| {
        if crc & 1 == 1 {
            crc >> 1 ^ 0xedb8_8320
        } else {
            crc >> 1
        }
    };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), step);
    !bytes.iter().fold(!0, byte)
}

/// Runs of equal bytes as matches at distance 1, everything else as it is.
fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut bits = Bits {
        out: vec![0x78, 0x01],
        held: 0,
        count: 0,
    };
    bits.low_first(0b011, 3); // last block, fixed codes
    let mut at = 0;
    while at < bytes.len() {
        let same = |n: &usize| at > 0 && bytes.get(at + n) == Some(&bytes[at - 1]);
        let run = (0..258).take_while(same).count();
        if run >= 3 {
            bits.length(run);
            bits.high_first(0, 5); // distance 1
            at += run;
        } else {
            bits.symbol(u32::from(bytes[at]));
            at += 1;
        }
    }
    bits.symbol(256);
    bits.low_first(0, 7); // the last byte is whole
    let (mut a, mut b) = (1u32, 0u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    bits.out.extend((b << 16 | a).to_be_bytes());
    bits.out
}

struct Bits {
    out: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn low_first(&mut self, value: u32, count: u32) {
        self.held |= value << self.count;
        self.count += count;
        while self.count >= 8 {
            self.out.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    fn high_first(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            self.low_first(value >> bit & 1, 1);
        }
    }

    /// A literal, the end, or a length's code (RFC 1951, 3.2.6).
    fn symbol(&mut self, symbol: u32) {
        match symbol {
            0..=143 => self.high_first(0b0011_0000 + symbol, 8),
            144..=255 => self.high_first(0b1_1001_0000 + symbol - 144, 9),
            256..=279 => self.high_first(symbol - 256, 7),
            _ => self.high_first(0b1100_0000 + symbol - 280, 8),
        }
    }

    fn length(&mut self, length: usize) {
        if length == 258 {
            return self.symbol(285);
        }
        // Lengths come in groups of four codes with one more extra bit each.
        let (mut base, mut code, mut extra) = (3, 257, 0);
        loop {
            let codes = if extra == 0 { 8 } else { 4 };
            if length < base + (codes << extra) {
                let offset = length - base;
                self.symbol(code + (offset >> extra) as u32);
                return self.low_first((offset & ((1 << extra) - 1)) as u32, extra);
            }
            base += codes << extra;
            code += codes as u32;
            extra += 1;
        }
    }
}

fn glyph(letter: char) -> [u8; 5] {
    let rows: u32 = match letter {
        '0' => 0o75557,
        '1' => 0o26227,
        '2' => 0o71747,
        '3' => 0o71717,
        '4' => 0o55711,
        '5' => 0o74717,
        '6' => 0o74757,
        '7' => 0o71222,
        '8' => 0o75757,
        '9' => 0o75717,
        'A' => 0o75755,
        'B' => 0o65656,
        'C' => 0o74447,
        'D' => 0o65556,
        'E' => 0o74647,
        'F' => 0o74644,
        'G' => 0o74557,
        'H' => 0o55755,
        'I' => 0o72227,
        'J' => 0o11157,
        'K' => 0o55655,
        'L' => 0o44447,
        'M' => 0o57755,
        'N' => 0o65555,
        'O' => 0o75557,
        'P' => 0o75744,
        'Q' => 0o75571,
        'R' => 0o75655,
        'S' => 0o74717,
        'T' => 0o72222,
        'U' => 0o55557,
        'V' => 0o55552,
        'W' => 0o55775,
        'X' => 0o55255,
        'Y' => 0o55722,
        'Z' => 0o71247,
        '.' => 0o00002,
        ',' => 0o00024,
        ':' => 0o02020,
        '-' => 0o00700,
        '/' => 0o11244,
        '%' => 0o51245,
        '+' => 0o02720,
        '=' => 0o07070,
        '(' => 0o24442,
        ')' => 0o21112,
        _ => 0,
    };
    [12, 9, 6, 3, 0].map(|shift| (rows >> shift & 7) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        // The smallest legal stream of one literal, as RFC 1951 codes it.
        assert_eq!(zlib(b"a")[..5], [0x78, 0x01, 0x4b, 0x04, 0x00]);
    }

    #[test]
    fn a_picture_is_small_and_the_same_each_time() {
        let series = [Series {
            name: "a".into(),
            points: vec![(0.0, 1.0), (1.0, 3.0)],
        }];
        let mut canvas = Canvas::new("title", "unit", &series);
        canvas.scale(3.0);
        let png = canvas.png();
        assert!(png.len() < 20_000 && png == canvas.png());
    }
}
