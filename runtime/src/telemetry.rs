//! Logs: where they go, in which form, and how much of them. The level can change while the process runs.

use std::io;

use clap::ValueEnum;
use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// What can go wrong with logs.
#[derive(Debug, Error)]
pub enum Error {
    /// Not a filter.
    #[error(
        "log filter {filter:?}: {reason} (hint: a level such as \"debug\", or \"info,xds_shim=trace\")"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// Why it is none.
        reason: String,
    },
    /// Logs were set up before.
    #[error("logs are set up already: {0}")]
    Twice(#[from] TryInitError),
    /// The subscriber is gone.
    #[error("log level: {0}")]
    Reload(#[from] reload::Error),
}

/// Flags of every binary; flatten them into its own.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What to log: a level (error, warn, info, debug, trace), or levels by target such as "info,xds_shim=debug".
    /// It can be changed at run time by PUT /logging on the admin port
    #[arg(
        long,
        env = "LAZYMESH_LOG_LEVEL",
        default_value = "info",
        value_name = "FILTER",
        value_parser = checked,
        help_heading = "Logs"
    )]
    pub log_level: String,
    /// How log lines look
    #[arg(
        long,
        env = "LAZYMESH_LOG_FORMAT",
        default_value = "plain",
        value_enum,
        value_name = "FORMAT",
        help_heading = "Logs"
    )]
    pub log_format: Format,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// For people.
    Plain,
    /// One JSON object a line.
    Json,
}

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging to standard error.
///
/// # Errors
/// When the filter is none, or logs were set up before in this process.
pub fn init(args: &Args) -> Result<LogControl, Error> {
    let (filter, handle) = reload::Layer::new(parse(&args.log_level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match args.log_format {
        Format::Plain => lines
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()?;
    Ok(LogControl { handle })
}

impl LogControl {
    /// The filter in force.
    ///
    /// # Errors
    /// When the subscriber is gone.
    pub fn filter(&self) -> Result<String, Error> {
        Ok(self.handle.with_current(ToString::to_string)?)
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// When `filter` is none; the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), Error> {
        Ok(self.handle.reload(parse(filter)?)?)
    }
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    let filter = filter.trim();
    let bad = |reason: &str| Error::Filter {
        filter: filter.into(),
        reason: reason.into(),
    };
    if filter.is_empty() {
        return Err(bad("it is empty"));
    }
    // A bare word that is no level would be taken for a target, and silence everything else.
    let word = filter.chars().all(|c| c.is_ascii_alphanumeric());
    if word
        && filter
            .parse::<tracing_subscriber::filter::LevelFilter>()
            .is_err()
    {
        return Err(bad("no such level"));
    }
    EnvFilter::try_new(filter).map_err(|error| bad(&error.to_string()))
}

fn checked(filter: &str) -> Result<String, Error> {
    parse(filter).map(|_| filter.to_owned())
}

/// A control of no logs at all; it works for as long as the layer beside it lives.
#[cfg(test)]
pub(crate) fn detached(filter: &str) -> (LogControl, reload::Layer<EnvFilter, Registry>) {
    let (layer, handle) = reload::Layer::new(parse(filter).unwrap());
    (LogControl { handle }, layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,xds_shim=debug",
            "hyper=off,debug",
            " debug\n",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "xds_shim=loud", "=,="] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_filter_leaves_the_old_one() {
        let (control, _layer) = detached("info");
        control.set_filter("debug").unwrap();
        assert!(control.set_filter("loud").is_err());
        assert_eq!(control.filter().unwrap(), "debug");
    }
}
