use dependency_graph::{Dependency, Mode, Protocol, Source};
use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn wish(after: u64) -> Wish {
    Wish {
        after: Some(Ok(Duration::from_secs(after))),
        begun: false,
    }
}

/// A record that learned each of these hosts and ports at that second.
fn record(learned: &[(&str, u32, u64)]) -> Record {
    let mut record = Record::default();
    for (host, port, second) in learned {
        let dependency = Dependency {
            host: host.parse().unwrap(),
            port: (*port).try_into().unwrap(),
            protocol: Protocol::Http,
        };
        record
            .learned
            .see(&dependency, at(*second), Source::OnDemand);
    }
    record
}

const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

#[test]
fn it_waits_from_when_something_new_was_last_learned() {
    let record = record(&[("a.shop", 80, 100), ("b.shop", 80, 200)]);
    let judge = |now| judge(Some(&record), &wish(50), None, at(now));
    assert_eq!(judge(200), Verdict::Waits(at(250)));
    assert_eq!(judge(249), Verdict::Waits(at(250)));
    assert_eq!(judge(250), Verdict::Settled);
    // A clock that is behind the one that wrote the record.
    assert_eq!(judge(1), Verdict::Waits(at(250)));
}

#[test]
fn what_is_known_and_called_again_is_nothing_new() {
    // Another port of the same host is not either.
    let record = record(&[
        ("a.shop", 80, 100),
        ("a.shop", 80, 900),
        ("a.shop", 81, 950),
    ]);
    let verdict = judge(Some(&record), &wish(50), None, at(950));
    assert_eq!(verdict, Verdict::Settled);
}

#[test]
fn the_record_s_word_counts_before_the_flag_s() {
    let record = record(&[("a.shop", 80, 100)]);
    let judge = |wish: &Wish, default| judge(Some(&record), wish, default, at(160));
    let none = Wish::default();
    assert_eq!(judge(&none, None), Verdict::NotAsked);
    assert_eq!(judge(&none, HOUR), Verdict::Waits(at(3700)));
    assert_eq!(judge(&wish(60), HOUR), Verdict::Settled);
    assert_eq!(judge(&wish(0), HOUR), Verdict::NotAsked);
    assert_eq!(judge(&none, Some(Duration::ZERO)), Verdict::NotAsked);
    let wrong = Wish {
        after: Some(Err("soon".to_owned())),
        begun: true,
    };
    let lacks = Verdict::Lacks(Lack::InvalidSettleAfter);
    assert_eq!(judge(&wrong, HOUR), lacks);
    // Less than a second is not none.
    let brief = Some(Duration::from_millis(10));
    assert_eq!(
        super::judge(Some(&record), &none, brief, at(100)),
        Verdict::Waits(at(101))
    );
}

#[test]
fn once_settled_it_stays_so_while_it_grows() {
    let begun = |after| Wish {
        begun: true,
        ..wish(after)
    };
    let grew = record(&[("a.shop", 80, 100), ("b.shop", 80, 999)]);
    assert_eq!(
        judge(Some(&grew), &begun(60), None, at(1000)),
        Verdict::Settled
    );
    // All of it forgotten.
    assert_eq!(
        judge(Some(&record(&[])), &begun(60), None, at(1000)),
        Verdict::Settled
    );
    // Until it is not asked for any more.
    assert_eq!(
        judge(Some(&grew), &begun(0), None, at(1000)),
        Verdict::NotAsked
    );
    let gone = Wish {
        after: None,
        begun: true,
    };
    assert_eq!(judge(Some(&grew), &gone, None, at(1000)), Verdict::NotAsked);
}

#[test]
fn of_what_nothing_was_learned_nothing_is_taken() {
    let lacks = Verdict::Lacks(Lack::NothingLearned);
    assert_eq!(judge(None, &wish(1), None, at(9999)), lacks);
    let pinned = Record {
        mode: Some(Mode::OnDemand),
        ..Record::default()
    };
    assert_eq!(judge(Some(&pinned), &wish(1), None, at(9999)), lacks);
}

#[test]
fn what_is_said_says_the_phase() {
    let phase = |said: Said| {
        let all = BTreeSet::from([Said::new("SidecarWritten", true, "Written", ""), said]);
        assert_eq!(begun(&all), super::phase(&all) != Phase::Learning);
        super::phase(&all)
    };
    assert_eq!(phase(said(Ok("shop/x"))), Phase::Settled);
    for why in [STARTING, "UserSidecar", "NoGlobalProxy", "Refused"] {
        assert_eq!(phase(said(Err(why))), Phase::Settling, "{why}");
    }
    for lack in Lack::ALL {
        assert_eq!(phase(lack.said()), Phase::Learning, "{lack:?}");
    }
    assert_eq!(super::phase(&BTreeSet::new()), Phase::Learning);
}

proptest! {
    /// Time alone never takes it back, and the time it says is when it comes.
    #[test]
    fn it_comes_when_it_says(
        seen in prop::collection::vec(0_u64..10_000, 1..6),
        after in 1_u64..10_000,
        now in 0_u64..30_000,
    ) {
        let hosts: Vec<String> = (0..seen.len()).map(|n| format!("h{n}.shop")).collect();
        let learned: Vec<_> = hosts.iter().zip(&seen).map(|(h, s)| (h.as_str(), 80, *s)).collect();
        let record = record(&learned);
        let judge = |now: u64| judge(Some(&record), &wish(after), None, at(now));
        match judge(now) {
            Verdict::Waits(due) => {
                prop_assert!(due > at(now));
                prop_assert_eq!(judge(due.seconds()), Verdict::Settled);
                prop_assert_eq!(judge(due.seconds() - 1), Verdict::Waits(due));
            }
            verdict => {
                prop_assert_eq!(verdict, Verdict::Settled);
                prop_assert_eq!(judge(now + 1), Verdict::Settled);
            }
        }
    }
}
