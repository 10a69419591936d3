//! The place that holds the mesh's objects: watched into a [`World`], and written by the leader.
//!
//! A place tells [`Watched`] what there is and what changes, and does what it is asked to. What is written is decided in
//! [`crate::plan`], when in [`crate::sidecars`].
//!
//! [`World`]: crate::mesh::World

pub mod file;
pub mod kubernetes;
pub mod watched;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use kube::core::DynamicObject;
use serde_json::Value;
use thiserror::Error;

use crate::mesh::sidecar::Made;
use crate::mesh::{Kind, Name};

pub use watched::{News, Watched};

/// Why something was not written.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Fault {
    /// A user has edited a field of ours. Theirs stays.
    #[error("a user has edited it: {0}")]
    Edited(String),
    /// What is there is another object than was meant, one of a user's among others. It is left alone.
    #[error("it is another object than the one meant: {0}")]
    Another(String),
    /// It has changed since it was last seen. What is to be written may not be what was decided any more.
    #[error("it has changed meanwhile: {0}")]
    Stale(String),
    /// It is refused as it is, and will be again.
    #[error("refused: {0}")]
    Refused(String),
    /// It may work another time.
    #[error("{0}")]
    Unavailable(String),
}

/// The place itself cannot be used any more.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Lost(pub String);

/// A place with the mesh's objects.
pub trait Cluster: fmt::Debug + Send + Sync + 'static {
    /// Tells all there is of every [`Kind`], and every change from then on. A kind that the place does not have is told
    /// as empty. What fails is tried again.
    fn follow(self: Arc<Self>, watched: Watched) -> BoxFuture<'static, Result<(), Lost>>;

    /// Makes an object, or changes the one that was `made`, if it still is as it was, so that our fields are as given;
    /// fields of others stay. Says how it is then.
    fn apply<'a>(
        &'a self,
        kind: Kind,
        name: &'a Name,
        object: &'a Value,
        made: Option<&'a Made>,
    ) -> BoxFuture<'a, Result<DynamicObject, Fault>>;

    /// Deletes this very object. One that is gone already is as good.
    fn delete<'a>(
        &'a self,
        kind: Kind,
        name: &'a Name,
        uid: &'a str,
    ) -> BoxFuture<'a, Result<(), Fault>>;
}
