//! What a seed stands for: resources, changes to them, and calls.
//!
//! Names that only a run knows are placeholders, replaced by plain text replacement when they are applied and put back
//! when outcomes are read: `$A` (the clients' namespace), `$B` (another one), `$M` (the one of the marks), `$IP_v1` and so
//! on (addresses of servers), `$CALL` (an id of the call's own).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A pod that answers for whatever service leads to it. All of them listen on the same ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// With a sidecar, labelled `version: v1`; takes mTLS and plain text.
    V1,
    /// The same, labelled `version: v2`.
    V2,
    /// Under STRICT mTLS.
    Strict,
    /// Under an AuthorizationPolicy that allows the clients' principals and no other.
    Guarded,
    /// Under an AuthorizationPolicy that denies the clients' principals.
    Refusing,
    /// Without a sidecar.
    Outside,
}

impl Server {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::V1,
        Self::V2,
        Self::Strict,
        Self::Guarded,
        Self::Refusing,
        Self::Outside,
    ];

    /// Its workload's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Strict => "strict",
            Self::Guarded => "guarded",
            Self::Refusing => "refusing",
            Self::Outside => "outside",
        }
    }

    /// The placeholder of its address.
    pub fn address(self) -> String {
        format!("$IP_{}", self.name())
    }
}

/// The pods behind a service without a selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lead {
    /// The service's namespace, a placeholder.
    pub namespace: String,
    /// The service's name.
    pub name: String,
    /// The pods; none for a service without endpoints.
    pub servers: Vec<Server>,
}

/// A Kubernetes resource of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Resource {
    /// The resource itself, with its namespace.
    pub object: Value,
    /// What is behind it, if it is a service that has endpoints to be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lead: Option<Lead>,
}

impl Resource {
    /// `Kind namespace/name`.
    pub fn name(&self) -> String {
        let text = |pointer| {
            self.object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or("?")
        };
        format!(
            "{} {}/{}",
            text("/kind"),
            text("/metadata/namespace"),
            text("/metadata/name")
        )
    }
}

/// What happens to the mesh while the clients run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Change {
    /// Comes, or becomes another one.
    Apply(Resource),
    /// Goes.
    Delete(Resource),
}

/// When a probe is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// By clients that have just started.
    Before,
    /// After the scenario's changes have reached them.
    After,
}

/// A call that both clients make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// What `mesh-app` speaks.
    pub protocol: &'static str,
    /// The authority: a name or an address, with a port or without; over TLS the name asked for.
    pub host: String,
    /// The address to connect to.
    pub address: String,
    /// The port to connect to.
    pub port: u16,
    /// The path with its query.
    pub path: String,
    /// The method.
    pub method: &'static str,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// How many bytes of body.
    pub body: usize,
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            protocol,
            host,
            address,
            port,
            path,
            method,
            headers,
            body,
        } = self;
        write!(f, "{method} {protocol}://{host}{path} at {address}:{port}")?;
        for (name, value) in headers {
            write!(f, " {name}:{value}")?;
        }
        if *body > 0 {
            write!(f, " +{body} bytes")?;
        }
        Ok(())
    }
}

/// All that a seed makes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// What there is before the clients start, in the order in which it is made.
    pub resources: Vec<Resource>,
    /// What changes while they run.
    pub changes: Vec<Change>,
    /// The calls, in their order.
    pub probes: Vec<Probe>,
    /// What of each kind it has: which of the things that are to be tried this seed tries.
    #[serde(skip)]
    pub features: BTreeSet<String>,
}

impl Scenario {
    /// For a reader: resources, changes and probes, one a line.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let lead = |resource: &Resource| {
            let lead = resource.lead.as_ref().map(|lead| &lead.servers);
            lead.map_or_else(String::new, |servers| format!("  # leads to {servers:?}"))
        };
        for resource in &self.resources {
            let _ = writeln!(text, "    - {}{}", resource.object, lead(resource));
        }
        for change in &self.changes {
            let _ = match change {
                Change::Apply(resource) => {
                    writeln!(text, "    change: + {}{}", resource.object, lead(resource))
                }
                Change::Delete(resource) => writeln!(text, "    change: - {}", resource.name()),
            };
        }
        for probe in &self.probes {
            let _ = writeln!(text, "    probe: {probe}");
        }
        text
    }
}
