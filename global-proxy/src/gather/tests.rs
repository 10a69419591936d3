use super::*;
use std::future::pending;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(10);

/// Runs it on one thread, as a worker does.
async fn local<F: Future>(future: F) -> F::Output {
    let local = LocalSet::new();
    timeout(LONG, local.run_until(future)).await.unwrap()
}

#[tokio::test]
async fn what_is_flushed_goes_out_after_the_turn_at_once() {
    let (near, mut far) = duplex(1 << 20);
    let io = Gathered::new(near);
    let mut writer = io.clone();
    let task = async move {
        for piece in [b"one ", b"two "] {
            writer.write_all(piece).await.unwrap();
            writer.flush().await.unwrap();
        }
        let kept = writer.0.borrow().out.len();
        assert_eq!(kept, 8, "nothing is written within the turn");
        pending::<()>().await;
    };
    local(async move {
        spawn_local(turns(io.clone(), task));
        let mut came = [0; 8];
        far.read_exact(&mut came).await.unwrap();
        assert_eq!(&came, b"one two ");
        assert_eq!(io.0.borrow().out.capacity(), 0);
    })
    .await;
}

#[tokio::test]
async fn much_is_written_as_the_peer_takes_it_and_no_more_is_kept() {
    let (near, mut far) = duplex(1000);
    let io = Gathered::new(near);
    let mut writer = io.clone();
    let sent: Vec<u8> = (0..=250).cycle().take(10 * MUCH).collect();
    let expected = sent.clone();
    let of_task = io.clone();
    let task = async move {
        for piece in sent.chunks(10_000) {
            writer.write_all(piece).await.unwrap();
            assert!(of_task.0.borrow().out.len() < MUCH + 10_000);
        }
        writer.shutdown().await.unwrap();
    };
    local(async move {
        spawn_local(turns(io, task));
        let mut came = Vec::new();
        far.read_to_end(&mut came).await.unwrap();
        assert!(came == expected);
    })
    .await;
}

#[tokio::test]
async fn a_task_that_does_not_use_the_connection_leaves_it_alone() {
    let (near, _far) = duplex(1000);
    let io = Gathered::new(near);
    let mut writer = io.clone();
    writer.write_all(b"kept").await.unwrap();
    local(perhaps_turns(io.clone(), async {})).await;
    assert_eq!(&io.0.borrow().out[..], b"kept");
}

#[tokio::test]
async fn reads_are_whole_whatever_their_size() {
    let (near, mut far) = duplex(1 << 20);
    let mut io = Gathered::new(near);
    let sent: Vec<u8> = (0..=250).cycle().take(700_000).collect();
    far.write_all(&sent).await.unwrap();
    drop(far);
    let (mut came, mut piece, mut most) = (Vec::new(), [0; 777], 0);
    loop {
        let read = io.read(&mut piece).await.unwrap();
        if read == 0 {
            break;
        }
        came.extend_from_slice(&piece[..read]);
        most = most.max(io.0.borrow().read_size);
    }
    assert!(came == sent);
    assert_eq!(most, *READ.end());
}

#[tokio::test]
async fn a_write_that_fails_later_is_told() {
    let (near, far) = duplex(1000);
    drop(far);
    let io = Gathered::new(near);
    let mut writer = io.clone();
    let task = async move {
        writer.write_all(b"lost").await.unwrap();
        // Its own turn has to end first.
        tokio::task::yield_now().await;
        writer.write_all(b"more").await
    };
    let told = local(turns(io, task)).await;
    assert_eq!(told.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
