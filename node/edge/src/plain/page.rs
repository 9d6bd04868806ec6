//! The text of a scrape while it is written.
//!
//! Promises: labels are escaped; a histogram counts up and ends with all. Must never know: what is shown.

use std::fmt::{Display, Write};

use henge_api::{Buckets, Histogram, Scale};

/// The text under construction. Writing to a String cannot fail.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    pub(super) fn with_capacity(bytes: usize) -> Page {
        Page(String::with_capacity(bytes))
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    pub(super) fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "gauge");
        self.line(name, &[], value);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "counter");
        self.line(name, &[], value);
    }

    pub(super) fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// One series of a histogram whose head stands already; a bound times `unit` is what is shown.
    pub(super) fn buckets(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        scale: Scale,
        histogram: &Histogram,
        unit: f64,
    ) {
        let bounds = scale.bounds().map(|bound| bound as f64 * unit);
        let counts: Vec<u64> = histogram.counts(scale).collect();
        let sum = histogram.sum() as f64 * unit;
        self.series(name, labels, bounds, &counts, sum);
    }

    /// The same of counts by powers of two.
    pub(super) fn powers(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        buckets: &Buckets,
        unit: f64,
    ) {
        let bounds = (0..Buckets::COUNT - 1).map(|at| (1_u64 << at) as f64 * unit);
        self.series(
            name,
            labels,
            bounds,
            &buckets.counts,
            buckets.sum as f64 * unit,
        );
    }

    /// A series from its bounds and its counts, of which the last has no bound.
    pub(super) fn series(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: impl Iterator<Item = f64>,
        counts: &[u64],
        sum: f64,
    ) {
        let bucket = format!("{name}_bucket");
        let mut line = |le: &str, seen: u64| {
            let labels: Vec<_> = labels.iter().copied().chain([("le", le)]).collect();
            self.line(&bucket, &labels, seen);
        };
        let (mut seen, mut counts) = (0_u64, counts.iter());
        for (bound, count) in bounds.zip(counts.by_ref()) {
            seen = seen.saturating_add(*count);
            line(&short(bound), seen);
        }
        seen = counts.fold(seen, |seen, count| seen.saturating_add(*count));
        line("+Inf", seen);
        self.line(&format!("{name}_sum"), labels, sum);
        self.line(&format!("{name}_count"), labels, seen);
    }
}

/// A bound without the noise of its multiplication: 0.0002, not 0.00019999999999999998.
fn short(bound: f64) -> String {
    let rounded = (bound * 1e9).round() / 1e9;
    rounded.to_string()
}
