//! What Kubernetes' answers mean, and what a header may look like.

use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};

use super::token_review::judge;
use super::*;

fn answer(authenticated: Option<bool>, audiences: &[&str], user: &str) -> Result<(), Error> {
    let user = UserInfo {
        username: Some(user.into()),
        ..UserInfo::default()
    };
    let status = TokenReviewStatus {
        authenticated,
        audiences: Some(audiences.iter().map(ToString::to_string).collect()),
        user: Some(user),
        ..TokenReviewStatus::default()
    };
    let user = judge(&status)?;
    allowed().check(&user, Call::Report)
}

fn allowed() -> Allowed {
    let account = |name: &str| name.parse::<ServiceAccount>().unwrap();
    Allowed::new(
        &[account("lazymesh-system/xds-shim")],
        &[account("lazymesh-system/global-proxy")],
    )
}

#[test]
fn only_a_good_token_for_us_of_one_who_may() {
    let shim = "system:serviceaccount:lazymesh-system:xds-shim";
    assert!(answer(Some(true), &["lazymesh.dev"], shim).is_ok());
    assert!(matches!(
        answer(None, &["lazymesh.dev"], shim),
        Err(Error::Invalid(_))
    ));
    assert!(matches!(
        answer(Some(false), &["lazymesh.dev"], shim),
        Err(Error::Invalid(_))
    ));
    assert!(matches!(
        answer(Some(true), &["istio-ca"], shim),
        Err(Error::Invalid(_))
    ));
    assert!(matches!(
        answer(Some(true), &[], shim),
        Err(Error::Invalid(_))
    ));
    let other = "system:serviceaccount:shop:xds-shim";
    assert!(matches!(
        answer(Some(true), &["lazymesh.dev"], other),
        Err(Error::NotAllowed { .. })
    ));
    assert!(matches!(
        answer(Some(true), &["lazymesh.dev"], ""),
        Err(Error::NotAllowed { .. })
    ));
}

#[test]
fn shims_report_global_proxies_tell_of_calls_and_both_watch() {
    let may = |name: &str| {
        let user = format!("system:serviceaccount:lazymesh-system:{name}");
        [Call::Report, Call::Watch, Call::Calls]
            .map(|call| {
                allowed()
                    .check(&user, call)
                    .map_err(|error| error.to_string())
            })
            .map(|checked| checked.is_ok())
    };
    assert_eq!(may("xds-shim"), [true, true, false]);
    assert_eq!(may("global-proxy"), [false, true, true]);
    assert_eq!(may("other"), [false; 3]);
    let refused = allowed().check("x", Call::Calls).unwrap_err().to_string();
    assert!(refused.contains("--allow-global-proxy"), "{refused}");
}

#[test]
fn a_header_is_a_bearer_token_or_nothing() {
    let with = |value: &str| {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", value.parse().unwrap());
        bearer(&metadata).map(str::to_owned).ok()
    };
    assert_eq!(with("Bearer abc"), Some("abc".into()));
    assert_eq!(with("bearer  abc"), Some("abc".into()));
    for bad in ["", "abc", "Bearer", "Bearer  ", "Basic abc"] {
        assert_eq!(with(bad), None, "{bad:?}");
    }
    assert!(bearer(&MetadataMap::new()).is_err());
}

#[test]
fn an_empty_or_missing_token_file_lets_nobody_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    assert!(TokenFile::open(&path).is_err());
    std::fs::write(&path, " \n").unwrap();
    assert!(TokenFile::open(&path).is_err());
    std::fs::write(&path, "secret").unwrap();
    let file = TokenFile::open(&path).unwrap();
    assert!(file.check("secret").is_ok());
    assert!(file.check("secre").is_err());
    std::fs::write(&path, "").unwrap();
    assert!(matches!(file.check(""), Err(Error::Unavailable(_))));
}
