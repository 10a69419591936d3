//! The network in the sandbox: the machine itself, where control plane, shim and all endpoints are, and one network
//! namespace per pod, with the interception of Istio.

use crate::process::run;
use anyhow::{Context, Result};
use mesh_tests::embedded::listeners::{INBOUND_PORT, OUTBOUND_PORT};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use tokio::process::Command;

/// The machine's own address: control plane, shim and controller listen there.
pub(crate) const MACHINE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
/// All endpoints' addresses are the machine's, too.
const ENDPOINTS: &str = "10.128.0.0/10";
/// The router that pods see.
const GATEWAY: &str = "169.254.1.1";
/// What marks Envoy's own connections, so that interception lets them pass. (Istio tells them by Envoy's user, but an
/// ordinary user has only one in a namespace of its own. The number is Istio's for its TPROXY mode.)
pub(crate) const PROXY_MARK: u32 = 1337;

/// Whether what comes from one pod for another is passed on.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Gives the machine its addresses, and makes it the router between pods.
///
/// # Errors
/// When a right is missing.
pub(crate) async fn set_up() -> Result<()> {
    std::fs::write(FORWARDING, "1").context(FORWARDING)?;
    ip(&format!("address add {MACHINE}/32 dev lo")).await?;
    ip(&format!("route add local {ENDPOINTS} dev lo")).await
}

/// A pod's network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// The name of the namespace.
    pub(crate) name: String,
    /// The pod's address.
    pub(crate) address: Ipv4Addr,
}

impl Pod {
    /// The address of pod number `index`.
    pub(crate) fn address(index: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 20, 1, index)
    }

    /// Makes the namespace of pod number `index`, wires it to the machine, and sends what leaves it through
    /// `OUTBOUND_PORT`, and what comes through `INBOUND_PORT`.
    ///
    /// # Errors
    /// When a right is missing, or iptables.
    pub(crate) async fn create(index: u8, name: &str) -> Result<Self> {
        let address = Self::address(index);
        let pod = Self {
            name: name.to_owned(),
            address,
        };
        let veth = format!("veth{index}");
        ip(&format!("netns add {name}")).await?;
        ip(&format!(
            "link add name {veth} type veth peer name eth0 netns {name}"
        ))
        .await?;
        ip(&format!("address add {GATEWAY}/32 dev {veth}")).await?;
        ip(&format!("link set {veth} up")).await?;
        ip(&format!("route add {address}/32 dev {veth} src {MACHINE}")).await?;
        for inside in [
            "link set lo up".to_owned(),
            format!("address add {address}/32 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add {GATEWAY}/32 dev eth0 scope link"),
            format!("route add default via {GATEWAY}"),
        ] {
            ip(&format!("-n {name} {inside}")).await?;
        }
        for rule in [
            // What Envoy hands to the pod's own program.
            "OUTPUT -s 127.0.0.6/32 -j RETURN".to_owned(),
            format!(
                "OUTPUT -p tcp ! -d 127.0.0.0/8 -m mark ! --mark {PROXY_MARK} -j REDIRECT --to-ports {OUTBOUND_PORT}"
            ),
            format!("PREROUTING -p tcp -j REDIRECT --to-ports {INBOUND_PORT}"),
        ] {
            let rule = format!("-t nat -A {rule}");
            run(pod.command("iptables").args(rule.split(' '))).await?;
        }
        Ok(pod)
    }

    /// A command that will run in the namespace.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// The file that stands for the namespace.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

async fn ip(arguments: &str) -> Result<()> {
    run(Command::new("ip").args(arguments.split(' '))).await
}
