//! What a proxy gets: the whole config, or an on-demand one. Decided once per stream, from values.

use crate::node::Proxy;
use dependency_graph::{Mode, Workload};
use std::fmt;

/// The oldest Envoy that can ask for a cluster over ADS from HTTP and from TCP, more than once a
/// stream: envoy#41174 and #43529 are in 1.38, #46561 is fixed there.
pub const OLDEST_ENVOY: (u32, u32, u32) = (1, 38, 0);

/// What a proxy gets, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Treatment {
    /// Clusters are held until the workload is known to use them.
    OnDemand(Workload),
    /// All that istiod sends, byte for byte.
    PassThrough(Reason),
}

/// Why a proxy gets the whole config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its mode is `off`, or no mode is set.
    Off,
    /// Its mode trims in another way than the shim does.
    OtherMode,
    /// It speaks state-of-the-world xDS, on which Envoy cannot ask on demand.
    StateOfTheWorld,
    /// It is a gateway, a waypoint or ztunnel.
    NotASidecar,
    /// Its metadata does not name an owner in its own namespace.
    UnknownWorkload,
    /// Its Envoy is older than [`OLDEST_ENVOY`], or does not say how old it is.
    OldEnvoy,
    /// Its Envoy is built without the on-demand filter.
    NoOnDemandFilter,
    /// Its first message could not be understood.
    NotUnderstood,
}

impl Reason {
    /// A short word for metrics and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::OtherMode => "other_mode",
            Self::StateOfTheWorld => "state_of_the_world",
            Self::NotASidecar => "not_a_sidecar",
            Self::UnknownWorkload => "unknown_workload",
            Self::OldEnvoy => "old_envoy",
            Self::NoOnDemandFilter => "no_on_demand_filter",
            Self::NotUnderstood => "not_understood",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of a proxy's mode when its stream begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownModes {
    /// The workload's own, from its record.
    pub workload: Option<Mode>,
    /// The namespace's, from its label.
    pub namespace: Option<Mode>,
    /// Whether the controller has been heard at all since this shim started.
    pub heard: bool,
    /// Whether all of Lazymesh is paused.
    pub paused: bool,
}

/// The mode of a proxy: off while all is paused, else that of its workload's record, else its pod's label, else its namespace's label,
/// else what it had when the controller cannot be heard, else `default`.
pub fn mode(known: KnownModes, proxy: &Proxy, was_lazy: bool, default: Mode) -> Mode {
    if known.paused {
        return Mode::Off;
    }
    let label = proxy.mode_label.as_deref().and_then(|l| l.parse().ok());
    // A proxy that comes back from an on-demand stream keeps its mode while nobody can say
    // otherwise: giving it everything because the controller is away would blow up a whole fleet.
    let before = (was_lazy && !known.heard).then_some(Mode::OnDemand);
    known
        .workload
        .or(label)
        .or(known.namespace)
        .or(before)
        .unwrap_or(default)
}

/// What a proxy on a delta stream gets.
pub fn decide(proxy: &Proxy, mode: Mode) -> Treatment {
    use Treatment::PassThrough;
    match mode {
        Mode::OnDemand => {}
        Mode::Off => return PassThrough(Reason::Off),
        Mode::Sidecar | Mode::Observe => return PassThrough(Reason::OtherMode),
    }
    if proxy.role != "sidecar" {
        return PassThrough(Reason::NotASidecar);
    }
    if proxy.envoy.is_none_or(|version| version < OLDEST_ENVOY) {
        return PassThrough(Reason::OldEnvoy);
    }
    if proxy.has_on_demand == Some(false) {
        return PassThrough(Reason::NoOnDemandFilter);
    }
    match &proxy.workload {
        Some(workload) => Treatment::OnDemand(workload.clone()),
        None => PassThrough(Reason::UnknownWorkload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy() -> Proxy {
        Proxy {
            id: "sidecar~10.0.0.1~cart-1.shop~shop.svc.cluster.local".into(),
            role: "sidecar".into(),
            namespace: Some("shop".into()),
            workload: Workload::new("shop", "Deployment", "cart").ok(),
            envoy: Some((1, 40, 0)),
            has_on_demand: Some(true),
            mode_label: None,
        }
    }

    #[test]
    fn a_sidecar_that_can_is_made_lazy() {
        let workload = proxy().workload.unwrap();
        assert_eq!(
            decide(&proxy(), Mode::OnDemand),
            Treatment::OnDemand(workload)
        );
        let unlisted = Proxy {
            has_on_demand: None,
            ..proxy()
        };
        assert!(matches!(
            decide(&unlisted, Mode::OnDemand),
            Treatment::OnDemand(_)
        ));
    }

    #[test]
    fn whatever_is_in_doubt_gets_everything() {
        let cases = [
            (
                Proxy {
                    role: "router".into(),
                    ..proxy()
                },
                Reason::NotASidecar,
            ),
            (
                Proxy {
                    workload: None,
                    ..proxy()
                },
                Reason::UnknownWorkload,
            ),
            (
                Proxy {
                    envoy: Some((1, 37, 5)),
                    ..proxy()
                },
                Reason::OldEnvoy,
            ),
            (
                Proxy {
                    envoy: None,
                    ..proxy()
                },
                Reason::OldEnvoy,
            ),
            (
                Proxy {
                    has_on_demand: Some(false),
                    ..proxy()
                },
                Reason::NoOnDemandFilter,
            ),
            (Proxy::default(), Reason::NotASidecar),
        ];
        for (proxy, reason) in cases {
            assert_eq!(
                decide(&proxy, Mode::OnDemand),
                Treatment::PassThrough(reason)
            );
        }
        assert_eq!(
            decide(&proxy(), Mode::Off),
            Treatment::PassThrough(Reason::Off)
        );
        assert_eq!(
            decide(&proxy(), Mode::Sidecar),
            Treatment::PassThrough(Reason::OtherMode)
        );
    }

    #[test]
    fn the_nearest_word_wins() {
        let labelled = Proxy {
            mode_label: Some("off".into()),
            ..proxy()
        };
        let on = Some(Mode::OnDemand);
        let known = |workload, namespace| KnownModes {
            workload,
            namespace,
            heard: true,
            paused: false,
        };
        assert_eq!(
            mode(known(on, None), &labelled, false, Mode::Off),
            Mode::OnDemand
        );
        assert_eq!(
            mode(known(None, on), &labelled, false, Mode::OnDemand),
            Mode::Off
        );
        assert_eq!(
            mode(known(None, on), &proxy(), false, Mode::Off),
            Mode::OnDemand
        );
        assert_eq!(
            mode(known(None, None), &proxy(), false, Mode::Off),
            Mode::Off
        );
        assert_eq!(
            mode(known(None, None), &proxy(), false, Mode::OnDemand),
            Mode::OnDemand
        );
        let nonsense = Proxy {
            mode_label: Some("lazy please".into()),
            ..proxy()
        };
        assert_eq!(
            mode(known(None, on), &nonsense, false, Mode::Off),
            Mode::OnDemand
        );
    }

    #[test]
    fn while_all_is_paused_nobody_is_lazy() {
        let paused = KnownModes {
            workload: Some(Mode::OnDemand),
            namespace: Some(Mode::OnDemand),
            heard: true,
            paused: true,
        };
        let labelled = Proxy {
            mode_label: Some("on-demand".into()),
            ..proxy()
        };
        assert_eq!(mode(paused, &labelled, true, Mode::OnDemand), Mode::Off);
    }

    #[test]
    fn a_lazy_proxy_stays_lazy_while_the_controller_is_away() {
        let unheard = KnownModes::default();
        assert_eq!(mode(unheard, &proxy(), true, Mode::Off), Mode::OnDemand);
        assert_eq!(mode(unheard, &proxy(), false, Mode::Off), Mode::Off);
        let heard = KnownModes {
            heard: true,
            ..unheard
        };
        assert_eq!(mode(heard, &proxy(), true, Mode::Off), Mode::Off);
    }
}
