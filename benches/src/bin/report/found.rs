//! What the benches found, looked at by the names of fields.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use mesh_tests::bench_report::istiod::IstiodReport;
use mesh_tests::bench_report::{self, HAND_WRITTEN, ON_DEMAND, PLAIN, Report, SETTLED, SIDECAR};
use serde_json::Value;

/// All that is kept of what was measured.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Of `make bench`.
    pub(crate) report: Report,
    pub(crate) sizes: Vec<Size>,
    /// Of `make bench-scale`.
    pub(crate) scale: Option<Value>,
    /// Of `make bench-relay`.
    pub(crate) relay: Option<Value>,
    /// Of `make bench-istiod`.
    pub(crate) istiod: Option<IstiodReport>,
}

/// A mesh of one size.
#[derive(Debug)]
pub(crate) struct Size {
    pub(crate) services: u32,
    /// By the name of the way.
    ways: BTreeMap<String, Value>,
}

impl Found {
    /// With nothing but what `make bench` found.
    ///
    /// # Errors
    /// None that a report could cause: it goes through JSON.
    pub(crate) fn new(report: Report) -> Result<Self> {
        let mut sizes = Vec::new();
        for (services, ways) in &report.sizes {
            let ways = ways
                .iter()
                .map(|(name, way)| Ok((name.clone(), serde_json::to_value(way)?)));
            sizes.push(Size {
                services: *services,
                ways: ways.collect::<Result<_>>().context("a report as JSON")?,
            });
        }
        Ok(Self {
            report,
            sizes,
            ..Self::default()
        })
    }

    pub(crate) fn size(&self, services: u32) -> Option<&Size> {
        self.sizes.iter().find(|size| size.services == services)
    }

    /// The names of all ways there are: those claims are about, then others.
    pub(crate) fn ways(&self) -> Vec<&str> {
        let known = bench_report::WAYS;
        let others = self.sizes.iter().flat_map(|size| size.ways.keys());
        let mut others: Vec<&str> = others.map(String::as_str).collect();
        others.retain(|name| !known.contains(name));
        others.sort_unstable();
        others.dedup();
        known.into_iter().chain(others).collect()
    }
}

impl Size {
    /// A number of a way, by the field's name with dots.
    pub(crate) fn get(&self, way: &str, field: &str) -> Option<f64> {
        number(self.ways.get(way)?, field)
    }

    /// The least and the most of the repetitions.
    pub(crate) fn spread(&self, way: &str, field: &str) -> Option<(f64, f64)> {
        let pair = self.ways.get(way)?.get("spread")?.get(field)?;
        Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?))
    }

    /// A number of a way as a part of another way's.
    pub(crate) fn ratio(&self, way: &str, to: &str, field: &str) -> Option<f64> {
        let whole = self.get(to, field).filter(|whole| *whole > 0.0)?;
        Some(self.get(way, field)? / whole)
    }
}

/// A number by the field's name with dots.
pub(crate) fn number(value: &Value, field: &str) -> Option<f64> {
    let inner = field
        .split('.')
        .try_fold(value, |value, name| value.get(name));
    inner?.as_f64()
}

/// The elements of a list; none if there is no such list.
pub(crate) fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    let list = value.get(name).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// What a way is called.
pub(crate) fn title(way: &str) -> String {
    match way {
        PLAIN => "plain Istio".into(),
        HAND_WRITTEN => "hand-written `Sidecar`".into(),
        SIDECAR => "`sidecar`".into(),
        ON_DEMAND => "`on-demand`".into(),
        SETTLED => "`on-demand`, settled".into(),
        other => other.replace('_', " "),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// What was found, from the parts of the files that matter.
    pub(crate) fn found(report: Value, scale: Option<Value>, relay: Option<Value>) -> Found {
        let report = serde_json::from_value(report).unwrap();
        Found {
            scale,
            relay,
            ..Found::new(report).unwrap()
        }
    }

    #[test]
    fn fields_are_found_by_name() {
        let way = json!({"first_call_ms": {"p50": 1.5}, "spread": {"first_call_ms.p50": [1, 2]}});
        let found = found(json!({"sizes": {"200": {"plain": way}}}), None, None);
        let size = found.size(200).unwrap();
        assert_eq!(size.get(PLAIN, "first_call_ms.p50"), Some(1.5));
        assert_eq!(size.spread(PLAIN, "first_call_ms.p50"), Some((1.0, 2.0)));
        assert_eq!(size.get(PLAIN, "first_call_ms.p99"), None);
        assert_eq!(size.get(ON_DEMAND, "heap_bytes"), None);
        assert!(found.size(1000).is_none());
    }

    #[test]
    fn nothing_is_a_part_of_nothing() {
        let ways = json!({"plain": {"heap_bytes": 0}, "settled": {"heap_bytes": 5}});
        let found = found(json!({"sizes": {"200": ways}}), None, None);
        assert_eq!(found.sizes[0].ratio(SETTLED, PLAIN, "heap_bytes"), None);
        assert_eq!(
            found.sizes[0].ratio(PLAIN, SETTLED, "heap_bytes"),
            Some(0.0)
        );
    }

    #[test]
    fn other_ways_come_last() {
        let ways = json!({"a_way": {}, "settled": {}, "plain": {}});
        let found = found(json!({"sizes": {"200": ways}}), None, None);
        let ways = found.ways();
        assert_eq!(ways[..5], bench_report::WAYS);
        assert_eq!(ways[5..], ["a_way"]);
        assert_eq!(title("a_way"), "a way");
    }
}
