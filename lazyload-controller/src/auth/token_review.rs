//! Service account tokens, which Kubernetes checks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{
    TokenReview as Review, TokenReviewSpec, TokenReviewStatus,
};
use kube::api::PostParams;
use kube::{Api, Client};
use moka::sync::Cache;

use super::{Allowed, Call, Error};

/// Whom tokens must be made for.
pub(super) const AUDIENCE: &str = "lazymesh.dev";
/// How long a good answer is believed, and how many are kept.
const BELIEVED: Duration = Duration::from_secs(60);
const KEPT: u64 = 4096;
/// How long Kubernetes may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
pub struct TokenReview {
    reviews: Api<Review>,
    allowed: Allowed,
    /// Whose good tokens are, by the tokens' hashes; not the tokens themselves.
    good: Cache<[u8; 32], Arc<str>>,
}

impl fmt::Debug for TokenReview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReview")
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}

impl TokenReview {
    /// Lets these service accounts in.
    #[must_use]
    pub fn new(client: Client, allowed: Allowed) -> Self {
        Self {
            reviews: Api::all(client),
            allowed,
            good: Cache::builder()
                .max_capacity(KEPT)
                .time_to_live(BELIEVED)
                .build(),
        }
    }

    pub(super) async fn check(&self, token: &str, call: Call) -> Result<(), Error> {
        let user = self.user(token).await?;
        self.allowed.check(&user, call)
    }

    /// Whose token it is.
    async fn user(&self, token: &str) -> Result<Arc<str>, Error> {
        let hash = *blake3::hash(token.as_bytes()).as_bytes();
        if let Some(user) = self.good.get(&hash) {
            return Ok(user);
        }
        let spec = TokenReviewSpec {
            audiences: Some(vec![AUDIENCE.into()]),
            token: token.into(),
        };
        let review = Review {
            spec,
            ..Review::default()
        };
        let params = PostParams::default();
        let asked = tokio::time::timeout(PATIENCE, self.reviews.create(&params, &review)).await;
        let answer = match asked {
            Ok(Ok(review)) => review.status.unwrap_or_default(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "TokenReview failed");
                return Err(Error::Unavailable("Kubernetes does not answer".into()));
            }
            Err(_) => return Err(Error::Unavailable("Kubernetes takes too long".into())),
        };
        let user: Arc<str> = judge(&answer)?.into();
        self.good.insert(hash, user.clone());
        Ok(user)
    }
}

/// Whom Kubernetes' answer names. It must name our audience: one that knows nothing of audiences would take any token.
pub(super) fn judge(answer: &TokenReviewStatus) -> Result<String, Error> {
    if answer.authenticated != Some(true) {
        return Err(Error::Invalid(
            "Kubernetes does not know it, or it is not for us".into(),
        ));
    }
    if !answer
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == AUDIENCE)
    {
        return Err(Error::Invalid(format!(
            "it is not for the audience {AUDIENCE}"
        )));
    }
    let user = answer.user.as_ref();
    Ok(user
        .and_then(|user| user.username.clone())
        .unwrap_or_default())
}
