//! Flags, and the checks between them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use dependency_graph::fallback;
use graph_client::ControllerArgs;
use http::Uri;
use mesh_runtime::telemetry;

use crate::decide;
use crate::incoming::Trust;
use crate::limits::Limits;
use crate::tries;
use crate::worker::Settings;

/// The longest body of a request that is redirected: well below what the caller's Envoy keeps of it, which counts more
/// than the body's own bytes.
const BODY: usize = 60_000;
const _: () = assert!(BODY < fallback::MAX_BODY as usize);

const CONTROLLER: &str = "The lazyload controller, https://HOST:PORT, or http:// on loopback; it says what each \
                          namespace allows";

/// Carries to their destinations the requests and connections that a trimmed sidecar sends here.
///
/// It runs behind its own Istio sidecar with full config and STRICT mutual TLS. A request must name its verified
/// caller (x-forwarded-client-cert, from that sidecar) and where it was going (x-lazymesh-original-dst, from the
/// fallback route of the caller's Envoy). The lazyload controller is told of it, and once the caller's sidecar is likely
/// to have the service it is answered with a redirect that the caller's own Envoy follows; what cannot be redirected is
/// relayed under the global proxy's own identity, or refused, as the caller's namespace allows.
///
/// Connections come in tunnels that name both in the heads of CONNECT (x-lazymesh-caller, again from the sidecar). They are
/// relayed or refused: nothing can redirect them.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "global-proxy",
    version,
    mut_arg("controller", |arg| arg.env("LAZYMESH_CONTROLLER").help(CONTROLLER)),
    mut_arg("controller_ca", |arg| arg.env("LAZYMESH_CONTROLLER_CA")),
    mut_arg("controller_token", |arg| arg.env("LAZYMESH_CONTROLLER_TOKEN"))
)]
pub struct Cli {
    /// Where callers' requests arrive: HTTP/1 and HTTP/2 with prior knowledge
    #[arg(
        long,
        env = "LAZYMESH_LISTEN",
        default_value = "0.0.0.0:15080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// Where tunnels of callers arrive [default: 0.0.0.0:15081; none with --no-sidecar]
    #[arg(long, env = "LAZYMESH_TUNNEL_LISTEN", value_name = "ADDRESS")]
    pub tunnel_listen: Option<SocketAddr>,
    /// Where health, metrics and admin pages are served
    #[arg(
        long,
        env = "LAZYMESH_ADMIN_LISTEN",
        default_value = "127.0.0.1:15023",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,
    /// What is done for every namespace without a controller; with neither, every request is refused with 503
    #[arg(
        long,
        env = "LAZYMESH_POLICY",
        value_enum,
        value_name = "POLICY",
        conflicts_with = "controller"
    )]
    pub policy: Option<Policy>,
    /// Threads that carry traffic [default: one per core]
    #[arg(long, env = "LAZYMESH_WORKERS", value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,
    /// Serve without a sidecar, on loopback only: callers are not verified, and any destination goes. For tests
    #[arg(long)]
    pub no_sidecar: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub controller: ControllerArgs,
    /// How long a request is held at the most until the caller's Sidecar is written
    #[arg(long, env = "LAZYMESH_HOLD", default_value = "2s", value_name = "DURATION", value_parser = time, help_heading = "Controller")]
    pub hold: Duration,

    /// Connections of callers open at once; more are told 503
    #[arg(long, env = "LAZYMESH_MAX_CONNECTIONS", default_value_t = 10_000, value_name = "NUMBER", value_parser = at_least_one, help_heading = "Limits")]
    pub max_connections: usize,
    /// Requests under way at once, upgraded connections among them; more are told 503 with retry-after
    #[arg(long, env = "LAZYMESH_MAX_STREAMS", default_value_t = 20_000, value_name = "NUMBER", value_parser = at_least_one, help_heading = "Limits")]
    pub max_streams: usize,
    /// The part of --max-streams one caller may have, once half of them are taken
    #[arg(long, env = "LAZYMESH_MAX_SHARE", default_value_t = 0.5, value_name = "PART", value_parser = part, help_heading = "Limits")]
    pub max_share: f64,
    /// The longest head of a request, in bytes (Envoy's own limit is 60 KiB); longer ones are told 431
    #[arg(long, env = "LAZYMESH_HEADER_BYTES", default_value_t = 60 << 10, value_name = "BYTES", value_parser = header_bytes, help_heading = "Limits")]
    pub header_bytes: usize,
    /// The longest a connection to a destination takes to open
    #[arg(long, env = "LAZYMESH_CONNECT_TIMEOUT", default_value = "5s", value_name = "DURATION", value_parser = time, help_heading = "Limits")]
    pub connect_timeout: Duration,
    /// How long a connection to a destination is kept without a request
    #[arg(long, env = "LAZYMESH_IDLE", default_value = "60s", value_name = "DURATION", value_parser = time, help_heading = "Limits")]
    pub idle: Duration,
    /// How long a connection of a caller is kept without a request; Envoy closes its own after an hour
    #[arg(long, env = "LAZYMESH_CALLER_IDLE", default_value = "2h", value_name = "DURATION", value_parser = time, help_heading = "Limits")]
    pub caller_idle: Duration,
    /// How long a tunnel is kept in which nothing moves; Envoy closes its own after an hour
    #[arg(long, env = "LAZYMESH_TUNNEL_IDLE", default_value = "1h", value_name = "DURATION", value_parser = time, help_heading = "Limits")]
    pub tunnel_idle: Duration,

    /// How long callers' new connections are still taken after SIGTERM, while it is not ready any more: their Envoys hear
    /// of that a push of istiod's later
    #[arg(long, env = "LAZYMESH_DRAIN_DELAY", default_value = "5s", value_name = "DURATION", value_parser = humantime::parse_duration, help_heading = "Operation")]
    pub drain_delay: Duration,
    /// How long what is under way may take to end after that
    #[arg(long, env = "LAZYMESH_DRAIN", default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration, help_heading = "Operation")]
    pub drain: Duration,
    /// Write the bound ports there as JSON, {"http":..,"admin":..,"tunnel":..}: for tests with port 0
    #[arg(long, value_name = "FILE", help_heading = "Operation")]
    pub port_file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: telemetry::Args,
}

/// What can be done for a namespace without a controller.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Policy {
    /// Relay everything, under the global proxy's identity
    RelayOnly,
    /// Refuse what cannot be redirected: everything, without a controller
    RedirectOnly,
}

impl Cli {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// What does not go together, and what to do about it.
    pub fn check(&self) -> Result<(), String> {
        let listens = [
            ("--listen", Some(self.listen), "127.0.0.1:15080"),
            ("--tunnel-listen", self.tunnel_listen, "127.0.0.1:15081"),
        ];
        for (flag, address, good) in listens {
            if let Some(address) = address.filter(|address| !address.ip().is_loopback())
                && self.no_sidecar
            {
                return Err(format!(
                    "--no-sidecar believes anyone, so {flag} must be a loopback address, not {address} \
                     (hint: {flag} {good})"
                ));
            }
        }
        if let Some(controller) = &self.controller.address
            && !loopback_or_tls(controller)
        {
            return Err(format!(
                "--controller {controller}: a token must not travel in the clear, so without TLS only to a loopback \
                 address (hint: https://HOST:PORT and --controller-ca)"
            ));
        }
        Ok(())
    }

    /// Where tunnels arrive, if they may.
    #[must_use]
    pub fn tunnel_address(&self) -> Option<SocketAddr> {
        let usual = SocketAddr::from(([0, 0, 0, 0], 15081));
        self.tunnel_listen
            .or_else(|| (!self.no_sidecar).then_some(usual))
    }

    /// The number of workers.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        let cores = || available_parallelism().map_or(1, usize::from);
        self.workers.map_or_else(cores, usize::from)
    }

    /// What each worker goes by.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let limits = Limits {
            connections: self.max_connections,
            streams: self.max_streams,
            share: self.max_share,
        };
        Settings {
            trust: if self.no_sidecar {
                Trust::NoSidecar
            } else {
                Trust::Sidecar
            },
            policy: self.policy.map(|policy| match policy {
                Policy::RelayOnly => fallback::Policy::RelayOnly,
                Policy::RedirectOnly => fallback::Policy::RedirectOnly,
            }),
            decide: decide::Settings {
                tries: tries::MOST,
                body: BODY,
                body_wait: Duration::from_millis(100),
                hold: self.hold,
            },
            limits: limits.split(self.worker_count()),
            header_bytes: self.header_bytes,
            connect_timeout: self.connect_timeout,
            server_idle: self.idle,
            caller_idle: self.caller_idle,
            tunnel_idle: self.tunnel_idle,
        }
    }
}

/// Whether a token may be shown to the controller at this address. What is no address is left for the dialer to say.
fn loopback_or_tls(address: &str) -> bool {
    let Ok(uri) = address.parse::<Uri>() else {
        return true;
    };
    if uri.scheme_str() != Some("http") {
        return true;
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let ip = host.parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".into()),
        Ok(number) => Ok(number),
        Err(_) => Err("a whole number, at least 1".into()),
    }
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(part) if part > 0.0 && part <= 1.0 => Ok(part),
        _ => Err("above 0, at most 1".into()),
    }
}

/// hyper reads no head beyond its buffer, which is 64 KiB.
fn header_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (1024..=63 << 10).contains(&bytes) => Ok(bytes),
        _ => Err("from 1024 to 64512".into()),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let sane = Duration::from_millis(10)..=Duration::from_secs(7 * 24 * 3600);
    sane.contains(&time)
        .then_some(time)
        .ok_or_else(|| "from 10ms to 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(flags: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["global-proxy"], flags].concat())
    }

    #[test]
    fn defaults_relay_nothing_and_trust_nobody() {
        Cli::command().debug_assert();
        let cli = parse(&[]).unwrap();
        assert_eq!(cli.policy, None);
        assert!(cli.admin_listen.ip().is_loopback());
        let settings = cli.settings();
        assert_eq!(settings.trust, Trust::Sidecar);
        assert_eq!(settings.policy, None);
        assert_eq!(cli.check(), Ok(()));
    }

    #[test]
    fn without_a_sidecar_only_on_loopback() {
        let cli = parse(&["--no-sidecar"]).unwrap();
        assert!(cli.check().unwrap_err().contains("loopback"));
        let cli = parse(&["--no-sidecar", "--listen", "127.0.0.1:0"]).unwrap();
        assert_eq!(cli.check(), Ok(()));
        assert_eq!(cli.settings().trust, Trust::NoSidecar);
        let tunnels = ["--tunnel-listen", "0.0.0.0:15081"];
        let cli = parse(&[&["--no-sidecar", "--listen", "127.0.0.1:0"], &tunnels[..]].concat());
        assert!(
            cli.unwrap()
                .check()
                .unwrap_err()
                .contains("--tunnel-listen")
        );
    }

    #[test]
    fn tunnels_need_a_sidecar_or_an_address() {
        let address = |flags: &[&str]| parse(flags).unwrap().tunnel_address();
        assert_eq!(address(&[]), "0.0.0.0:15081".parse().ok());
        assert_eq!(address(&["--no-sidecar"]), None);
        let given = "127.0.0.1:0";
        let flags = ["--no-sidecar", "--tunnel-listen", given];
        assert_eq!(address(&flags), given.parse().ok());
    }

    #[test]
    fn a_token_is_not_shown_in_the_clear() {
        for good in [
            "https://controller:15020",
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "http://localhost:1",
        ] {
            let cli = parse(&["--controller", good]).unwrap();
            assert_eq!(cli.check(), Ok(()), "{good}");
        }
        let cli = parse(&["--controller", "http://controller:15020"]).unwrap();
        assert!(cli.check().unwrap_err().contains("loopback"));
        let policy = ["--policy", "relay-only"];
        let controller = ["--controller", "https://controller:15020"];
        assert!(parse(&[policy, controller].concat()).is_err());
        assert!(parse(&["--controller-token", "t"]).is_err());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for bad in [
            ["--policy", "prefer-redirect"],
            ["--workers", "0"],
            ["--max-connections", "0"],
            ["--max-streams", "many"],
            ["--max-share", "1.5"],
            ["--max-share", "0"],
            ["--header-bytes", "100"],
            ["--header-bytes", "1000000"],
            ["--connect-timeout", "0s"],
            ["--idle", "soon"],
            ["--tunnel-idle", "0s"],
            ["--listen", "nowhere"],
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn limits_are_split_between_workers() {
        let cli = parse(&["--workers", "4", "--max-streams", "100"]).unwrap();
        assert_eq!(cli.settings().limits.streams, 25);
    }
}
