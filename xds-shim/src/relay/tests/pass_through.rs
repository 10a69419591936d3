//! What is not made lazy: nobody can tell the shim from istiod.

use super::*;

#[tokio::test]
async fn both_kinds_of_ads_pass_byte_for_byte_with_the_callers_metadata() {
    let mut mesh = Mesh::start(Mode::Off).await;
    for path in [ads::DELTA_PATH, ads::SOTW_PATH] {
        let mut proxy = mesh.proxy(path).await;
        proxy.send(&b"\x9a\x06\x05first"[..]).await;
        let mut upstream = mesh.upstream().await;
        assert_eq!(upstream.path, path);
        assert_eq!(
            upstream.metadata.get("authorization").unwrap(),
            "Bearer token"
        );
        assert_eq!(upstream.metadata.get("clusterid").unwrap(), "Kubernetes");
        assert!(upstream.metadata.get("x-forwarded-client-cert").is_none());
        assert_eq!(upstream.request().await, &b"\x9a\x06\x05first"[..]);
        // Longer than any default limit or window.
        let large = vec![b'x'; 5 << 20];
        upstream.respond(large.clone()).await;
        assert_eq!(proxy.message().await.unwrap().unwrap(), large);
    }
}

#[tokio::test]
async fn state_of_the_world_is_never_lazy() {
    let mut mesh = Mesh::start(Mode::OnDemand).await;
    let proxy = mesh.proxy(ads::SOTW_PATH).await;
    let request = b"\x0a\x03v-1\x12\x0a\x0a\x08router~1\x22\x01t";
    proxy.send(&request[..]).await;
    assert_eq!(mesh.upstream().await.request().await, &request[..]);
    let streams = mesh.shared.streams.list();
    assert_eq!(streams[0].treatment, "state_of_the_world");
    assert_eq!(streams[0].proxy, "router~1");
}

#[tokio::test]
async fn requests_go_up_while_the_proxy_does_not_read() {
    let mut mesh = Mesh::start(Mode::Off).await;
    let proxy = mesh.proxy(ads::DELTA_PATH).await;
    proxy.send(&b"\x12\x00"[..]).await;
    let mut upstream = mesh.upstream().await;
    upstream.request().await;
    // Fill every buffer on the way down: istiod's own channel stays full in the end.
    let responses = upstream.responses.clone();
    let filling =
        tokio::spawn(
            async move { while responses.send(Ok(vec![0; 1 << 20].into())).await.is_ok() {} },
        );
    for i in 0..100u8 {
        proxy.send(vec![0x12, 1, i]).await;
        assert_eq!(upstream.request().await, vec![0x12, 1, i]);
    }
    filling.abort();
}

#[tokio::test]
async fn istiods_end_is_the_proxys_end() {
    let mut mesh = Mesh::start(Mode::Off).await;
    let mut proxy = mesh.proxy(ads::DELTA_PATH).await;
    proxy.send(&b"\x12\x00"[..]).await;
    drop(mesh.upstream().await);
    let _ = proxy.end().await;
    let mut proxy = mesh.proxy(ads::DELTA_PATH).await;
    proxy.send(&b"\x12\x00"[..]).await;
    let upstream = mesh.upstream().await;
    upstream
        .responses
        .send(Err(Status::resource_exhausted("too many")))
        .await
        .unwrap();
    let end = proxy.end().await;
    assert_eq!(
        (end.code(), end.message()),
        (Code::ResourceExhausted, "too many")
    );
}

#[tokio::test]
async fn the_proxys_end_is_istiods_end() {
    let mut mesh = Mesh::start(Mode::Off).await;
    let proxy = mesh.proxy(ads::DELTA_PATH).await;
    proxy.send(&b"\x12\x00"[..]).await;
    let mut upstream = mesh.upstream().await;
    upstream.request().await;
    drop(proxy);
    soon("istiod's side to close", upstream.responses.closed()).await;
    assert!(mesh.shared.streams.list().is_empty());
}

#[tokio::test]
async fn istiods_refusal_reaches_the_proxy() {
    let refusal = Status::unauthenticated("no token");
    let mesh = Mesh::start_with(Mode::Off, Some(refusal)).await;
    let mut proxy = mesh.proxy(ads::DELTA_PATH).await;
    proxy.send(&b"\x12\x00"[..]).await;
    let end = proxy.end().await;
    assert_eq!(
        (end.code(), end.message()),
        (Code::Unauthenticated, "no token")
    );
}

#[tokio::test]
async fn an_istiod_that_is_away_is_named() {
    let (_, streams) = mpsc::channel(1);
    let mesh = Mesh::towards("http://127.0.0.1:1", Mode::Off, streams).await;
    let mut proxy = mesh.proxy(ads::DELTA_PATH).await;
    proxy.send(&b"\x12\x00"[..]).await;
    let end = proxy.end().await;
    assert_eq!(end.code(), Code::Unavailable);
    assert!(end.message().contains("127.0.0.1:1"), "{end}");
    let mut other = mesh
        .proxy("/istio.v1.auth.IstioCertificateService/CreateCertificate")
        .await;
    assert_eq!(other.end().await.code(), Code::Unavailable);
}

#[tokio::test]
async fn other_services_are_relayed_with_their_status() {
    let mut mesh = Mesh::start(Mode::Off).await;
    let path = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
    let mut streams = std::mem::replace(&mut mesh.streams, mpsc::channel(1).1);
    let proxy = mesh.proxy(path);
    let answer = async {
        let upstream = soon("a call at istiod", streams.recv()).await.unwrap();
        assert_eq!(upstream.path, path);
        assert_eq!(
            upstream.metadata.get("authorization").unwrap(),
            "Bearer token"
        );
        assert!(upstream.metadata.get("x-forwarded-client-cert").is_none());
        upstream.responses.send(Ok("signed".into())).await.unwrap();
        upstream
            .responses
            .send(Err(Status::permission_denied("but no more")))
            .await
            .unwrap();
    };
    let (mut proxy, ()) = tokio::join!(proxy, answer);
    assert_eq!(proxy.message().await.unwrap().unwrap(), "signed");
    let end = proxy.end().await;
    assert_eq!(
        (end.code(), end.message()),
        (Code::PermissionDenied, "but no more")
    );
}

#[tokio::test]
async fn a_drain_sends_proxies_elsewhere() {
    let mut mesh = Mesh::start(Mode::Off).await;
    let mut proxy = mesh.proxy(ads::DELTA_PATH).await;
    proxy.send(&b"\x12\x00"[..]).await;
    let _upstream = mesh.upstream().await;
    mesh.shared.drain.start();
    assert_eq!(proxy.end().await.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_request_beyond_all_bounds_ends_its_stream_alone() {
    let mut mesh = Mesh::start(Mode::Off).await;
    let mut large = mesh.proxy(ads::DELTA_PATH).await;
    let mut other = mesh.proxy(ads::DELTA_PATH).await;
    other.send(&b"\x12\x00"[..]).await;
    let upstream = mesh.upstream().await;
    let _ = large
        .requests
        .send(vec![0; MOST_REQUEST_BYTES + 1].into())
        .await;
    let _ = large.end().await;
    upstream.respond("still here").await;
    assert_eq!(other.message().await.unwrap().unwrap(), "still here");
}
