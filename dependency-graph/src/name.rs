//! The DNS names of RFC 1123, as Kubernetes and Istio take them.

/// Longest label.
pub(crate) const MAX_LABEL: usize = 63;
/// Longest name.
pub(crate) const MAX_NAME: usize = 253;

/// Why a text is no name.
pub(crate) fn label_fault(label: &str) -> Option<&'static str> {
    if label.len() > MAX_LABEL {
        return Some("a label is longer than 63 characters");
    }
    characters_fault(label)
}

fn characters_fault(label: &str) -> Option<&'static str> {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = label.as_bytes();
    if bytes.is_empty() {
        Some("it has an empty label")
    } else if bytes.iter().any(u8::is_ascii_uppercase) {
        Some("it is not in lower case")
    } else if !bytes
        .iter()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
    {
        Some("it has a character that is no letter, digit, '-' or '.'")
    } else if !edge(bytes.first().copied()) || !edge(bytes.last().copied()) {
        Some("a label begins or ends with '-'")
    } else {
        None
    }
}

/// Why a text is no name of one or more labels.
pub(crate) fn name_fault(name: &str) -> Option<&'static str> {
    if name.len() > MAX_NAME {
        return Some("it is longer than 253 characters");
    }
    name.split('.').find_map(label_fault)
}

/// Why a text is no name of a Kubernetes object. Unlike DNS, Kubernetes does not limit the length of each label.
pub(crate) fn object_name_fault(name: &str) -> Option<&'static str> {
    if name.len() > MAX_NAME {
        return Some("it is longer than 253 characters");
    }
    name.split('.').find_map(characters_fault)
}
