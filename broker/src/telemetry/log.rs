//! Where log lines go and how they look.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::Untrusted;
use crate::config::{Log, LogFilter, LogFormat};

/// Changes the log of the running process.
#[derive(Clone, Debug)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl LogHandle {
    /// Logs by another filter from now on.
    pub fn apply(&self, filter: &LogFilter) {
        // It fails only when the subscriber is gone, and then nobody reads the log.
        let _ = self.0.reload(EnvFilter::new(filter.as_str()));
    }
}

/// Starts logging to the standard error, panics included. Fails if logging was started before.
pub fn init(log: &Log) -> Result<LogHandle, TryInitError> {
    let (filter, handle) = reload::Layer::new(EnvFilter::new(log.level.as_str()));
    let registry = tracing_subscriber::registry().with(filter);
    if is_text(log.format, std::io::stderr().is_terminal()) {
        let lines = fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(use_color());
        registry.with(lines).try_init()?;
    } else {
        let lines = fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_writer(std::io::stderr);
        registry.with(lines).try_init()?;
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(LogHandle(handle))
}

fn is_text(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    }
}

/// Colour on a terminal, unless <https://no-color.org> says no.
fn use_color() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let at = info.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        at,
        backtrace,
        thread = std::thread::current().name(),
        "panic: {}",
        Untrusted(info.payload_as_str().unwrap_or("(no text)"))
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_for_terminals() {
        assert!(is_text(LogFormat::Auto, true));
        assert!(!is_text(LogFormat::Auto, false));
        assert!(is_text(LogFormat::Text, false));
        assert!(!is_text(LogFormat::Json, true));
    }
}
