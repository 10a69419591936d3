//! What Kubernetes' answers mean, and what a header may look like.

use std::collections::BTreeSet;

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
    let allowed = "lazymesh-system/xds-shim"
        .parse::<ServiceAccount>()
        .unwrap()
        .user_name();
    judge(&status, &BTreeSet::from([allowed]))
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
        Err(Error::NotAllowed(_))
    ));
    assert!(matches!(
        answer(Some(true), &["lazymesh.dev"], ""),
        Err(Error::NotAllowed(_))
    ));
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
