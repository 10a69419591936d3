//! Against a controller of the test's own, over loopback.

use std::time::Duration;

use clap::{Args, FromArgMatches};
use dependency_graph::api::{WatchRequest, WatchResponse};
use parking_lot::Mutex;

use crate::fake::Fake;
use crate::{Controller, ControllerArgs, Sink};

#[derive(Clone, Debug, Eq, PartialEq)]
enum Told {
    Begin,
    Apply(String, bool),
    Connected(bool),
}

#[derive(Debug, Default)]
struct Notes(Mutex<Vec<Told>>);

impl Sink for Notes {
    fn begin(&self) {
        self.0.lock().push(Told::Begin);
    }

    fn apply(&self, update: WatchResponse) -> Vec<String> {
        let name = update.namespaces[0].namespace.clone();
        let told = Told::Apply(name, update.snapshot_complete);
        self.0.lock().push(told);
        vec!["an entry that is not valid".into()]
    }

    fn connected(&self, connected: bool) {
        self.0.lock().push(Told::Connected(connected));
    }
}

/// Watches until `enough` says so.
async fn watch_until(controller: &Controller, notes: &Notes, enough: impl Fn(&[Told]) -> bool) {
    let request = WatchRequest {
        namespaces_only: true,
    };
    let poll = async {
        while !enough(&notes.0.lock()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = controller.watch(request, notes) => unreachable!("it never ends"),
        done = tokio::time::timeout(Duration::from_secs(30), poll) => done.unwrap(),
    }
}

#[tokio::test]
async fn a_watch_tells_the_state_and_begins_again_when_it_is_lost() {
    let fake = Fake::default();
    fake.memory().lose_watches = 1;
    let controller = Controller::new(&fake.serve().await.unwrap(), None, None).unwrap();
    let notes = Notes::default();
    let connected = |told: &[Told]| told.iter().filter(|t| **t == Told::Connected(true)).count();
    watch_until(&controller, &notes, |told| connected(told) == 2).await;
    let once = [
        Told::Begin,
        Told::Apply("first".into(), false),
        Told::Apply("last".into(), true),
        Told::Connected(true),
    ];
    let lost = [Told::Connected(false)];
    assert_eq!(*notes.0.lock(), [&once[..], &lost, &once].concat());
    let asked = [(String::new(), true), (String::new(), true)];
    assert_eq!(fake.memory().watches, asked);
}

#[tokio::test]
async fn the_token_is_read_at_every_connection() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one\n").unwrap();
    let fake = Fake::default();
    let token = Some(file.path().to_owned());
    let controller = Controller::new(&fake.serve().await.unwrap(), None, token).unwrap();
    for text in ["one", "two"] {
        std::fs::write(file.path(), text).unwrap();
        let notes = Notes::default();
        watch_until(&controller, &notes, |told| {
            told.contains(&Told::Connected(true))
        })
        .await;
    }
    let memory = fake.memory();
    let tokens: Vec<_> = memory
        .watches
        .iter()
        .map(|(token, _)| token.as_str())
        .collect();
    assert_eq!(tokens, ["Bearer one", "Bearer two"]);
}

#[tokio::test]
async fn an_address_that_cannot_be_dialed_is_named_with_its_flag() {
    let of = |address: &str| {
        let error = Controller::new(address, None, None).unwrap_err();
        error.to_string()
    };
    assert!(of("controller:15020").starts_with("--controller: address \"controller:15020\""));
    assert!(of("https://controller:15020").contains("root certificates"));
    let roots = std::path::Path::new("/nowhere/roots.pem");
    let error = Controller::new("https://controller:15020", Some(roots), None).unwrap_err();
    assert!(
        error.to_string().starts_with("--controller-ca: "),
        "{error}"
    );
}

#[tokio::test]
async fn the_flags_name_a_controller_or_none() {
    let args = |flags: &[&str]| {
        let command = ControllerArgs::augment_args(clap::Command::new("x"));
        let matches = command.try_get_matches_from([&["x"], flags].concat())?;
        ControllerArgs::from_arg_matches(&matches)
    };
    assert!(args(&[]).unwrap().controller().unwrap().is_none());
    let fake = Fake::default();
    let address = fake.serve().await.unwrap();
    let named = args(&["--controller", &address]).unwrap();
    let controller = named.controller().unwrap().unwrap();
    assert!(controller.token.is_none());
    controller.client().await.unwrap();
    for alone in ["--controller-ca", "--controller-token"] {
        assert!(args(&[alone, "file"]).is_err(), "{alone}");
    }
    let lost = args(&[
        "--controller",
        &address,
        "--controller-ca",
        "/nowhere/roots.pem",
    ]);
    let error = lost.unwrap().controller().unwrap_err().to_string();
    assert!(error.starts_with("--controller-ca: "), "{error}");
}
