//! The flags that say where the controller is.

use std::path::PathBuf;

use crate::{Controller, SetupError};

/// Where the controller is, and how the two know one another. The command that takes these flags in names their
/// environment variables.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Controller")]
pub struct ControllerArgs {
    /// The lazyload controller, https://HOST:PORT
    #[arg(id = "controller", long = "controller", value_name = "URL")]
    pub address: Option<String>,
    /// Roots that the controller's certificate is verified with (PEM)
    #[arg(
        id = "controller_ca",
        long = "controller-ca",
        value_name = "FILE",
        requires = "controller"
    )]
    pub ca: Option<PathBuf>,
    /// A service account token with audience lazymesh.dev; read again at every connection
    #[arg(
        id = "controller_token",
        long = "controller-token",
        value_name = "FILE",
        requires = "controller"
    )]
    pub token: Option<PathBuf>,
}

impl ControllerArgs {
    /// The controller, if they name one. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the address or the roots cannot be used.
    pub fn controller(&self) -> Result<Option<Controller>, SetupError> {
        let Some(address) = &self.address else {
            return Ok(None);
        };
        Controller::new(address, self.ca.as_deref(), self.token.clone()).map(Some)
    }
}
