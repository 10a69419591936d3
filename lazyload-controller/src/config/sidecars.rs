//! Flags of the mode `sidecar`.

use std::time::Duration;

use clap::ValueEnum;
use ipnet::IpNet;

use super::{StoreKind, duration, positive};
use crate::mesh::Name;
use crate::plan::Settings;
use crate::plan::actions::Pace;
use crate::sidecars::Choices;

/// Whether the mode `sidecar` is acted on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Switch {
    /// Where the mesh can be seen: with --store kubernetes, and with --store file:DIR in its subfolder mesh.
    Auto,
    /// Yes; not possible with --store memory.
    On,
    /// No: nothing of the mesh is watched or written.
    Off,
}

/// Flags of the mode `sidecar`.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Mode sidecar")]
pub struct SidecarArgs {
    /// Whether namespaces in mode sidecar are acted on. What was written stays when this is turned off: opt out first
    #[arg(
        long,
        env = "LAZYMESH_SIDECARS",
        default_value = "auto",
        value_name = "WHEN"
    )]
    pub sidecars: Switch,
    /// The controller's own namespace, where the Lease lazymesh-controller says which replica writes
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "lazymesh-system",
        value_name = "NAMESPACE"
    )]
    pub namespace: String,
    /// The only namespaces that the mode is acted on in; may be given several times. Without it, all
    #[arg(
        long = "sidecar-namespace",
        env = "LAZYMESH_SIDECAR_NAMESPACE",
        value_name = "NAMESPACE",
        value_delimiter = ','
    )]
    pub only: Vec<String>,
    /// The Service of the global proxy
    #[arg(
        long,
        env = "LAZYMESH_GLOBAL_PROXY_SERVICE",
        default_value = "lazymesh-system/global-proxy",
        value_name = "NAMESPACE/NAME",
        value_parser = name
    )]
    pub global_proxy_service: Name,
    /// The port of that Service which takes tunnels
    #[arg(
        long,
        env = "LAZYMESH_TUNNEL_PORT",
        default_value_t = 15009,
        value_name = "PORT"
    )]
    pub tunnel_port: u16,
    /// What Kubernetes' DNS appends to the names of services
    #[arg(
        long,
        env = "LAZYMESH_CLUSTER_DOMAIN",
        default_value = "cluster.local",
        value_name = "DOMAIN"
    )]
    pub cluster_domain: String,
    /// The ConfigMap with Istio's mesh config
    #[arg(
        long,
        env = "LAZYMESH_MESH_CONFIG",
        default_value = "istio-system/istio",
        value_name = "NAMESPACE/NAME",
        value_parser = name
    )]
    pub mesh_config: Name,
    /// A range of services' addresses, where Kubernetes has no ServiceCIDR resources; may be given several times. While
    /// none is known, what is not HTTP stays in every Sidecar
    #[arg(
        long = "service-cidr",
        env = "LAZYMESH_SERVICE_CIDR",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub service_cidrs: Vec<IpNet>,
    /// A host that every Sidecar has; "*.NAME" stands for all below it. May be given several times
    #[arg(
        long = "always-host",
        env = "LAZYMESH_ALWAYS_HOST",
        value_name = "HOST",
        value_delimiter = ','
    )]
    pub always: Vec<String>,
    /// How many hosts a Sidecar may have beside those that all have; calls to what is learned beyond that go by the
    /// fallback
    #[arg(
        long,
        env = "LAZYMESH_MAX_HOSTS",
        default_value_t = 2000,
        value_name = "NUMBER"
    )]
    pub max_hosts: usize,
    /// The time between the two steps in which a Sidecar grows. It must be longer than istiod gathers changes
    /// (PILOT_DEBOUNCE_AFTER, 100ms): else calls fail at that moment
    #[arg(long, env = "LAZYMESH_SIDECAR_STEP", default_value = "130ms", value_name = "DURATION", value_parser = positive)]
    pub sidecar_step: Duration,
    /// How long after an EnvoyFilter was made the first Sidecar that needs it is: until then its proxies must have it. As long
    /// the first Sidecar of a workload that settles has the clusters of the whole mesh
    #[arg(long, env = "LAZYMESH_FALLBACK_SETTLES", default_value = "3s", value_name = "DURATION", value_parser = duration)]
    pub fallback_settles: Duration,
    /// How long an EnvoyFilter outlives the last Sidecar that needed it
    #[arg(long, env = "LAZYMESH_FALLBACK_LINGERS", default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub fallback_lingers: Duration,
    /// After which time without anything new learned a workload of mode on-demand gets a Sidecar too, so that istiod stops
    /// generating the rest; a record's spec.settleAfter wins. Default: never, as 0s
    #[arg(
        long,
        env = "LAZYMESH_SETTLE_AFTER",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub settle_after: Option<Duration>,
    /// How many Sidecars, EnvoyFilters and conditions are written a second at most; half as many at once
    #[arg(long, env = "LAZYMESH_SIDECAR_WRITES", default_value_t = 50, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub sidecar_writes: u32,
}

impl SidecarArgs {
    /// Whether the mode is acted on.
    ///
    /// # Errors
    /// A line that says what does not go together.
    pub fn enabled(&self, store: &StoreKind) -> Result<bool, String> {
        let able = self.sidecars != Switch::Off && *store != StoreKind::Memory;
        if self.settle_after.is_some_and(|after| !after.is_zero()) && !able {
            let why = "--settle-after needs the mesh to be watched (hint: not --sidecars off, nor --store memory)";
            return Err(why.into());
        }
        match (self.sidecars, *store != StoreKind::Memory) {
            (Switch::Off, _) | (Switch::Auto, false) => Ok(false),
            (Switch::Auto | Switch::On, true) => Ok(true),
            (Switch::On, false) => {
                Err("--sidecars on needs --store kubernetes or --store file:DIR".into())
            }
        }
    }

    /// What the operator chose.
    #[must_use]
    pub fn choices(&self) -> Choices {
        let always = self.always.iter().map(|host| host.to_ascii_lowercase());
        Choices {
            settings: Settings {
                global_proxy: self.global_proxy_service.clone(),
                tunnel_port: self.tunnel_port,
                service_cidrs: self.service_cidrs.iter().map(IpNet::trunc).collect(),
                always: always.collect(),
                max_hosts: self.max_hosts,
                settle_after: self.settle_after,
            },
            pace: Pace {
                step: self.sidecar_step,
                settled: self.fallback_settles,
                linger: self.fallback_lingers,
            },
            only: self.only.iter().cloned().collect(),
        }
    }
}

fn name(text: &str) -> Result<Name, &'static str> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(Name::new(namespace, name))
        }
        _ => Err("it must be NAMESPACE/NAME"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::Cli;

    fn parse(flags: &[&str]) -> Result<crate::config::Serve, String> {
        let all = ["x", "--plaintext", "--listen", "127.0.0.1:0"];
        let parsed = Cli::try_parse_from([&all[..], flags].concat());
        parsed
            .map(|cli| cli.serve)
            .map_err(|error| error.to_string())
    }

    fn enabled(flags: &[&str]) -> Result<bool, String> {
        let serve = parse(flags)?;
        serve.sidecars.enabled(&serve.store)
    }

    #[test]
    fn acts_by_default_where_there_is_a_mesh_and_can_be_turned_off() {
        assert_eq!(enabled(&[]), Ok(true));
        assert_eq!(enabled(&["--sidecars", "off"]), Ok(false));
        assert_eq!(enabled(&["--store", "memory"]), Ok(false));
        let wrong = enabled(&["--store", "memory", "--sidecars", "on"]);
        assert!(wrong.unwrap_err().contains("--store kubernetes"));
    }

    #[test]
    fn what_is_to_settle_needs_sidecars() {
        let after = |time: &str| parse(&["--settle-after", time]).unwrap().sidecars.choices();
        assert_eq!(
            after("24h").settings.settle_after,
            Some(Duration::from_secs(86_400))
        );
        assert_eq!(
            parse(&[]).unwrap().sidecars.choices().settings.settle_after,
            None
        );
        for without in [["--sidecars", "off"], ["--store", "memory"]] {
            let flags = [&without[..], &["--settle-after", "24h"]].concat();
            assert!(enabled(&flags).unwrap_err().contains("--settle-after"));
            let flags = [&without[..], &["--settle-after", "0s"]].concat();
            assert_eq!(enabled(&flags), Ok(false));
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_decisions() {
        let choices = parse(&[]).unwrap().sidecars.choices();
        assert_eq!(choices.pace, Pace::default());
        assert!(choices.only.is_empty());
        let proxy = Name::new("lazymesh-system", "global-proxy");
        assert_eq!(choices.settings.global_proxy, proxy);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flags in [
            ["--sidecar-step", "0s"],
            ["--global-proxy-service", "global-proxy"],
            ["--service-cidr", "10.96.0.1"],
            ["--sidecar-writes", "0"],
        ] {
            assert!(parse(&flags).is_err(), "{flags:?}");
        }
        let flags = ["--service-cidr", "10.96.7.1/16,fd00::/108"];
        let cidrs = parse(&flags)
            .unwrap()
            .sidecars
            .choices()
            .settings
            .service_cidrs;
        assert_eq!(cidrs[0].to_string(), "10.96.0.0/16");
        assert_eq!(cidrs.len(), 2);
    }
}
