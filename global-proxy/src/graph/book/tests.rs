use super::*;
use crate::decide::Answer;
use api::call_answer::State;
use dependency_graph::Protocol;

fn call(who: &str, number: usize) -> Arc<Call> {
    Arc::new(Call {
        spiffe_id: format!("spiffe://td/ns/shop/sa/{who}"),
        pod: Some("cart-1".into()),
        authority: format!("h{number}"),
        destination: "10.0.0.1:80".parse().unwrap(),
        protocol: Protocol::Http,
    })
}

fn seen(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn answer(id: u64, state: State, done: bool) -> api::CallAnswer {
    api::CallAnswer {
        id,
        state: state.into(),
        done,
        ..Default::default()
    }
}

fn add(book: &mut Book, number: usize) -> Arc<Told> {
    let told = book.add(&call("cart", number), seen(1), Instant::now());
    told.unwrap()
}

/// The ids of the next batch.
fn sent(book: &mut Book) -> Vec<u64> {
    let batch = book.batch().unwrap_or_default();
    batch.iter().map(|call| call.id).collect()
}

#[test]
fn a_call_is_said_as_it_came() {
    let mut book = Book::default();
    add(&mut book, 7);
    let wanted = api::Call {
        id: 1,
        spiffe_id: "spiffe://td/ns/shop/sa/cart".into(),
        pod: "cart-1".into(),
        authority: "h7".into(),
        destination: "10.0.0.1:80".into(),
        protocol: api::Protocol::Http.into(),
        seen: Some(seen(1).into()),
    };
    assert_eq!(book.batch(), Some(vec![wanted]));
    assert_eq!(book.batch(), None);
}

#[test]
fn batches_are_cut_by_their_bytes_as_well() {
    let mut book = Book::default();
    // As long as a caller's certificate, its pod and its host can make them.
    let long = |number: usize| {
        Arc::new(Call {
            spiffe_id: "s".repeat(2048),
            pod: Some("p".repeat(253)),
            authority: format!("{number:0>300}"),
            ..(*call("cart", number)).clone()
        })
    };
    for number in 0..1000 {
        book.add(&long(number), seen(1), Instant::now()).unwrap();
    }
    let mut ids = Vec::new();
    while let Some(calls) = book.batch() {
        let batch = api::CallsRequest { calls };
        assert!(
            batch.encoded_len() < (1 << 20) + 4096,
            "{}",
            batch.encoded_len()
        );
        ids.extend(batch.calls.iter().map(|call| call.id));
    }
    assert_eq!(ids, (1..=1000).collect::<Vec<u64>>());
    // One that is too long by itself still goes.
    let huge = Call {
        authority: "a".repeat(2 << 20),
        ..(*call("cart", 1)).clone()
    };
    book.add(&Arc::new(huge), seen(1), Instant::now()).unwrap();
    assert_eq!(sent(&mut book), [1001]);
}

#[test]
fn equal_calls_are_sent_once_with_the_later_time_and_share_an_answer() {
    let (mut book, now) = (Book::default(), Instant::now());
    let first = book.add(&call("cart", 1), seen(5), now).unwrap();
    let second = book.add(&call("cart", 1), seen(9), now).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(book.len(), 1);
    let batch = book.batch().unwrap();
    assert_eq!((batch.len(), batch[0].seen), (1, Some(seen(9).into())));
    // Sent and not yet answered: not sent again.
    book.add(&call("cart", 1), seen(10), now);
    assert!(!book.has_unsent());
    book.answered(&answer(1, State::UnknownName, true), now);
    assert_eq!(second.heard().answer(now), Answer::UnknownName);
}

#[test]
fn a_call_is_kept_until_it_is_settled_and_need_not_be_sent_again() {
    let now = Instant::now();
    for ends in [
        // Stored first, then written; or the other way round.
        [(State::Pending, true), (State::Written, true)],
        [(State::Written, false), (State::Written, true)],
        [(State::Pending, false), (State::Refused, true)],
    ] {
        let mut book = Book::default();
        let told = add(&mut book, 1);
        assert_eq!(sent(&mut book), [1]);
        let [(first, stored), (last, done)] = ends;
        assert!(book.answered(&answer(1, first, stored), now).is_some());
        assert_eq!(book.len(), 1);
        assert!(book.answered(&answer(1, last, done), now).is_some());
        assert_eq!(book.len(), 0);
        assert!(told.is_settled());
        // What comes after that is of nobody.
        assert_eq!(book.answered(&answer(1, first, false), now), None);
    }
}

#[test]
fn a_lost_stream_sends_again_what_is_not_settled_in_order() {
    let (mut book, now) = (Book::default(), Instant::now());
    let told: Vec<_> = (0..4).map(|number| add(&mut book, number)).collect();
    assert_eq!(sent(&mut book), [1, 2, 3, 4]);
    book.answered(&answer(2, State::Written, true), now);
    book.answered(&answer(3, State::Pending, true), now);
    add(&mut book, 9);
    book.rewind();
    assert_eq!(sent(&mut book), [1, 3, 4, 5]);
    // What was heard before is heard still.
    assert_eq!(told[2].heard().answer(now), Answer::Pending);
    book.answered(&answer(3, State::Written, true), now);
    assert!(told[2].is_settled());
}

#[test]
fn what_is_stored_and_never_settled_is_asked_again_and_forgotten_in_the_end() {
    let (mut book, now) = (Book::default(), Instant::now());
    add(&mut book, 1);
    sent(&mut book);
    book.answered(&answer(1, State::Pending, true), now);
    assert!(!book.has_unsent());
    let again = now + LINGER / 2;
    book.add(&call("cart", 1), seen(2), again);
    assert_eq!(sent(&mut book), [1]);
    book.answered(&answer(1, State::Pending, true), again);
    // The first time it was stored counts no more: it was sent since, and is stored anew.
    book.add(&call("cart", 2), seen(2), now + LINGER);
    assert_eq!(book.len(), 2);
    book.add(&call("cart", 2), seen(2), again + LINGER);
    assert_eq!(book.len(), 1);
}

#[test]
fn an_answer_that_is_not_understood_ends_the_sending_only() {
    let (mut book, now) = (Book::default(), Instant::now());
    let told = add(&mut book, 1);
    sent(&mut book);
    assert_eq!(
        book.answered(&answer(1, State::Unspecified, true), now),
        None
    );
    assert_eq!(told.heard().answer(now), Answer::Unheard);
    assert!(!book.has_unsent());
    assert_eq!(book.answered(&answer(77, State::Written, true), now), None);
}

#[test]
fn batches_and_memory_are_bounded_and_nobody_takes_all_the_room() {
    let (mut book, now) = (Book::default(), Instant::now());
    let mut full = |who: &str| {
        let mut taken = 0;
        while book.add(&call(who, taken), seen(1), now).is_some() {
            taken += 1;
        }
        taken
    };
    assert_eq!(full("greedy"), MOST_OF_ONE);
    let others: usize = ["a", "b", "c", "d", "e"].into_iter().map(&mut full).sum();
    assert_eq!(MOST_OF_ONE + others, MOST);
    assert_eq!(sent(&mut book).len(), BATCH);
    // Room comes back.
    for id in 1..=10 {
        book.answered(&answer(id, State::UnknownName, true), now);
    }
    assert!(book.add(&call("greedy", MOST), seen(1), now).is_some());
    let counted: usize = book.of_caller.values().sum();
    assert_eq!(counted, book.len());
}
