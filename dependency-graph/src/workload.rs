//! The owner of pods: the unit that learns.

use std::fmt;

use thiserror::Error;

use crate::name::{MAX_NAME, label_fault, object_name_fault};

/// An owner of pods, such as the Deployment `reviews` in the namespace `shop`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Workload {
    namespace: String,
    kind: String,
    name: String,
}

/// What is wrong with a workload.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("workload {part} {value:?}: {reason}")]
pub struct Error {
    /// "namespace", "kind" or "name".
    pub part: &'static str,
    /// What was given, cut short if long.
    pub value: String,
    /// Why it will not do.
    pub reason: &'static str,
}

impl Workload {
    /// A workload of a Kubernetes namespace, kind and name.
    ///
    /// # Errors
    /// When one of them is nothing Kubernetes would take.
    pub fn new(namespace: &str, kind: &str, name: &str) -> Result<Self, Error> {
        let check = |part, value: &str, fault: Option<&'static str>| match fault {
            None => Ok(value.to_owned()),
            Some(reason) => Err(Error {
                part,
                value: value.chars().take(MAX_NAME).collect(),
                reason,
            }),
        };
        Ok(Self {
            namespace: check("namespace", namespace, label_fault(namespace))?,
            kind: check("kind", kind, kind_fault(kind))?,
            name: check("name", name, object_name_fault(name))?,
        })
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its Kubernetes kind, such as `Deployment`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its record, unique in its namespace: `<kind in lower case>-<name>`, such as `deployment-reviews`.
    /// What is longer than Kubernetes takes ends with a hash of the whole instead.
    #[must_use]
    pub fn record_name(&self) -> String {
        let whole = format!("{}-{}", self.kind.to_ascii_lowercase(), self.name);
        if whole.len() <= MAX_NAME {
            return whole;
        }
        let hash = hash(&whole);
        // What is cut may end with a dot or dash, after which no name may go on with a dash.
        let head = whole[..MAX_NAME - hash.len() - 1].trim_end_matches(['.', '-']);
        format!("{head}-{hash}")
    }

    /// A short stand-in for the record's name, where that is too long. No two records of a namespace share it.
    #[must_use]
    pub fn record_hash(&self) -> String {
        hash(&self.record_name())
    }
}

fn hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

fn kind_fault(kind: &str) -> Option<&'static str> {
    let bytes = kind.as_bytes();
    if bytes.len() > 63 {
        Some("it is longer than 63 characters")
    } else if !bytes.first().is_some_and(u8::is_ascii_uppercase) {
        Some("it does not begin with a capital letter, as \"Deployment\" does")
    } else if !bytes.iter().all(u8::is_ascii_alphanumeric) {
        Some("it has a character that is no letter or digit")
    } else {
        None
    }
}

impl fmt::Display for Workload {
    /// `namespace/name`, as people call it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies;

    #[test]
    fn says_its_names() {
        let reviews = Workload::new("shop", "Deployment", "reviews").unwrap();
        assert_eq!(reviews.to_string(), "shop/reviews");
        assert_eq!(reviews.record_name(), "deployment-reviews");
        let dotted = Workload::new("shop", "StatefulSet", "db.v1").unwrap();
        assert_eq!(dotted.record_name(), "statefulset-db.v1");
    }

    #[test]
    fn refuses_what_kubernetes_would() {
        let long = "a".repeat(64);
        for (namespace, kind, name, part) in [
            ("", "Deployment", "a", "namespace"),
            ("a.b", "Deployment", "a", "namespace"),
            (long.as_str(), "Deployment", "a", "namespace"),
            ("a", "", "a", "kind"),
            ("a", "deployment", "a", "kind"),
            ("a", "De-ployment", "a", "kind"),
            ("a", "Deployment", "", "name"),
            ("a", "Deployment", "A", "name"),
            ("a", "Deployment", "../etc", "name"),
        ] {
            let error = Workload::new(namespace, kind, name).unwrap_err();
            assert_eq!(error.part, part, "{error}");
        }
    }

    #[test]
    fn long_record_names_are_hashed_and_distinct() {
        let long = |tail| format!("{}.{tail}", "a".repeat(250));
        let one = Workload::new("n", "Deployment", &long("x"))
            .unwrap()
            .record_name();
        let other = Workload::new("n", "Deployment", &long("y"))
            .unwrap()
            .record_name();
        assert_ne!(one, other);
        for name in [one, other] {
            assert_eq!(
                (name.len() <= 253, object_name_fault(&name)),
                (true, None),
                "{name}"
            );
        }
    }

    proptest! {
        #[test]
        fn record_names_are_names(workload in strategies::any_workload()) {
            prop_assert_eq!(object_name_fault(&workload.record_name()), None);
        }
    }
}
