//! Encoding that gives the same bytes for the same message, as istiod's does.
//!
//! prost writes the entries of a map in the random order of its `HashMap`; the only maps of ours with more than one entry
//! are in the metadata of clusters. Those are written here, by key.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{self, WireType};
use std::collections::{BTreeMap, HashMap};
use xds_shim::envoy::config::cluster::v3::Cluster;
use xds_shim::envoy::google::protobuf::value::Kind;
use xds_shim::envoy::google::protobuf::{Struct, Value};

/// `Cluster.metadata`.
const METADATA: u32 = 25;
/// `Metadata.filter_metadata`, and `Struct.fields`.
const ENTRIES: u32 = 1;

/// Encodes a cluster.
pub(super) fn cluster(cluster: &Cluster) -> Bytes {
    let mut out = Cluster {
        metadata: None,
        ..cluster.clone()
    }
    .encode_to_vec();
    if let Some(metadata) = &cluster.metadata {
        put(
            METADATA,
            &map(&metadata.filter_metadata, structure),
            &mut out,
        );
    }
    out.into()
}

fn put(tag: u32, body: &[u8], out: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(body.len() as u64, out);
    out.extend_from_slice(body);
}

fn map<V>(entries: &HashMap<String, V>, encode: impl Fn(&V) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in entries.iter().collect::<BTreeMap<_, _>>() {
        let mut entry = Vec::new();
        put(1, key.as_bytes(), &mut entry);
        put(2, &encode(value), &mut entry);
        put(ENTRIES, &entry, &mut out);
    }
    out
}

fn structure(value: &Struct) -> Vec<u8> {
    map(&value.fields, one)
}

fn one(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match &value.kind {
        Some(Kind::StructValue(fields)) => put(5, &structure(fields), &mut out),
        Some(Kind::ListValue(list)) => {
            let mut items = Vec::new();
            list.values
                .iter()
                .for_each(|item| put(1, &one(item), &mut items));
            put(6, &items, &mut out);
        }
        // No map in there.
        _ => out = value.encode_to_vec(),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::clusters;
    use crate::embedded::shape::numbered_service;

    #[test]
    fn the_message_is_the_same_and_so_are_the_bytes() {
        let service = numbered_service(3);
        let first = clusters::of_service(&service, true);
        for _ in 0..20 {
            for (one, again) in first.iter().zip(clusters::of_service(&service, true)) {
                let bytes = cluster(one);
                assert_eq!(bytes, cluster(&again));
                assert_eq!(&Cluster::decode(bytes).unwrap(), one);
            }
        }
    }
}
