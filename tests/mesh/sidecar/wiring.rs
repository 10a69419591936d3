//! Where an Envoy sends a call, read off its config dump: listener, filter chain, virtual host and route are picked as
//! Envoy picks them. What is met that is not known here is an error, so that nothing is passed over.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::testbed::Pod;
use regex::Regex;
use serde_json::Value;

/// Where a call goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Goes {
    /// To a cluster.
    To(String),
    /// To the global proxy, as a request.
    Redirected,
    /// To the global proxy, in a tunnel.
    Tunnelled,
    /// Nowhere: the connection is closed, or the request answered with 502, whichever the port has.
    Refused,
}

/// What comes over a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Speaks<'a> {
    /// HTTP/1.1, a GET of `/` with this `:authority`.
    Http(&'a str),
    /// Something else, or nothing before the server has spoken.
    Bytes,
}

/// The outbound part of a sidecar's config.
pub(super) struct Config {
    listeners: Vec<Value>,
    routes: BTreeMap<String, Value>,
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Config {
    /// What a pod's Envoy has now.
    pub(super) async fn of(pod: &Pod) -> Result<Self> {
        let dump = pod.envoy().await?.config_dump().await?;
        let (mut listeners, mut routes) = (Vec::new(), BTreeMap::new());
        for config in list(&dump["configs"]) {
            for listener in list(&config["dynamic_listeners"]) {
                let listener = &listener["active_state"]["listener"];
                if listener["traffic_direction"] == "OUTBOUND" {
                    listeners.push(listener.clone());
                }
            }
            for route in list(&config["dynamic_route_configs"]) {
                let route = &route["route_config"];
                routes.insert(text(&route["name"]).to_owned(), route.clone());
            }
        }
        ensure!(!listeners.is_empty(), "no outbound listener");
        Ok(Self { listeners, routes })
    }

    /// The ports that have a listener, for all addresses or for one.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.sockets().map(|(_, port)| port)
    }

    /// Whether there is a listener for a port of all addresses.
    pub(super) fn shares(&self, port: u16) -> bool {
        let all = (Ipv4Addr::UNSPECIFIED, port);
        self.sockets().any(|socket| socket == all)
    }

    fn sockets(&self) -> impl Iterator<Item = (Ipv4Addr, u16)> {
        let named = self.listeners.iter();
        let named = named.filter(|listener| listener["name"] != "virtualOutbound");
        named.filter_map(socket)
    }

    /// The domains of all virtual hosts that HTTP connections are matched with.
    pub(super) fn domains(&self) -> impl Iterator<Item = &str> {
        let hosts = self.routes.values();
        let hosts = hosts.flat_map(|routes| list(&routes["virtual_hosts"]));
        hosts.flat_map(|host| list(&host["domains"])).map(text)
    }

    /// Where a call to this address goes.
    pub(super) fn resolve(&self, to: SocketAddrV4, speaks: Speaks<'_>) -> Result<Goes> {
        let chain = self.chain(to, speaks)?;
        let filter = list(&chain["filters"]).last();
        let filter = &filter.context("a chain without filters")?["typed_config"];
        let kind = text(&filter["@type"]).rsplit('.').next();
        match (kind, speaks) {
            (Some("HttpConnectionManager"), Speaks::Http(authority)) => {
                self.request(filter, authority)
            }
            (Some("TcpProxy"), _) if chain["name"] == "lazymesh-tcp" => Ok(Goes::Tunnelled),
            (Some("TcpProxy"), _) if filter["cluster"] == "BlackHoleCluster" => Ok(Goes::Refused),
            (Some("TcpProxy"), _) => Ok(Goes::To(text(&filter["cluster"]).to_owned())),
            _ => bail!("{speaks:?} to {to} meets {filter}"),
        }
    }

    fn chain(&self, to: SocketAddrV4, speaks: Speaks<'_>) -> Result<&Value> {
        let find = |address: Ipv4Addr| {
            let mut listeners = self.listeners.iter();
            listeners.find(|listener| socket(listener) == Some((address, to.port())))
        };
        let all = |listener: &&Value| listener["name"] == "virtualOutbound";
        let listener = find(*to.ip())
            .or_else(|| find(Ipv4Addr::UNSPECIFIED))
            .or_else(|| self.listeners.iter().find(all))
            .context("no virtualOutbound")?;
        let mut best: Option<(Rank, &Value)> = None;
        for chain in list(&listener["filter_chains"]) {
            let rank = rank(&chain["filter_chain_match"], to, speaks)?;
            if let Some(rank) = rank
                && best.is_none_or(|(before, _)| rank > before)
            {
                best = Some((rank, chain));
            }
        }
        let default = &listener["default_filter_chain"];
        let default = (!default.is_null()).then_some(default);
        let found = best.map(|(_, chain)| chain).or(default);
        found.with_context(|| format!("no chain of {} takes {to}", listener["name"]))
    }

    fn request(&self, manager: &Value, authority: &str) -> Result<Goes> {
        let name = text(&manager["rds"]["route_config_name"]);
        let routes = match &manager["route_config"] {
            Value::Null => self.routes.get(name).with_context(|| name.to_owned())?,
            inline => inline,
        };
        let Some(host) = virtual_host(routes, authority)? else {
            bail!("no virtual host takes {authority}");
        };
        for route in list(&host["routes"]) {
            if !matches(&route["match"], authority)? {
                continue;
            }
            if route["name"] == "lazymesh" {
                return Ok(Goes::Redirected);
            }
            if route["direct_response"]["status"] == 502 {
                return Ok(Goes::Refused);
            }
            let cluster = route["route"]["cluster"].as_str();
            let cluster = cluster.with_context(|| format!("a route without cluster: {route}"))?;
            return Ok(Goes::To(cluster.to_owned()));
        }
        bail!("no route of {} takes {authority}", host["name"])
    }
}

fn socket(listener: &Value) -> Option<(Ipv4Addr, u16)> {
    let socket = &listener["address"]["socket_address"];
    let address = text(&socket["address"]).parse().ok()?;
    let port = socket["port_value"].as_u64()?.try_into().ok()?;
    Some((address, port))
}

/// How exactly a chain matches, in the order in which Envoy looks: by port, by address, by protocol.
type Rank = (bool, Option<u64>, bool);

/// None for a chain that does not match.
fn rank(of: &Value, to: SocketAddrV4, speaks: Speaks<'_>) -> Result<Option<Rank>> {
    let mut rank: Rank = (false, None, false);
    for (what, value) in of.as_object().into_iter().flatten() {
        let found = match what.as_str() {
            "destination_port" => {
                rank.0 = true;
                value.as_u64() == Some(to.port().into())
            }
            "prefix_ranges" => {
                rank.1 = list(value)
                    .filter_map(|range| covers(range, *to.ip()))
                    .max();
                rank.1.is_some()
            }
            "transport_protocol" => value == "raw_buffer",
            // None is said without TLS.
            "server_names" => false,
            "application_protocols" => {
                rank.2 = true;
                let http = matches!(speaks, Speaks::Http(_));
                http && list(value).any(|protocol| protocol == "http/1.1")
            }
            other => bail!("{other} in a filter chain's match"),
        };
        if !found {
            return Ok(None);
        }
    }
    Ok(Some(rank))
}

/// The length of a prefix that an address has.
fn covers(range: &Value, address: Ipv4Addr) -> Option<u64> {
    let prefix: Ipv4Addr = text(&range["address_prefix"]).parse().ok()?;
    let length = range["prefix_len"].as_u64().unwrap_or(0);
    let rest = 32 - u32::try_from(length).ok()?;
    let head = |address: Ipv4Addr| u32::from(address).checked_shr(rest).unwrap_or(0);
    (head(prefix) == head(address)).then_some(length)
}

fn virtual_host<'a>(routes: &'a Value, authority: &str) -> Result<Option<&'a Value>> {
    ensure!(routes["vhost_header"].is_null(), "a vhost_header");
    let mut host = authority.to_ascii_lowercase();
    if routes["ignore_port_in_host_matching"] == true
        && let Some((name, port)) = host.rsplit_once(':')
        && port.bytes().all(|c| c.is_ascii_digit())
    {
        host = name.to_owned();
    }
    // An exact domain wins, then the longest ending, then the longest beginning, then all.
    let rank = |domain: &str| {
        let longer = |rest: Option<&str>| rest.is_some_and(|rest| !rest.is_empty());
        if domain == "*" {
            return Some((0, 0));
        }
        if let Some(tail) = domain.strip_prefix('*') {
            return longer(host.strip_suffix(tail)).then_some((2, tail.len()));
        }
        if let Some(head) = domain.strip_suffix('*') {
            return longer(host.strip_prefix(head)).then_some((1, head.len()));
        }
        (domain.to_ascii_lowercase() == host).then_some((3, 0))
    };
    let hosts = list(&routes["virtual_hosts"]);
    let ranked = hosts.filter_map(|one| {
        let domains = list(&one["domains"]).map(text);
        Some((domains.filter_map(rank).max()?, one))
    });
    Ok(ranked.max_by_key(|(rank, _)| *rank).map(|(_, host)| host))
}

/// Whether a route takes a GET of `/`.
fn matches(of: &Value, authority: &str) -> Result<bool> {
    let path = match (of["prefix"].as_str(), of["path"].as_str()) {
        (Some(prefix), None) => "/".starts_with(prefix),
        (None, Some(path)) => path == "/",
        _ => bail!("a match by {of}"),
    };
    if !path {
        return Ok(false);
    }
    for header in list(&of["headers"]) {
        let value = (header["name"] == ":authority").then_some(authority);
        let string = &header["string_match"];
        let found = if let Some(regex) = string["safe_regex"]["regex"].as_str() {
            let regex = Regex::new(&format!("^(?:{regex})$"))?;
            value.is_some_and(|value| regex.is_match(value))
        } else if let Some(exact) = string["exact"].as_str() {
            value == Some(exact)
        } else if let Some(present) = header["present_match"].as_bool() {
            value.is_some() == present
        } else {
            bail!("a header is matched by {header}")
        };
        if found == (header["invert_match"] == true) {
            return Ok(false);
        }
    }
    Ok(true)
}
