//! A simulated sidecar and the simulated istiod, with the shim's own session between them: no sockets.

use super::*;
use crate::encoded::Encoded;
use crate::mesh;
use crate::rules::{Push, Session as Istiod};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use xds_shim::listener::OnDemandConfig;
use xds_shim::session::{LINGER, Output, Session as Shim};
use xds_shim::store::Store;

const SERVICES: u32 = 200;
const NAMESPACE: &str = "ns-0";

struct Way {
    encoded: Encoded,
    istiod: Istiod,
    shim: Shim,
    envoy: Envoy,
    to_shim: VecDeque<Bytes>,
    /// Messages that the proxy was sent: of which type, and how many resources.
    taken: Vec<(Kind, usize)>,
    learned: usize,
}

fn shim() -> Shim {
    let config = OnDemandConfig::new(Duration::from_secs(5));
    Shim::new(Store::default(), config, [])
}

fn way(uses: Vec<Use>) -> Way {
    Way {
        encoded: Encoded::new(&mesh::shape(SERVICES)).unwrap(),
        istiod: Istiod::default(),
        shim: shim(),
        envoy: Envoy::new(Bytes::from_static(b"\x0a\x01n"), uses.into()),
        to_shim: VecDeque::new(),
        taken: Vec::new(),
        learned: 0,
    }
}

impl Way {
    fn connects(&mut self) {
        self.istiod = Istiod::default();
        self.shim = shim();
        self.taken.clear();
        self.to_shim = self.envoy.connected().into();
        self.goes_on();
    }

    fn goes_on(&mut self) {
        while let Some(message) = self.to_shim.pop_front() {
            let outputs = self.shim.on_request(&message).unwrap();
            self.act(outputs);
        }
    }

    fn act(&mut self, outputs: Vec<Output>) {
        let mut for_istiod = Vec::new();
        for output in outputs {
            match output {
                Output::ToProxy(message) => {
                    let response = DeltaResponse::decode(&message).unwrap();
                    let kind = Kind::of(&response.type_url).unwrap();
                    self.taken.push((kind, response.resources.len()));
                    self.to_shim
                        .extend(self.envoy.on_response(&response).unwrap());
                }
                Output::ToIstiod(message) => for_istiod.push(message),
                Output::Asked(_) => self.learned += 1,
                Output::Nack(..) => panic!("a sidecar of ours refuses nothing"),
            }
        }
        for message in for_istiod {
            let request = DeltaRequest::decode(&message).unwrap();
            let answers = self.istiod.on_request(&request, 1).unwrap();
            self.sends(&answers);
        }
    }

    fn sends(&mut self, answers: &[crate::rules::Answer]) {
        for answer in answers {
            let response = self.encoded.response(answer, NAMESPACE, 1);
            let message = response.pieces.concat().into();
            let outputs = self.shim.on_response(&message).unwrap();
            self.act(outputs);
        }
    }

    fn pushes(&mut self, push: &Push) {
        self.taken.clear();
        let answers = self.istiod.on_push(push, 2);
        self.sends(&answers);
        self.goes_on();
    }

    fn idles(&mut self) {
        let outputs = self.shim.tidy(Instant::now());
        self.act(outputs);
        self.goes_on();
        let later = Instant::now() + LINGER + Duration::from_secs(1);
        let outputs = self.shim.tidy(later);
        self.act(outputs);
        self.goes_on();
    }
}

#[test]
fn a_sidecar_asks_for_what_it_calls_and_has_it() {
    let uses = [0, 7, 30].map(Use::of).to_vec();
    let mut way = way(uses);
    way.connects();
    assert!(way.envoy.is_ready(), "{:?}", way.envoy);
    assert_eq!((way.learned, way.envoy.copies()), (3, 3));
    assert!(way.istiod.is_settled());
    way.idles();
    assert_eq!(way.envoy.copies(), 0);
    assert!(way.envoy.is_ready() && way.istiod.is_settled());
}

#[test]
fn a_push_of_the_same_brings_nothing_and_changed_endpoints_come() {
    let mut way = way([0, 7].map(Use::of).to_vec());
    way.connects();
    way.idles();
    way.pushes(&Push::Everything);
    assert_eq!(way.taken, []);
    assert!(way.istiod.is_settled());
    for (index, wanted) in [(7, 1), (8, 0)] {
        let mut service = mesh::service(index);
        service.endpoints = mesh::changed_endpoints(&service, 3);
        let names = way.encoded.put_endpoints(&service);
        way.pushes(&Push::Endpoints(names));
        assert_eq!(way.taken.len(), wanted, "{:?}", way.taken);
    }
}

#[test]
fn who_comes_back_is_sent_nothing_but_what_it_asks_for() {
    let mut way = way([0, 30].map(Use::of).to_vec());
    way.connects();
    way.idles();
    way.connects();
    assert!(way.envoy.is_ready());
    // Envoy asks for each name again that it ever asked for: two copies, which go as they went before.
    let count = |kind: Kind| -> usize {
        let of_kind = way.taken.iter().filter(|one| one.0 == kind);
        of_kind.map(|one| one.1).sum()
    };
    assert_eq!(Kind::ALL.map(count), [2, 2, 0, 0], "{:?}", way.taken);
    way.idles();
    assert_eq!(way.envoy.copies(), 0);
    way.envoy = way.envoy.restarted();
    assert!(!way.envoy.is_ready());
    way.connects();
    assert!(way.envoy.is_ready());
}
