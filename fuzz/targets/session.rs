//! A stream that is told anything, in any order, goes on or ends; it does not panic, nothing of ours goes
//! upstream, and what it says is messages.
//!
//! Steps: a byte for the kind, two for the length, then a message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::{Duration, Instant};
use xds_shim::ads::{DeltaRequest, DeltaResponse};
use xds_shim::cluster::ServicePort;
use xds_shim::listener::OnDemandConfig;
use xds_shim::session::{Output, Session};
use xds_shim::stand_in::Name;
use xds_shim::store::Store;

fn check(outputs: Vec<Output>) -> Vec<String> {
    let mut nonces = Vec::new();
    for output in outputs {
        match output {
            Output::ToProxy(raw) => {
                // Types that are not ours pass as they are.
                if let Ok(response) = DeltaResponse::decode(&raw) {
                    nonces.push(response.nonce);
                }
            }
            Output::ToIstiod(raw) => {
                let Ok(request) = DeltaRequest::decode(&raw) else {
                    panic!("not a request")
                };
                let ours = request
                    .subscribe
                    .iter()
                    .filter(|n| Name::parse(n).is_some());
                let clusters = request.type_url == xds_shim::ads::CDS;
                assert!(!clusters || ours.count() == 0, "{:?}", request.subscribe);
            }
            Output::Asked(ask) => drop(ask.dependency()),
            Output::Nack(..) => {}
        }
    }
    nonces
}

fuzz_target!(|data: &[u8]| {
    let config = OnDemandConfig::new(Duration::from_secs(5));
    let mut session = Session::new(Store::default(), config, []);
    let start = Instant::now();
    let mut rest = data;
    let mut open = Vec::new();
    for step in 0..64 {
        let [kind, low, high, tail @ ..] = rest else {
            break;
        };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (message, tail) = tail.split_at(length);
        rest = tail;
        let raw = message.to_vec().into();
        let outputs = match kind % 5 {
            0 => session.on_request(&raw),
            1 => session.on_response(&raw),
            2 => Ok(session.tidy(start + Duration::from_secs(30) * step)),
            3 => {
                let host = String::from_utf8_lossy(message);
                Ok(session.admit([ServicePort::new(&host, 80)]))
            }
            // The proxy takes what it was given.
            _ => open.pop().map_or(Ok(Vec::new()), |(type_url, nonce)| {
                let ack = DeltaRequest {
                    type_url,
                    nonce,
                    ..DeltaRequest::default()
                };
                session.on_request(&ack.encode())
            }),
        };
        let Ok(outputs) = outputs else { return };
        for output in &outputs {
            if let Output::ToProxy(raw) = output
                && let Ok(response) = DeltaResponse::decode(raw)
            {
                open.insert(0, (response.type_url, response.nonce));
            }
        }
        check(outputs);
        let _ = session.summary();
    }
});
