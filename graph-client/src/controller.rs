//! Where the controller is, and how it is called.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dependency_graph::api::dependency_graph_client::DependencyGraphClient;
use mesh_runtime::grpc::{self, Dialer, TokenError, TokenFile};
use mesh_runtime::retry::Retry;
use mesh_runtime::tls::{self, ClientTls};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tracing::warn;

/// Between attempts: it doubles up to the longest. A stranded first call waits for 5 s at the most.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The longest message taken. A graph of half a million edges is some tens of megabytes.
const LONGEST_MESSAGE: usize = 256 << 20;

/// Why a stream to the controller ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection.
    #[error("{0}")]
    Dial(#[from] grpc::Error),
    /// The controller said so.
    #[error("{0}")]
    Call(#[from] Box<Status>),
    /// There is no token to show.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// It ended without a reason.
    #[error("the controller ended the stream")]
    Ended,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

/// What is wrong with the flags that say where the controller is.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The roots cannot be used.
    #[error("--controller-ca: {0}")]
    Roots(#[from] tls::Error),
    /// The address cannot be dialed.
    #[error("--controller: {0}")]
    Address(#[from] grpc::Error),
}

/// A controller to talk to.
#[derive(Clone, Debug)]
pub struct Controller {
    /// Where it is.
    pub dialer: Dialer,
    /// A service account token, read at every connection since the kubelet changes it.
    pub token: Option<TokenFile>,
}

impl Controller {
    /// The one at `address`, whose certificate is verified with `roots`; `token` is shown to it. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the address or the roots cannot be used.
    pub fn new(
        address: &str,
        roots: Option<&Path>,
        token: Option<PathBuf>,
    ) -> Result<Self, SetupError> {
        let tls = roots.map(ClientTls::load).transpose()?;
        Ok(Self {
            dialer: Dialer::new(address, tls, None)?,
            token: token.map(TokenFile::new),
        })
    }

    /// A client on a fresh connection.
    ///
    /// # Errors
    /// When there is none.
    pub async fn client(&self) -> Result<DependencyGraphClient<Channel>, Error> {
        let client = DependencyGraphClient::new(self.dialer.connect().await?);
        Ok(client.max_decoding_message_size(LONGEST_MESSAGE))
    }

    /// A request with the token of this moment.
    ///
    /// # Errors
    /// When there is a token file, but no token in it.
    pub fn request<T>(&self, message: T) -> Result<Request<T>, Error> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            token.authorize(&mut request)?;
        }
        Ok(request)
    }

    /// The waits between attempts at a stream that is to be there for ever.
    #[must_use]
    pub fn retry() -> Retry {
        Retry::new(SHORTEST_WAIT, LONGEST_WAIT)
    }

    /// Says that an attempt is over, and waits until the next.
    pub async fn pause(&self, stream: &str, outcome: Result<(), Error>, retry: &mut Retry) {
        let (controller, retry_in) = (self.dialer.address(), retry.failed());
        let error = outcome.err().unwrap_or(Error::Ended);
        warn!(stream, controller, %error, ?retry_in, "not connected to the controller");
        tokio::time::sleep(retry_in).await;
    }
}

/// The next message of a stream that may not have begun: then it waits for ever.
///
/// # Errors
/// When the stream has failed.
pub async fn next_of<T>(stream: &mut Option<Streaming<T>>) -> Result<Option<T>, Status> {
    match stream {
        Some(stream) => stream.message().await,
        None => std::future::pending().await,
    }
}
