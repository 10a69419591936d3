use super::*;

const LINGER: Duration = Duration::from_secs(10);

fn objects(names: &[&str]) -> BTreeMap<Name, String> {
    let names = names.iter();
    names
        .map(|name| (Name::new("shop", name), format!("uid of {name}")))
        .collect()
}

fn found(sidecars: &[&str], filters: &[&str]) -> Found {
    Found {
        sidecars: objects(sidecars),
        filters: objects(filters),
    }
}

#[test]
fn sidecars_then_a_while_then_filters() {
    let (mut clean_up, start) = (CleanUp::default(), Instant::now());
    let mut next = |found: Found, after: u64| {
        let now = start + Duration::from_secs(after);
        clean_up.next(&found, LINGER, now).unwrap()
    };
    let sidecars = Step::Delete(Kind::Sidecar, objects(&["a", "b"]));
    assert_eq!(next(found(&["a", "b"], &["f"]), 0), sidecars);
    let sidecar = Step::Delete(Kind::Sidecar, objects(&["b"]));
    assert_eq!(next(found(&["b"], &["f"]), 5), sidecar);
    assert_eq!(next(found(&[], &["f"]), 6), Step::Wait(LINGER));
    let left = Step::Wait(Duration::from_secs(1));
    assert_eq!(next(found(&[], &["f"]), 15), left);
    // One that comes meanwhile needs its fallback.
    let late = Step::Delete(Kind::Sidecar, objects(&["c"]));
    assert_eq!(next(found(&["c"], &["f"]), 15), late);
    assert_eq!(next(found(&[], &["f"]), 16), Step::Wait(LINGER));
    let filters = Step::Delete(Kind::EnvoyFilter, objects(&["f"]));
    assert_eq!(next(found(&[], &["f"]), 26), filters);
    assert_eq!(next(found(&[], &[]), 26), Step::Over);
}

#[test]
fn where_there_is_nothing_there_is_nothing_to_wait_for() {
    let step = CleanUp::default().next(&Found::default(), LINGER, Instant::now());
    assert_eq!(step.unwrap(), Step::Over);
}

#[test]
fn what_comes_back_is_somebody_s_who_still_writes() {
    let mut clean_up = CleanUp::default();
    let key = (Kind::Sidecar, Name::new("shop", "a"));
    clean_up.deleted.insert(key.clone(), "uid of a".to_owned());
    let now = Instant::now();
    // The same one may take its time to go.
    let step = clean_up.next(&found(&["a"], &[]), LINGER, now);
    assert_eq!(step.unwrap(), Step::Delete(Kind::Sidecar, objects(&["a"])));
    clean_up.deleted.insert(key, "another".to_owned());
    let again = clean_up.next(&found(&["a"], &[]), LINGER, now);
    let said = again.unwrap_err().to_string();
    assert!(
        said.contains("Sidecar shop/a") && said.contains("scale"),
        "{said}"
    );
}
