//! Log lines on stderr, in the form etcd's operators and scripts know: one JSON object per line with
//! `level`, `ts` and `msg`, then the event's fields. The message "ready to serve client requests" is
//! what supervisors and etcd's own test suites wait for.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FmtSpan, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::args::{LogFormat, LogLevel};

/// Starts logging. Does nothing if the process logs already.
pub fn start(format: LogFormat, level: LogLevel) {
    let level = match level {
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Info => Level::INFO,
        LogLevel::Warn => Level::WARN,
        LogLevel::Error | LogLevel::Dpanic | LogLevel::Panic | LogLevel::Fatal => Level::ERROR,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(matches!(format, LogFormat::Console))
        // A span says what it has measured when it ends: sampled turns, at the level `debug`.
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(std::io::stderr);
    // An error means that somebody set a logger before us: theirs stays.
    let _ = match format {
        LogFormat::Json => {
            tracing::subscriber::set_global_default(builder.event_format(JsonLines).finish())
        }
        LogFormat::Console => {
            tracing::subscriber::set_global_default(builder.with_target(false).finish())
        }
    };
}

struct JsonLines;

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
        let message = serde_json::Value::from(fields.message);
        write!(
            writer,
            "{{\"level\":\"{level}\",\"ts\":\"{time}\",\"msg\":{message}"
        )?;
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

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((field.name(), value.into()));
    }
}
