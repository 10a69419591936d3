//! Handshakes over loopback while the files change.

use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::test_certs::Authority;

const EVERY: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(10);
const NAME: &str = "shim.test";

/// The certificate the server shows, or why there is none.
async fn handshake(server: &ServerTls, client: &ClientTls) -> Result<Vec<u8>, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = server.acceptor().clone();
    let accepting = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let _ = acceptor.accept(socket).await;
    });
    let socket = TcpStream::connect(address).await.unwrap();
    let stream = TlsConnector::from(client.config())
        .connect(ServerName::try_from(NAME).unwrap(), socket)
        .await
        .map_err(|e| e.to_string());
    accepting.await.unwrap();
    let (_, session) = stream.as_ref().map_err(Clone::clone)?.get_ref();
    assert_eq!(session.alpn_protocol(), Some(ALPN_H2));
    Ok(session.peer_certificates().unwrap()[0].to_vec())
}

async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::time::timeout(DEADLINE, asking)
        .await
        .expect("condition not met in time")
}

fn load(authority: &Authority) -> (ServerTls, ClientTls) {
    let (cert, key) = authority.write_pair(NAME);
    let root = authority.write_root();
    let server = ServerTls::load_polling(cert, key, EVERY).unwrap();
    (server, ClientTls::load_polling(root, EVERY).unwrap())
}

#[tokio::test]
async fn a_new_pair_is_served_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (server, client) = load(&authority);
    let old = handshake(&server, &client).await.unwrap();
    authority.write_pair(NAME);
    let new = until(async || handshake(&server, &client).await.ok().filter(|c| *c != old)).await;
    assert_ne!(old, new);
}

#[tokio::test]
async fn every_change_is_looked_at_once_and_an_unusable_one_does_not_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let put = |text: &str| std::fs::write(&path, text).unwrap();
    put("first");
    let (seen, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let _following = follow::follow(vec![path.clone()], vec![b"first".to_vec()], EVERY, {
        let path = path.clone();
        move |contents| {
            seen.send(String::from_utf8(contents[0].clone()).unwrap())
                .unwrap();
            if contents[0] == b"broken" {
                return Err(read(&path.join("missing")).unwrap_err());
            }
            Ok(())
        }
    });
    let mut next = async || {
        tokio::time::timeout(DEADLINE, calls.recv())
            .await
            .unwrap()
            .unwrap()
    };
    put("broken");
    assert_eq!(next().await, "broken");
    std::fs::remove_file(&path).unwrap();
    put("good");
    assert_eq!(
        next().await,
        "good",
        "the broken content is tried once only"
    );
}

#[tokio::test]
async fn broken_contents_are_no_pair() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = Authority::new(folder.path()).write_pair(NAME);
    let contents = [read(&cert).unwrap(), read(&key).unwrap()];
    assert!(server::pair(&cert, &key, &contents).is_ok());
    let half = contents[0][..contents[0].len() / 2].to_vec();
    for broken in [Vec::new(), b"no pem".to_vec(), half, contents[1].clone()] {
        assert!(server::pair(&cert, &key, &[broken, contents[1].clone()]).is_err());
    }
    assert!(server::pair(&cert, &key, &[contents[0].clone(), contents[0].clone()]).is_err());
}

#[tokio::test]
async fn a_key_of_another_certificate_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (cert, key) = authority.write_pair(NAME);
    std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let error = ServerTls::load(&cert, &key).unwrap_err();
    assert!(matches!(error, Error::Pair { .. }), "{error}");
    assert!(error.to_string().contains("key.pem"), "{error}");
}

#[tokio::test]
async fn missing_and_empty_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.pem");
    assert!(matches!(
        ServerTls::load(&missing, &missing),
        Err(Error::Read { .. })
    ));
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    assert!(matches!(
        ServerTls::load(&empty, &empty),
        Err(Error::Pem { .. })
    ));
    let error = ClientTls::load(&empty).unwrap_err();
    assert!(error.to_string().contains("empty.pem"), "{error}");
}

#[tokio::test]
async fn new_roots_are_used_by_the_next_dial() {
    let folders = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, other) = (
        Authority::new(folders.0.path()),
        Authority::new(folders.1.path()),
    );
    let (server, _) = load(&ours);
    let root = other.write_root();
    let client = ClientTls::load_polling(&root, EVERY).unwrap();
    let error = handshake(&server, &client).await.unwrap_err();
    assert!(error.contains("invalid peer certificate"), "{error}");
    // Both roots in one file, as while a root is being rotated.
    std::fs::write(&root, other.root_pem() + &ours.root_pem()).unwrap();
    until(async || handshake(&server, &client).await.ok()).await;
    std::fs::write(&root, "broken").unwrap();
    handshake(&server, &client).await.unwrap();
}
