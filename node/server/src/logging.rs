//! Log lines in the form etcd's operators and scripts know: one JSON object per line with `level`, `ts`,
//! `caller` and `msg`, then the name of the member and the event's fields. The message "ready to serve
//! client requests" is what supervisors and etcd's own test suites wait for. `docs/log-lines.md` lists
//! the lines that are promised.
//!
//! How a line leaves the process, and what becomes of one that cannot: [`crate::log_lines`].

use std::fmt;
use std::io::IsTerminal as _;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{FmtSpan, Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::args::{LogFormat, LogLevel};
use crate::log_lines::LogLines;

/// Starts logging for the member of that name. Does nothing if the process logs already. The end has to
/// wait for the last lines: [`LogLines::flush`].
pub fn start(member: &str, format: LogFormat, level: LogLevel) -> LogLines {
    let level = match level {
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Info => Level::INFO,
        LogLevel::Warn => Level::WARN,
        LogLevel::Error | LogLevel::Dpanic | LogLevel::Panic | LogLevel::Fatal => Level::ERROR,
    };
    let lines = LogLines::start();
    let writer = lines.clone();
    let member = member.to_owned();
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        // Colours are for eyes: files and pipes get none.
        .with_ansi(format == LogFormat::Console && std::io::stderr().is_terminal())
        // A span says what it has measured when it ends: sampled turns, at the level `debug`.
        .with_span_events(FmtSpan::CLOSE)
        // It would report them on stderr, and end whoever logged if that fails, too.
        .log_internal_errors(false)
        .with_writer(move || writer.clone());
    // An error means that somebody set a logger before us: theirs stays.
    let _ = match format {
        LogFormat::Json => tracing::subscriber::set_global_default(
            builder.event_format(JsonLines(member)).finish(),
        ),
        LogFormat::Console => {
            let plain = Format::default().with_target(false);
            let format = ConsoleLines { member, plain };
            tracing::subscriber::set_global_default(builder.event_format(format).finish())
        }
    };
    lines
}

/// `dir/file.rs:line`, as zap writes its `caller`.
fn caller(metadata: &Metadata<'_>) -> Option<String> {
    let (file, line) = metadata.file().zip(metadata.line())?;
    let dir = file.rfind('/').and_then(|at| file[..at].rfind('/'));
    Some(format!("{}:{line}", &file[dir.map_or(0, |at| at + 1)..]))
}

/// The member's name, then the line as `tracing` writes it.
struct ConsoleLines {
    member: String,
    plain: Format<Full, SystemTime>,
}

impl<S, N> FormatEvent<S, N> for ConsoleLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{} ", self.member)?;
        self.plain.format_event(context, writer, event)
    }
}

/// One object per line; holds the member's name.
struct JsonLines(String);

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        write!(writer, "{{\"level\":\"{level}\",\"ts\":\"{time}\"")?;
        if let Some(caller) = caller(event.metadata()) {
            write!(writer, ",\"caller\":{}", serde_json::Value::from(caller))?;
        }
        let message = serde_json::Value::from(fields.message);
        let member = serde_json::Value::from(self.0.as_str());
        write!(writer, ",\"msg\":{message},\"member\":{member}")?;
        for (name, value) in fields.others {
            write!(writer, ",{}:{value}", serde_json::Value::from(name))?;
        }
        if let Some(span) = context.parent_span() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>();
            let fields = fields.map_or("", |fields| fields.as_str());
            let (name, fields) = (span.name(), serde_json::Value::from(fields));
            write!(writer, ",\"{name}\":{fields}")?;
        }
        writeln!(writer, "}}")
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, serde_json::Value)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.others.push((field.name(), text.into()));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.others.push((field.name(), value.into()));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((field.name(), value.into()));
    }
}
