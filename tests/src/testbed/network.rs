//! The mesh's network inside the sandbox: one network namespace per pod, routed through the root one, and ClusterIPs.
//!
//! Each pod has a veth pair to the root namespace and a /32 address; there is no bridge, so that every packet between
//! two pods is routed and the ClusterIP translation (kube-proxy's job, here one table in the root namespace) sees both
//! of its directions. istiod and our own parts run in the root namespace on addresses of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::process::Command;

use super::process::output;

/// ClusterIPs; the API server is told the same.
pub(super) const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The root namespace's own address.
pub(super) const ROOT: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
/// istiod's address.
pub const ISTIOD: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
/// An address of the root namespace that is on no loopback interface: istioctl looks for one to call itself by.
const CALLER: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 3);
/// On every veth's root side: the gateway each pod sees.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The user Istio's interception lets pass; Envoy and pilot-agent run as it.
pub(super) const PROXY_UID: u32 = 1337;

/// Gives the root namespace another address, for a replica of one of our own parts.
///
/// # Errors
/// When `ip` refuses.
pub(super) async fn add_part(index: u16) -> Result<Ipv4Addr> {
    let [high, low] = index.to_be_bytes();
    let address = Ipv4Addr::new(10, 21, high, low);
    output(
        Command::new("ip").args(["address", "add", &format!("{address}/32"), "dev", "lo"]),
        "",
    )
    .await?;
    Ok(address)
}

/// Sets up the root namespace.
///
/// # Errors
/// When a right or a kernel feature is missing.
pub(super) async fn set_up() -> Result<()> {
    let mut ip = String::new();
    for address in [ROOT, ISTIOD] {
        writeln!(ip, "address add {address}/32 dev lo")?;
    }
    writeln!(ip, "link add caller type veth peer name caller-peer")?;
    writeln!(ip, "address add {CALLER}/32 dev caller\nlink set caller up")?;
    // So that ClusterIPs are routable here at all; the translation happens before the route is followed.
    writeln!(ip, "route add {SERVICE_CIDR} dev lo src {ROOT}")?;
    output(Command::new("ip").args(["-batch", "-"]), &ip).await?;
    tokio::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
        .await
        .context("cannot switch on IP forwarding")?;
    // As kube-proxy does: a ClusterIP without endpoints refuses.
    let rules = format!(
        "*nat\n:SERVICES -\n:HAIRPIN -\n-A PREROUTING -j SERVICES\n-A OUTPUT -j SERVICES\n\
         -A POSTROUTING -j HAIRPIN\nCOMMIT\n\
         *filter\n-A FORWARD -d {SERVICE_CIDR} -p tcp -j REJECT --reject-with tcp-reset\n\
         -A OUTPUT -d {SERVICE_CIDR} -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n"
    );
    output(Command::new("iptables-restore").arg("--noflush"), &rules)
        .await
        .context("iptables")?;
    Ok(())
}

/// A pod's network namespace.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    /// Its name, for `ip netns`.
    pub name: String,
    /// Its only address.
    pub address: Ipv4Addr,
}

impl PodNetwork {
    /// Makes the namespace of pod number `index` (unique in the run).
    ///
    /// # Errors
    /// When `ip` refuses.
    pub async fn create(index: u16) -> Result<Self> {
        let [high, low] = index.to_be_bytes();
        // 10.20.0.0/24 is for the mesh's own parts.
        let high = high.checked_add(1).context("no pod addresses left")?;
        let pod = Self {
            name: format!("pod{index}"),
            address: Ipv4Addr::new(10, 20, high, low),
        };
        let (name, address, veth) = (&pod.name, pod.address, format!("veth{index}"));
        let outside = format!(
            "netns add {name}\nlink add name {veth} type veth peer name eth0 netns {name}\n\
             address add {GATEWAY}/32 dev {veth}\nlink set {veth} up\nroute add {address}/32 dev {veth} src {ROOT}\n"
        );
        let inside = format!(
            "link set lo up\naddress add {address}/32 dev eth0\nlink set eth0 up\n\
             route add {GATEWAY}/32 dev eth0 scope link\nroute add default via {GATEWAY}\n"
        );
        output(Command::new("ip").args(["-batch", "-"]), &outside).await?;
        output(
            Command::new("ip").args(["-n", name, "-batch", "-"]),
            &inside,
        )
        .await?;
        Ok(pod)
    }

    /// Istio's own interception rules, written by its own tool, as the `istio-init` container does.
    ///
    /// # Errors
    /// When the tool fails.
    pub async fn intercept(&self, pilot_agent: &Path, exclude_inbound: &[u16]) -> Result<()> {
        let excluded: Vec<_> = [15090, 15021, 15020]
            .iter()
            .chain(exclude_inbound)
            .map(u16::to_string)
            .collect();
        let mut command = self.command(pilot_agent);
        command.args([
            "istio-iptables",
            "-p",
            "15001",
            "-z",
            "15006",
            "-m",
            "REDIRECT",
            "-i",
            "*",
            "-x",
            "",
            "-b",
            "*",
        ]);
        command
            .arg("-u")
            .arg(PROXY_UID.to_string())
            .arg("-d")
            .arg(excluded.join(","));
        output(&mut command, "").await.context("istio-iptables")?;
        Ok(())
    }

    /// A command that will run in this namespace, as root.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path()))
            .arg("--")
            .arg(program);
        command
    }

    /// A command that will run in this namespace as the proxy's user.
    pub fn proxy_command(&self, program: &Path) -> Command {
        let mut command = self.command(Path::new("setpriv"));
        let id = PROXY_UID.to_string();
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(program);
        command
    }

    /// Connects from inside the namespace (as root, so that Istio's interception applies unless the target is on
    /// loopback).
    ///
    /// # Errors
    /// When the namespace is gone or nobody answers.
    pub async fn connect(&self, address: Ipv4Addr, port: u16) -> Result<tokio::net::TcpStream> {
        let connect = move || {
            TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(5))
                .and_then(|stream| stream.set_nonblocking(true).map(|()| stream))
        };
        Ok(tokio::net::TcpStream::from_std(
            self.inside(connect).await?,
        )?)
    }

    /// Listens inside the namespace, on all its addresses: for an application that a test plays itself.
    ///
    /// # Errors
    /// When the namespace is gone or the port is taken.
    pub async fn listen(&self, port: u16) -> Result<tokio::net::TcpListener> {
        let listen = move || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        };
        Ok(tokio::net::TcpListener::from_std(
            self.inside(listen).await?,
        )?)
    }

    /// Makes a socket inside the namespace. A namespace belongs to a thread: this one is thrown away afterwards, the
    /// socket stays where it was made.
    async fn inside<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.path();
        let (send, receive) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("netns-socket".into())
            .spawn(move || {
                let made = || -> Result<T> {
                    let namespace = std::fs::File::open(&path).with_context(|| path.clone())?;
                    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                    Ok(make()?)
                };
                // Nobody waits any more when the caller gave up.
                let _ = send.send(made());
            })?;
        receive
            .await
            .map_err(|_| anyhow!("the thread that makes the socket died"))?
    }

    /// Removes the namespace. The veth pair goes with it.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub async fn remove(&self) -> Result<()> {
        output(Command::new("ip").args(["netns", "delete", &self.name]), "").await?;
        Ok(())
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }
}

/// Where connections to ClusterIPs go: (ClusterIP, port) to (address, port) of each ready endpoint.
pub(super) type VirtualIps = BTreeMap<(Ipv4Addr, u16), Vec<(Ipv4Addr, u16)>>;

/// The `iptables-restore` text that makes the translation table be `table`, each endpoint equally likely.
pub(super) fn translation_rules(table: &VirtualIps) -> String {
    let mut rules = String::from("*nat\n:SERVICES -\n:HAIRPIN -\n");
    for ((vip, port), endpoints) in table {
        for (index, (address, target)) in endpoints.iter().enumerate() {
            let left = endpoints.len() - index;
            let chance = if left > 1 {
                format!(" -m statistic --mode nth --every {left} --packet 0")
            } else {
                String::new()
            };
            let _ = writeln!(
                rules,
                "-A SERVICES -d {vip}/32 -p tcp --dport {port}{chance} -j DNAT --to-destination {address}:{target}"
            );
        }
    }
    // A pod that meets itself through a ClusterIP must not see its own address as the source.
    for address in table
        .values()
        .flatten()
        .map(|(address, _)| address)
        .collect::<BTreeSet<_>>()
    {
        let _ = writeln!(
            rules,
            "-A HAIRPIN -s {address}/32 -d {address}/32 -j MASQUERADE"
        );
    }
    rules.push_str("COMMIT\n");
    rules
}

/// Replaces the translation table in the kernel, in one step. Connections that exist go on.
///
/// # Errors
/// When `iptables-restore` refuses.
pub(super) async fn translate(table: &VirtualIps) -> Result<()> {
    output(
        Command::new("iptables-restore").arg("--noflush"),
        &translation_rules(table),
    )
    .await
    .context("ClusterIPs")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_a_cluster_ip_share_it_equally() {
        let vip = Ipv4Addr::new(10, 96, 0, 9);
        let pods = vec![
            (Ipv4Addr::new(10, 20, 1, 1), 8080),
            (Ipv4Addr::new(10, 20, 1, 2), 8080),
        ];
        let rules = translation_rules(&VirtualIps::from([((vip, 80), pods)]));
        assert!(
            rules.starts_with("*nat\n:SERVICES -\n:HAIRPIN -\n") && rules.ends_with("COMMIT\n")
        );
        assert!(rules.contains("-d 10.96.0.9/32 -p tcp --dport 80 -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.20.1.1:8080\n"));
        assert!(rules.contains(
            "-d 10.96.0.9/32 -p tcp --dport 80 -j DNAT --to-destination 10.20.1.2:8080\n"
        ));
    }
}
