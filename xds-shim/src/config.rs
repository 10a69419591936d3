//! Flags, and the checks between them.

use crate::listener::Hold;
use clap::Parser;
use dependency_graph::Mode;
use graph_client::ControllerArgs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

const CONTROLLER: &str = "The lazyload controller, https://HOST:PORT; without one nothing is trimmed unless \
                          --default-mode says so";

/// Relays xDS between istiod and sidecars, and gives each sidecar only what its workload uses.
///
/// A sidecar gets an on-demand config when its namespace (or its pod template) is labelled
/// lazymesh.dev/mode=on-demand; every other proxy gets all that istiod sends, byte for byte.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "xds-shim",
    version,
    mut_arg("controller", |arg| arg.env("CONTROLLER").help(CONTROLLER)),
    mut_arg("controller_ca", |arg| arg.env("CONTROLLER_CA")),
    mut_arg("controller_token", |arg| arg.env("CONTROLLER_TOKEN"))
)]
pub struct Config {
    /// Where proxies connect
    #[arg(
        long,
        env = "LISTEN",
        default_value = "0.0.0.0:15012",
        value_name = "ADDR:PORT"
    )]
    pub listen: SocketAddr,
    /// The shim's certificate chain (PEM), good for the discovery address of pods; followed when it changes
    #[arg(
        long,
        env = "TLS_CERT",
        value_name = "FILE",
        requires = "tls_key",
        conflicts_with = "plaintext",
        required_unless_present = "plaintext"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM)
    #[arg(long, env = "TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Take proxies without TLS: tokens travel in the clear, so for tests only
    #[arg(long)]
    pub plaintext: bool,

    /// istiod's secure gRPC address
    #[arg(
        long,
        env = "UPSTREAM",
        default_value = "istiod.istio-system.svc:15012",
        value_name = "HOST:PORT",
        help_heading = "istiod"
    )]
    pub upstream: String,
    /// Roots that istiod's certificate is verified with (PEM): the ConfigMap istio-ca-root-cert
    #[arg(
        long,
        env = "UPSTREAM_CA",
        value_name = "FILE",
        conflicts_with = "upstream_plaintext",
        required_unless_present = "upstream_plaintext",
        help_heading = "istiod"
    )]
    pub upstream_ca: Option<PathBuf>,
    /// The name istiod's certificate must be good for, if not the host of --upstream
    #[arg(
        long,
        env = "UPSTREAM_SERVER_NAME",
        value_name = "NAME",
        requires = "upstream_ca",
        help_heading = "istiod"
    )]
    pub upstream_server_name: Option<String>,
    /// Connect to istiod without TLS: for tests only
    #[arg(long, help_heading = "istiod")]
    pub upstream_plaintext: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub controller: ControllerArgs,
    /// How long after its start the shim waits for the controller's first word, before it goes by --default-mode
    #[arg(long, env = "CONTROLLER_WAIT", default_value = "10s", value_name = "DURATION", value_parser = humantime::parse_duration, help_heading = "Controller")]
    pub controller_wait: Duration,

    /// The mode of namespaces without the label: off or on-demand
    #[arg(long, env = "DEFAULT_MODE", default_value = "off", value_name = "MODE", value_parser = default_mode, help_heading = "On demand")]
    pub default_mode: Mode,
    /// How long Envoy holds a first request or connection at the most
    #[arg(long, env = "ON_DEMAND_TIMEOUT", default_value = "5s", value_name = "DURATION", value_parser = hold, help_heading = "On demand")]
    pub on_demand_timeout: Duration,

    /// What a lazy sidecar does not get until it is used. Proxies take up a change when they connect again
    #[arg(
        long,
        env = "HOLD",
        value_enum,
        default_value_t,
        value_name = "WHAT",
        help_heading = "On demand"
    )]
    pub hold: Hold,

    /// Health, metrics and debug pages
    #[arg(long, env = "ADMIN_LISTEN", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15014), value_name = "ADDR:PORT", help_heading = "Operation")]
    pub admin_listen: SocketAddr,
    /// How long open calls may take to end after SIGTERM
    #[arg(long, env = "DRAIN_TIMEOUT", default_value = "10s", value_name = "DURATION", value_parser = humantime::parse_duration, help_heading = "Operation")]
    pub drain_timeout: Duration,
    /// Write the bound ports there as JSON, {"xds":..,"admin":..}: for tests with port 0
    #[arg(long, value_name = "FILE", help_heading = "Operation")]
    pub port_file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub log: mesh_runtime::telemetry::Args,
}

fn default_mode(text: &str) -> Result<Mode, String> {
    match text.parse() {
        Ok(mode @ (Mode::Off | Mode::OnDemand)) => Ok(mode),
        _ => Err("off or on-demand (the other modes are set by label)".into()),
    }
}

fn hold(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    let sane = Duration::from_millis(100)..=Duration::from_secs(300);
    sane.contains(&time)
        .then_some(time)
        .ok_or_else(|| "from 100ms to 5m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(flags: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from([&["xds-shim"], flags].concat())
    }

    const PLAIN: [&str; 2] = ["--plaintext", "--upstream-plaintext"];

    #[test]
    fn the_flags_hold_together() {
        Config::command().debug_assert();
        let config = parse(&PLAIN).unwrap();
        assert_eq!(config.default_mode, Mode::Off);
        assert_eq!(config.on_demand_timeout, Duration::from_secs(5));
        assert!(config.admin_listen.ip().is_loopback());
    }

    #[test]
    fn tls_is_not_left_out_by_accident() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--plaintext"]).is_err());
        assert!(parse(&["--tls-cert", "c", "--upstream-plaintext"]).is_err());
        assert!(parse(&["--tls-cert", "c", "--tls-key", "k", "--upstream-ca", "r"]).is_ok());
        assert!(
            parse(&[
                "--plaintext",
                "--tls-cert",
                "c",
                "--tls-key",
                "k",
                "--upstream-ca",
                "r"
            ])
            .is_err()
        );
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let with = |extra: &[&str]| parse(&[&PLAIN, extra].concat());
        assert!(with(&["--default-mode", "on-demand"]).is_ok());
        assert_eq!(with(&[]).unwrap().hold, Hold::All);
        assert_eq!(with(&["--hold", "clusters"]).unwrap().hold, Hold::Clusters);
        for bad in [
            ["--default-mode", "sidecar"],
            ["--default-mode", "lazy"],
            ["--on-demand-timeout", "1ms"],
            ["--on-demand-timeout", "1h"],
            ["--on-demand-timeout", "soon"],
            ["--listen", "nowhere"],
            ["--controller-token", "t"],
        ] {
            assert!(with(&bad).is_err(), "{bad:?}");
        }
    }
}
