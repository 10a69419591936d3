//! Which authorities may be names of the mesh: those a stand-in must catch, and no others.
//!
//! istiod gives a Kubernetes service the domains `name.ns.svc.<domain>` (with or without a trailing dot), `name.ns.svc`
//! and `name.ns`, in its own namespace `name` too, its addresses, and for a headless service all names below those. The
//! cover has every one of them for services that exist and for those yet to come, and as little else as can be said
//! without a list of services. Whoever answers for the rest knows the services.
//!
//! One cover is said in two ways: as domains of Envoy's virtual hosts, and as regular expressions for `:authority`. The
//! latter mean what [`Cover::matches`] says, and domains that as well as they can. Hosts of ServiceEntries are not in it: sidecars are never left without those.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::IpNet;

/// A sort of host, without a port, in lower case.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Pattern {
    /// Any one label, such as `reviews`. A domain of Envoy's cannot say that: whoever writes domains takes the names of
    /// the services in the own namespace for it.
    Label,
    /// Whatever ends with this and is longer; Envoy's domain is `*` and this.
    Suffix(String),
    /// An IPv4 address that begins with this. Envoy's domain is this and `*`, which takes names as well, such as
    /// `10.96.0.1.example.com`.
    Address(String),
    /// Whatever begins with this and is longer; Envoy's domain is this and `*`.
    Prefix(String),
    /// This.
    Exact(String),
}

/// What may be a name of the mesh, seen from any workload of one namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cover {
    patterns: BTreeSet<Pattern>,
}

/// The longest regular expression written. Istio's bootstrap lets Envoy take programs of 32768 instructions.
const MAX_REGEX: usize = 8192;

impl Cover {
    /// The cover of a mesh. `namespaces`: all there are. `headless`: the headless services of the own namespace, by
    /// name. `cluster_domain`: such as `cluster.local`. `cidrs`: where services' addresses are from.
    #[must_use]
    pub fn of<'a>(
        namespaces: impl IntoIterator<Item = &'a str>,
        headless: impl IntoIterator<Item = &'a str>,
        cluster_domain: &str,
        cidrs: &[IpNet],
    ) -> Self {
        let domain = cluster_domain.trim_matches('.').to_ascii_lowercase();
        let mut patterns = BTreeSet::from([
            Pattern::Label,
            Pattern::Suffix(".svc".to_owned()),
            Pattern::Suffix(format!(".svc.{domain}")),
            Pattern::Suffix(format!(".svc.{domain}.")),
        ]);
        for name in namespaces.into_iter().chain(headless) {
            patterns.insert(Pattern::Suffix(format!(".{}", name.to_ascii_lowercase())));
        }
        for cidr in cidrs {
            match cidr {
                IpNet::V4(cidr) => octets(*cidr, &mut patterns),
                // One address can be written in many ways; in brackets it is an address in any case.
                IpNet::V6(_) => {
                    patterns.insert(Pattern::Prefix("[".to_owned()));
                }
            }
        }
        Self { patterns }
    }

    /// Whether an authority (a host, perhaps with a port, in any case of letters) is covered.
    #[must_use]
    pub fn matches(&self, authority: &str) -> bool {
        let authority = authority.to_ascii_lowercase();
        let hosts = [Some(authority.as_str()), without_port(&authority)];
        hosts.into_iter().flatten().any(|host| {
            let mut patterns = self.patterns.iter();
            patterns.any(|pattern| pattern.matches(host))
        })
    }

    /// As domains of a virtual host, in order.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.patterns.iter()
    }

    /// As regular expressions of RE2 for the whole of `:authority`: one of them matches. Several only if one would be
    /// too long for Envoy.
    #[must_use]
    pub fn authority_regexes(&self) -> Vec<String> {
        const OPEN: &str = "(?is)(?:";
        const CLOSE: &str = ")(?::[0-9]+)?";
        let mut all = Vec::new();
        let mut one = OPEN.to_owned();
        // Suffixes by far outnumber the rest; said together they need the wildcard once.
        let mut open_suffixes = false;
        for pattern in &self.patterns {
            let piece = match pattern {
                Pattern::Label => r"[^.:\[\]]+".to_owned(),
                Pattern::Suffix(tail)
                | Pattern::Address(tail)
                | Pattern::Prefix(tail)
                | Pattern::Exact(tail) => escape(tail),
            };
            if one.len() + piece.len() + CLOSE.len() + 8 > MAX_REGEX {
                if open_suffixes {
                    one.push(')');
                }
                all.push(one + CLOSE);
                one = OPEN.to_owned();
                open_suffixes = false;
            }
            let is_suffix = matches!(pattern, Pattern::Suffix(_));
            if open_suffixes && !is_suffix {
                one.push(')');
                open_suffixes = false;
            }
            if !one.ends_with("(?:") {
                one.push('|');
            }
            match pattern {
                Pattern::Suffix(_) if open_suffixes => one.push_str(&piece),
                Pattern::Suffix(_) => {
                    one.push_str(".+(?:");
                    one.push_str(&piece);
                    open_suffixes = true;
                }
                Pattern::Address(_) => {
                    let _ = write!(one, "{piece}[0-9.]+");
                }
                Pattern::Prefix(_) => {
                    let _ = write!(one, "{piece}.+");
                }
                Pattern::Label | Pattern::Exact(_) => one.push_str(&piece),
            }
        }
        if open_suffixes {
            one.push(')');
        }
        all.push(one + CLOSE);
        all
    }
}

impl Pattern {
    /// Whether a host, without a port and in lower case, is of this sort.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        let longer = |rest: Option<&str>| rest.is_some_and(|rest| !rest.is_empty());
        match self {
            Self::Label => !host.is_empty() && !host.contains(['.', ':', '[', ']']),
            Self::Suffix(tail) => longer(host.strip_suffix(tail.as_str())),
            Self::Address(head) => {
                let rest = host.strip_prefix(head.as_str());
                let rest =
                    rest.filter(|rest| rest.bytes().all(|c| c.is_ascii_digit() || c == b'.'));
                longer(rest)
            }
            Self::Prefix(head) => longer(host.strip_prefix(head.as_str())),
            Self::Exact(whole) => host == whole,
        }
    }

    /// As a domain of Envoy's virtual hosts, if it can be said as one.
    #[must_use]
    pub fn domain(&self) -> Option<String> {
        match self {
            Self::Label => None,
            Self::Suffix(tail) => Some(format!("*{tail}")),
            Self::Address(head) | Self::Prefix(head) => Some(format!("{head}*")),
            Self::Exact(whole) => Some(whole.clone()),
        }
    }
}

/// What is before the port, if there is one.
fn without_port(authority: &str) -> Option<&str> {
    let (host, port) = authority.rsplit_once(':')?;
    let is_port = !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit());
    is_port.then_some(host)
}

/// A range of IPv4 addresses as beginnings of their usual writing: at most 256 of them.
fn octets(cidr: ipnet::Ipv4Net, patterns: &mut BTreeSet<Pattern>) {
    let length = cidr.prefix_len();
    let whole = usize::from(length / 8);
    let first = cidr.network().octets();
    let last = cidr.broadcast().octets();
    if length == 32 {
        patterns.insert(Pattern::Exact(cidr.network().to_string()));
        return;
    }
    let head = first[..whole]
        .iter()
        .fold(String::new(), |head, octet| format!("{head}{octet}."));
    if length > 0 && length.is_multiple_of(8) {
        patterns.insert(Pattern::Address(head));
        return;
    }
    for octet in first[whole]..=last[whole] {
        patterns.insert(if whole == 3 {
            let [a, b, c, _] = first;
            Pattern::Exact(Ipv4Addr::new(a, b, c, octet).to_string())
        } else {
            Pattern::Address(format!("{head}{octet}."))
        });
    }
}

/// As a regular expression that matches just this.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && c != '-' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
