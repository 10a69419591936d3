//! Whether a lazy client was answered as a plain one.

use std::collections::BTreeSet;

use super::known::{self, Pair};
use super::observe::Observation;

/// After so many calls of each side, a lazy client that spreads as the plain one does has mostly shown it.
const ENOUGH: usize = 14;
/// After so many no more are made: what of two equally likely answers one client never showed by then it does not have.
const MOST: usize = 60;
/// A lazy client does not have what it never shows, when chance would hide it no more often than this. A run compares
/// some ten thousand answers.
const CHANCE: f64 = 1e-7;

/// All that was seen of one probe in one phase.
#[derive(Clone, Debug)]
pub struct Calls {
    /// The plain client's calls; the first of them before the lazy one's, the second after.
    pub plain: Vec<Observation>,
    /// The lazy client's calls; the first of them is its first.
    pub lazy: Vec<Observation>,
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody can tell the difference.
    Same,
    /// A difference that is documented, by its reason.
    Known(&'static str),
    /// The plain client is answered now so and now so, in more than by whom: there is nothing to compare with.
    Unstable,
    /// Not made by both: calls before it took too long.
    NotMade,
    /// A difference: which of the lazy client's calls (0 is the first) shows it, and in what.
    Differs {
        /// The call's number.
        call: usize,
        /// What differs.
        what: Vec<&'static str>,
    },
}

impl Calls {
    /// Whether servers saw as much of each call as of the others.
    pub fn all_arrived(&self) -> bool {
        let mut counts = self
            .plain
            .iter()
            .chain(&self.lazy)
            .map(|call| call.arrived.len());
        let first = counts.next();
        counts.all(|count| Some(count) == first)
    }

    /// Whether more calls could change the verdict: something differed already, be it among the plain ones.
    pub fn want_more(&self) -> bool {
        let mut all = self.plain.iter().chain(&self.lazy);
        let first = all.next();
        let differ = all.any(|other| Some(other) != first);
        let least = self.plain.len().min(self.lazy.len());
        let doubtful = || self.of_its_own().is_some() || self.chance_of_spreading() < 1.0;
        differ && (least < ENOUGH || least < MOST && doubtful())
    }

    /// The first of the lazy client's calls that was answered as none of the plain one's was, and is not documented.
    fn of_its_own(&self) -> Option<usize> {
        let plain: BTreeSet<_> = self.plain.iter().collect();
        let numbered = self.lazy.iter().enumerate();
        let mut own = numbered.filter(|(call, lazy)| {
            !alike(&plain, lazy) && documented(&plain, lazy, *call).is_none()
        });
        own.next().map(|(call, _)| call)
    }

    /// Where the plain client is answered now by one server, now by another: the chance that the lazy one is as well, and yet
    /// never so as the plain one often was.
    fn chance_of_spreading(&self) -> f64 {
        let plain: BTreeSet<_> = self.plain.iter().collect();
        if plain.len() < 2 || !differ_by_server_only(&plain) {
            return 1.0;
        }
        let missed = |answer: &&&Observation| !self.lazy.contains(answer);
        let chance = |answer: &Observation| {
            let shown = self.plain.iter().filter(|one| *one == answer).count();
            chance_of_missing(shown, self.plain.len(), self.lazy.len())
        };
        let missed = plain.iter().filter(missed);
        missed.map(|answer| chance(answer)).fold(1.0, f64::min)
    }
}

/// Compares.
pub fn judge(calls: &Calls) -> Verdict {
    if calls.plain.is_empty() || calls.lazy.is_empty() {
        return Verdict::NotMade;
    }
    let plain: BTreeSet<_> = calls.plain.iter().collect();
    if let Some(call) = calls.of_its_own() {
        if !differ_by_server_only(&plain) {
            return Verdict::Unstable;
        }
        let what = plain.first().map(|plain| fields(plain, &calls.lazy[call]));
        return Verdict::Differs {
            call,
            what: what.unwrap_or_default(),
        };
    }
    let mut reasons = calls.lazy.iter().enumerate().filter_map(|(call, lazy)| {
        let own = !alike(&plain, lazy);
        own.then(|| documented(&plain, lazy, call)).flatten()
    });
    if let Some(reason) = reasons.next_back() {
        return Verdict::Known(reason);
    }
    // Where plain Istio spreads, a lazy client must spread as well.
    if calls.chance_of_spreading() < CHANCE {
        return Verdict::Differs {
            call: calls.lazy.len() - 1,
            what: vec!["spread"],
        };
    }
    Verdict::Same
}

/// Of so many calls of each client together `shown` had an answer: the chance that all of these are the plain one's, if
/// who is answered how is chance.
fn chance_of_missing(shown: usize, plain: usize, lazy: usize) -> f64 {
    let parts = (0..shown).map(|n| (plain - n) as f64 / (plain + lazy - n) as f64);
    parts.product()
}

/// Whether an answer is one of the plain client's.
fn alike(plain: &BTreeSet<&Observation>, lazy: &Observation) -> bool {
    plain.contains(lazy) || lazy.combines(plain)
}

/// Why an answer may differ from all of the plain client's, if it may.
fn documented(
    plain: &BTreeSet<&Observation>,
    lazy: &Observation,
    call: usize,
) -> Option<&'static str> {
    let mut all = plain.iter();
    all.find_map(|plain| known::reason(&Pair { plain, lazy, call }))
}

fn differ_by_server_only(observations: &BTreeSet<&Observation>) -> bool {
    let whoever: BTreeSet<_> = observations
        .iter()
        .map(|observation| observation.whoever_answered())
        .collect();
    whoever.len() <= 1
}

/// The names of what differs.
fn fields(plain: &Observation, lazy: &Observation) -> Vec<&'static str> {
    let mut fields = Vec::new();
    let mut add = |name, same: bool| {
        if !same {
            fields.push(name);
        }
    };
    add("status", plain.status == lazy.status);
    add("error", plain.error == lazy.error);
    add("body", plain.body == lazy.body);
    add("headers", plain.headers == lazy.headers);
    add("answers", plain.answers == lazy.answers);
    add("arrived", plain.arrived == lazy.arrived);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::observe::Seen;

    fn answered_by(server: &str) -> Observation {
        let seen = Seen {
            server: server.to_owned(),
            caller: Some("$SELF".to_owned()),
            ..Seen::default()
        };
        Observation {
            status: Some(200),
            answers: vec![seen.clone()],
            arrived: vec![seen],
            ..Observation::default()
        }
    }

    fn failed(error: &str) -> Observation {
        Observation {
            error: Some(error.to_owned()),
            ..Observation::default()
        }
    }

    fn calls(plain: &[Observation], lazy: &[Observation]) -> Calls {
        Calls {
            plain: plain.to_vec(),
            lazy: lazy.to_vec(),
        }
    }

    fn differs(call: usize, what: &[&'static str]) -> Verdict {
        Verdict::Differs {
            call,
            what: what.to_vec(),
        }
    }

    #[test]
    fn the_same_is_the_same() {
        let one = answered_by("v1");
        let all = [one.clone(), one];
        assert_eq!(judge(&calls(&all, &all)), Verdict::Same);
        assert!(!calls(&all, &all).want_more());
    }

    #[test]
    fn a_dropped_mirror_is_found() {
        let mut mirrored = answered_by("v1");
        mirrored.arrived.push(Seen {
            server: "v2".to_owned(),
            host: "web-shadow".to_owned(),
            ..Seen::default()
        });
        let (plain, bare) = ([mirrored.clone(), mirrored.clone()], answered_by("v1"));
        let first_only = calls(&plain, &[bare.clone(), mirrored]);
        assert_eq!(judge(&first_only), differs(0, &["arrived"]));
        assert_eq!(
            judge(&calls(&plain, &[bare.clone(), bare])),
            differs(0, &["arrived"])
        );
    }

    /// Neither client calls often enough to see every pair of servers.
    #[test]
    fn a_mirror_and_its_original_spread_by_themselves() {
        let pair = |server: &str, mirror: &str| {
            let mut one = answered_by(server);
            one.arrived.push(Seen {
                server: mirror.to_owned(),
                host: "web-shadow".to_owned(),
                ..Seen::default()
            });
            one.arrived.sort();
            one
        };
        let plain = [pair("v1", "v1"), pair("v2", "v2")];
        let other = calls(&plain, &[pair("v1", "v2"), pair("v2", "v1")]);
        assert_eq!(judge(&other), Verdict::Same);
        let wrong = calls(&plain, &[pair("v1", "outside")]);
        assert_eq!(judge(&wrong), differs(0, &["arrived"]));
    }

    #[test]
    fn a_wrong_wildcard_is_found_in_both_directions() {
        let (one, other) = (answered_by("outside"), failed("ended"));
        let pairs = [(&one, &other), (&other, &one)];
        for (plain, lazy) in pairs {
            let both = [plain.clone(), plain.clone()];
            let verdict = judge(&calls(&both, &[lazy.clone(), lazy.clone()]));
            assert!(
                matches!(verdict, Verdict::Differs { call: 0, .. }),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn a_stranded_name_is_found() {
        let one = answered_by("v1");
        let stranded = Observation {
            status: Some(503),
            body: Some("no healthy upstream".to_owned()),
            ..Observation::default()
        };
        let verdict = judge(&calls(&[one.clone(), one.clone()], &[one, stranded]));
        assert_eq!(
            verdict,
            differs(1, &["status", "body", "answers", "arrived"])
        );
    }

    #[test]
    fn an_identity_that_is_lost_is_found() {
        let one = answered_by("v1");
        let mut nobody = one.clone();
        nobody.answers[0].caller = None;
        let verdict = judge(&calls(&[one.clone(), one.clone()], &[nobody, one]));
        assert_eq!(verdict, differs(0, &["answers"]));
    }

    #[test]
    fn several_servers_are_several_answers() {
        let (one, two) = (answered_by("v1"), answered_by("v2"));
        let few = calls(&[one.clone(), one.clone()], &[two.clone(), one.clone()]);
        assert!(few.want_more());
        let spread = |count: usize| -> Vec<_> {
            let all = [&one, &two, &two].into_iter().cycle().take(count);
            all.cloned().collect()
        };
        let all = calls(&spread(ENOUGH), &spread(ENOUGH));
        assert_eq!((judge(&all), all.want_more()), (Verdict::Same, false));
        // Chance might do that now and then, but not so often.
        let stuck = |count: usize| calls(&spread(count), &vec![one.clone(); count]);
        assert_eq!(judge(&stuck(ENOUGH)), Verdict::Same);
        assert!(stuck(ENOUGH).want_more());
        assert_eq!(judge(&stuck(MOST)), differs(MOST - 1, &["spread"]));
        assert!(!stuck(MOST).want_more());
        assert_eq!(
            judge(&calls(
                &spread(ENOUGH),
                &vec![answered_by("outside"); ENOUGH]
            )),
            differs(0, &["answers", "arrived"])
        );
    }

    #[test]
    fn what_only_the_lazy_client_shows_must_show_though_the_plain_one_calls_often() {
        let (one, two) = (answered_by("v1"), answered_by("v2"));
        let once = |count: usize| {
            let mut lazy = vec![one.clone(); count];
            lazy[0] = two.clone();
            calls(&vec![one.clone(); count], &lazy)
        };
        assert!(once(ENOUGH).want_more());
        assert!(!once(MOST).want_more());
        assert_eq!(judge(&once(MOST)), differs(0, &["answers", "arrived"]));
        let mut late = once(MOST);
        late.plain[MOST - 1] = two.clone();
        assert_eq!(judge(&late), Verdict::Same);
    }

    #[test]
    fn what_is_rare_may_be_missed_by_chance() {
        let near = |chance: f64, expected: f64| (chance / expected - 1.0).abs() < 0.01;
        assert!(near(chance_of_missing(1, 14, 14), 0.5));
        assert!(near(chance_of_missing(7, 14, 14), 3432.0 / 1_184_040.0));
        // Four answers, each as likely, and one is not there: of 60 calls too few for a verdict.
        assert!(chance_of_missing(15, 60, 60) > CHANCE);
        assert!(chance_of_missing(30, 60, 60) < CHANCE);
    }

    #[test]
    fn one_call_of_each_side_is_enough_to_differ_and_none_is_not() {
        let (one, stranded) = ([answered_by("v1")], [failed("timeout")]);
        assert_eq!(
            judge(&calls(&one, &stranded)),
            differs(0, &["status", "error", "answers", "arrived"])
        );
        assert_eq!(judge(&calls(&one, &[])), Verdict::NotMade);
        assert_eq!(judge(&calls(&[], &one)), Verdict::NotMade);
    }

    #[test]
    fn what_flickers_for_plain_istio_is_not_compared() {
        let flickers = [failed("odd"), failed("ended")];
        assert_eq!(judge(&calls(&flickers, &flickers)), Verdict::Same);
        let verdict = judge(&calls(&flickers, &[failed("timeout")]));
        assert_eq!(verdict, Verdict::Unstable);
    }
}
