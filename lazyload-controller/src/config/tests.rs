//! Flags that go together, and those that do not.

use super::*;

fn serve(flags: &[&str]) -> Serve {
    Cli::try_parse_from([&["lazyload-controller"], flags].concat())
        .unwrap()
        .serve
}

#[test]
fn the_commands_are_consistent() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
    assert!(matches!(
        Cli::try_parse_from(["lazyload-controller", "crd"])
            .unwrap()
            .command,
        Some(Command::Crd)
    ));
    let clean_up = ["lazyload-controller", "clean-up", "--kubeconfig", "k"];
    assert!(matches!(
        Cli::try_parse_from(clean_up).unwrap().command,
        Some(Command::CleanUp(_))
    ));
}

#[test]
fn kubernetes_checks_tokens_unless_told_otherwise() {
    let serve = serve(&["--tls-cert", "c", "--tls-key", "k"]);
    assert_eq!(serve.checked_auth(), Ok(AuthKind::TokenReview));
    let names = |all: &[ServiceAccount]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&serve.allowed), ["lazymesh-system/xds-shim"]);
    assert_eq!(
        names(&serve.global_proxies),
        ["lazymesh-system/global-proxy"]
    );
}

#[test]
fn a_folder_needs_a_token_file_or_loopback() {
    let local = [
        "--store",
        "file:/graph",
        "--plaintext",
        "--listen",
        "127.0.0.1:0",
    ];
    let with = |auth: &str| serve(&[&local[..], &["--auth", auth]].concat()).checked_auth();
    assert_eq!(with("token-file=/t"), Ok(AuthKind::TokenFile("/t".into())));
    assert_eq!(with("none"), Ok(AuthKind::None));
    assert!(
        with("token-review")
            .unwrap_err()
            .contains("--store kubernetes")
    );
    assert!(
        serve(&local)
            .checked_auth()
            .unwrap_err()
            .contains("--auth is missing")
    );
}

#[test]
fn what_is_open_stays_on_loopback() {
    let plain = serve(&["--plaintext", "--listen", "0.0.0.0:15020"]).checked_auth();
    assert!(plain.unwrap_err().contains("127.0.0.1:15020"));
    let open = ["--auth", "none", "--tls-cert", "c", "--tls-key", "k"];
    assert!(
        serve(&open)
            .checked_auth()
            .unwrap_err()
            .contains("--auth none")
    );
    assert!(
        serve(&[])
            .checked_auth()
            .unwrap_err()
            .contains("--tls-cert")
    );
    let v6 = ["--plaintext", "--listen", "[::1]:0", "--auth", "none"];
    assert_eq!(serve(&v6).checked_auth(), Ok(AuthKind::None));
}

#[test]
fn bad_values_are_refused() {
    for bad in [
        &["--store", "file:"][..],
        &["--store", "etcd"],
        &["--auth", "token-file="],
        &["--auth", "mtls"],
        &["--allow-service-account", "xds-shim"],
        &["--allow-global-proxy", "global-proxy"],
        &["--refresh-after", "soon"],
        &["--listen", "15020"],
        &["--tls-cert", "c"],
        &["--plaintext", "--tls-cert", "c", "--tls-key", "k"],
        &["--log-level", "loud"],
        &["--max-dependencies", "-1"],
    ] {
        let parsed = Cli::try_parse_from([&["lazyload-controller"], bad].concat());
        assert_eq!(parsed.unwrap_err().exit_code(), 2, "{bad:?}");
    }
}

#[test]
fn streams_must_be_allowed_some_age() {
    let hour = Duration::from_secs(3600);
    assert_eq!(serve(&[]).max_stream_age, hour);
    let none = ["lazyload-controller", "--max-stream-age", "0s"];
    assert!(Cli::try_parse_from(none).is_err());
}

#[test]
fn the_mode_sidecar_needs_a_mesh_that_can_be_seen() {
    let enabled = |flags: &[&str]| {
        let serve = serve(flags);
        serve.sidecars.enabled(&serve.store)
    };
    assert_eq!(enabled(&[]), Ok(true));
    assert_eq!(enabled(&["--store", "file:/x"]), Ok(true));
    assert_eq!(enabled(&["--store", "memory"]), Ok(false));
    assert_eq!(enabled(&["--sidecars", "off"]), Ok(false));
    let error = enabled(&["--store", "memory", "--sidecars", "on"]).unwrap_err();
    assert!(error.contains("file:DIR"), "{error}");
}
