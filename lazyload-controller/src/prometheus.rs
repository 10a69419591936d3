//! Asks a Prometheus server, or what speaks as one, which workload calls what.
//!
//! Nothing it answers is trusted to be small, quick or well formed. No redirect is followed: the token goes nowhere else.

pub mod answer;
pub mod query;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dependency_graph::Timestamp;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use mesh_runtime::tls::{self, ClientTls};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

pub use answer::{Answer, Row};

/// The largest answer that is read: 100,000 pairs of workload and service have some 15 MB.
pub const LARGEST_ANSWER: usize = 32 << 20;
/// The most that is read of an answer that says why there is none.
const LARGEST_REFUSAL: usize = 64 << 10;
/// How much of a query an error shows.
const SHOWN: usize = 400;

/// Flags.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Args {
    /// Where Prometheus answers, such as http://prometheus.istio-system:9090; a path before /api/v1 may be in it.
    /// Without it nothing is learned from the past, and nothing is ever forgotten
    #[arg(long = "prometheus", env = "LAZYMESH_PROMETHEUS", value_name = "URL", value_parser = base_url)]
    pub url: Option<Uri>,
    /// A file with the bearer token for Prometheus; read at each query
    #[arg(
        long = "prometheus-token-file",
        env = "LAZYMESH_PROMETHEUS_TOKEN_FILE",
        value_name = "FILE",
        requires = "url"
    )]
    pub token_file: Option<PathBuf>,
    /// The roots that Prometheus' certificate must be signed by, PEM; followed when it changes. Default: the system's
    #[arg(
        long = "prometheus-ca",
        env = "LAZYMESH_PROMETHEUS_CA",
        value_name = "FILE",
        requires = "url"
    )]
    pub ca: Option<PathBuf>,
    /// How long a query may take
    #[arg(
        long = "prometheus-timeout",
        env = "LAZYMESH_PROMETHEUS_TIMEOUT",
        default_value = "30s",
        value_name = "DURATION",
        value_parser = crate::config::positive
    )]
    pub timeout: Duration,
}

/// Checks an address, and says it without what is at its end.
fn base_url(text: &str) -> Result<Uri, String> {
    let hint = "(hint: such as http://prometheus.istio-system:9090)";
    let uri: Uri = text
        .trim_end_matches('/')
        .parse()
        .map_err(|error| format!("{error} {hint}"))?;
    let authority = uri
        .authority()
        .ok_or_else(|| format!("it names no host {hint}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(format!(
            "it begins with neither http:// nor https:// {hint}"
        ));
    }
    if authority.as_str().contains('@') {
        return Err(
            "a name and password in it are not taken (hint: --prometheus-token-file)".into(),
        );
    }
    if uri.query().is_some() {
        return Err(format!("it has a query {hint}"));
    }
    Ok(uri)
}

/// Why there is no answer.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Fault {
    /// No connection, or one that broke.
    #[error("{0} (hint: --prometheus)")]
    Unreachable(String),
    /// It took too long.
    #[error("no answer within {0:?} (hint: --prometheus-timeout)")]
    Timeout(Duration),
    /// It was refused.
    #[error("refused with status {0}: {1}")]
    Refused(u16, String),
    /// It is too much to be answered, or to be read: a smaller question may do.
    #[error("too much to answer at once: {0}")]
    TooMuch(String),
    /// What came is no answer.
    #[error("not an answer of Prometheus': {0}")]
    Malformed(String),
    /// The token cannot be shown.
    #[error("token file {0}")]
    Token(String),
}

impl Fault {
    /// Every label value of [`Fault::as_str`].
    pub const NAMES: [&'static str; 6] = [
        "unreachable",
        "timeout",
        "refused",
        "too_much",
        "malformed",
        "token",
    ];

    /// The label value.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Refused(..) => "refused",
            Self::TooMuch(_) => "too_much",
            Self::Malformed(_) => "malformed",
            Self::Token(_) => "token",
        }
    }
}

/// A query without an answer.
#[derive(Clone, Debug, Error)]
#[error("{fault}; asked: {query}")]
pub struct Error {
    /// What was asked, cut short if long.
    pub query: String,
    /// Why there is no answer.
    pub fault: Fault,
}

/// Why no server can be asked.
#[derive(Debug, Error)]
pub enum Unusable {
    /// The file of roots.
    #[error("--prometheus-ca: {0}")]
    Tls(#[from] tls::Error),
    /// The system's roots.
    #[error("the system's root certificates: {0} (hint: --prometheus-ca)")]
    Roots(io::Error),
}

type Https = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Where the roots are from.
#[derive(Clone, Debug)]
enum Roots {
    /// The system, or none are needed.
    System(Box<Https>),
    /// A file that may change: each query begins with what is in it.
    File(ClientTls),
}

/// A server to ask. Clones share it.
#[derive(Clone, Debug)]
pub struct Prometheus {
    url: Uri,
    token_file: Option<PathBuf>,
    roots: Roots,
    timeout: Duration,
}

impl Prometheus {
    /// The server that the flags name, if they do. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the roots cannot be read.
    pub fn new(args: &Args) -> Result<Option<Self>, Unusable> {
        let Some(base) = &args.url else {
            return Ok(None);
        };
        let roots = match &args.ca {
            Some(file) => Roots::File(ClientTls::load(file)?),
            None => Roots::System(Box::new(client(settings(
                base.scheme_str() == Some("https"),
            )?))),
        };
        let path = base.path().trim_end_matches('/');
        let mut parts = base.clone().into_parts();
        // Both parts were taken from an address that was read.
        parts.path_and_query = format!("{path}/api/v1/query").parse().ok();
        let url = Uri::from_parts(parts).unwrap_or_else(|_| base.clone());
        Ok(Some(Self {
            url,
            token_file: args.token_file.clone(),
            roots,
            timeout: args.timeout,
        }))
    }

    /// Asks for the value of an expression at a moment.
    ///
    /// # Errors
    /// When there is no answer within the time a query may take.
    pub async fn ask(&self, query: &str, at: Timestamp) -> Result<Answer, Error> {
        let answered = tokio::time::timeout(self.timeout, self.answer(query, at)).await;
        let answer = answered.unwrap_or(Err(Fault::Timeout(self.timeout)));
        answer.map_err(|fault| Error {
            query: query.chars().take(SHOWN).collect(),
            fault,
        })
    }

    async fn answer(&self, query: &str, at: Timestamp) -> Result<Answer, Fault> {
        let request = self.request(query, at)?;
        let client = match &self.roots {
            Roots::System(client) => (**client).clone(),
            Roots::File(tls) => {
                let mut config = (*tls.config()).clone();
                // The connector says for itself what it speaks.
                config.alpn_protocols.clear();
                client(config)
            }
        };
        let response = client.request(request).await.map_err(|error| {
            // What failed is behind what the client says of it.
            let cause = std::error::Error::source(&error);
            Fault::Unreachable(match cause {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            })
        })?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        let body = read(response.into_body(), LARGEST_ANSWER).await?;
        answer::parse(&body)
    }

    fn request(&self, query: &str, at: Timestamp) -> Result<Request<Full<Bytes>>, Fault> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", query)
            .append_pair("time", &at.seconds().to_string())
            .append_pair("timeout", &format!("{}ms", self.timeout.as_millis()))
            .finish();
        let mut request = Request::new(Full::from(form));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form);
        if let Some(path) = &self.token_file {
            let fault = |reason: String| Fault::Token(format!("{}: {reason}", path.display()));
            let token = std::fs::read_to_string(path).map_err(|e| fault(e.to_string()))?;
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
                .map_err(|_| fault("it holds what no header can carry".into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

/// The settings of TLS with the system's roots; with none at all where no TLS is spoken.
fn settings(speaks_tls: bool) -> Result<ClientConfig, Unusable> {
    let provider = rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(tls::Error::Settings)?;
    let builder = if speaks_tls {
        builder.with_native_roots().map_err(Unusable::Roots)?
    } else {
        builder.with_root_certificates(RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

fn client(config: ClientConfig) -> Https {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .build();
    Client::builder(TokioExecutor::new()).build(connector)
}

async fn read(body: Incoming, most: usize) -> Result<Bytes, Fault> {
    let collected = Limited::new(body, most).collect().await;
    let collected = collected.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Fault::TooMuch(format!("the answer has more than {most} bytes"))
        } else {
            Fault::Unreachable(format!("the answer broke off: {error}"))
        }
    })?;
    Ok(collected.to_bytes())
}

/// What a refusal says for itself, if it is one of Prometheus'.
async fn refusal(response: Response<Incoming>) -> Fault {
    let status = response.status();
    let body = read(response.into_body(), LARGEST_REFUSAL).await;
    let reason = body.ok().and_then(|body| answer::refusal(&body));
    match reason {
        Some(reason) if answer::asks_too_much(&reason) => Fault::TooMuch(reason),
        Some(reason) => Fault::Refused(status.as_u16(), reason),
        None => {
            let meant = status.canonical_reason().unwrap_or("no reason");
            Fault::Refused(status.as_u16(), meant.into())
        }
    }
}
