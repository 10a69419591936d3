//! A run's own world: network, mount and process namespaces that vanish with the process that asked for them.
//!
//! [`enter`] starts the calling program a second time inside fresh namespaces and waits for it. In there, addresses and
//! ports are fixed, `/run` is a private tmpfs (so named network namespaces and work files stay private), `/etc/hosts`
//! is a file of the run, and the program is process 1: however it ends, the kernel ends everything it started. Nothing
//! on the machine needs cleaning up afterwards, also not after SIGKILL.
//!
//! It never touches the namespaces it was started in, and knows nothing of Istio.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Tells the second start that it is the inner one. Checked together with being process 1.
const MARK: &str = "LAZYMESH_SANDBOX";
/// In the private tmpfs over `/run`, where every user may look: proxies run as a user of their own.
const DIR: &str = "/run/lazymesh";
const NAMESPACES: [&str; 6] = [
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
];

/// Why a sandbox could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine or the user's rights do not allow it.
    #[error("cannot make namespaces: {reason} (hint: {hint})")]
    Refused {
        /// What the system said.
        reason: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A set-up command inside the namespaces failed.
    #[error("sandbox: `{command}` failed: {reason}")]
    Setup {
        /// The command line.
        command: String,
        /// Its standard error, or why it did not start.
        reason: String,
    },
    /// A file of the sandbox could not be read or written.
    #[error("sandbox: {path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Whose rights the sandbox needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// root itself: several user ids are needed inside.
    Root,
    /// root, or an ordinary user where user namespaces are allowed; inside, there is only one user, "root".
    AnyUser,
}

/// What [`enter`] came back as.
#[derive(Debug)]
pub enum Entered {
    /// This process is the inner one: go on.
    Inside(Sandbox),
    /// This process is the outer one, and the inner one has ended: exit with its code.
    Ended(ExitCode),
}

/// The inside of a sandbox. There is one per process.
#[derive(Debug)]
pub struct Sandbox {
    dir: PathBuf,
}

impl Sandbox {
    /// A folder in memory for this run's files. Everyone may enter it. It vanishes with the run.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that is `/etc/hosts` for everything in the sandbox. Append to it; do not replace it.
    pub fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }
}

/// Moves the program into namespaces of its own. Call it first thing in `main`, before any thread is started: the
/// program's arguments and environment are simply handed on.
///
/// # Errors
/// [`Error::Refused`] when the namespaces are not to be had, with a hint; the others when setting them up fails.
pub fn enter(rights: Rights) -> Result<Entered, Error> {
    if is_inner() {
        return inside().map(Entered::Inside);
    }
    let flags = unshare_flags(rights)?;
    let program = std::env::current_exe().map_err(|source| Error::File {
        path: "/proc/self/exe".into(),
        source,
    })?;
    // When this process ends, `unshare` is killed by the first flag, and then the inner process by `--kill-child`.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(&flags)
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .status()
        .map_err(|error| Error::Setup {
            command: "setpriv".into(),
            reason: error.to_string(),
        })?;
    Ok(Entered::Ended(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .map_or(ExitCode::FAILURE, ExitCode::from),
    ))
}

/// Says whether [`enter`] would be let in, before anything dear is done.
///
/// # Errors
/// [`Error::Refused`] when not, with a hint.
pub fn check(rights: Rights) -> Result<(), Error> {
    if is_inner() {
        return Ok(());
    }
    unshare_flags(rights).map(drop)
}

fn is_inner() -> bool {
    std::env::var_os(MARK).is_some() && std::process::id() == 1
}

/// The flags of `unshare` that work here, tried out with a program that does nothing.
fn unshare_flags(rights: Rights) -> Result<Vec<&'static str>, Error> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if rights == Rights::Root && !is_root {
        return Err(Error::Refused {
            reason: "not root".into(),
            hint: "run it as root",
        });
    }
    let as_user = || {
        ["--user", "--map-root-user"]
            .into_iter()
            .chain(NAMESPACES)
            .collect::<Vec<_>>()
    };
    let candidates = match (is_root, rights) {
        (true, Rights::Root) => vec![NAMESPACES.to_vec()],
        (true, Rights::AnyUser) => vec![NAMESPACES.to_vec(), as_user()],
        (false, _) => vec![as_user()],
    };
    let mut reason = String::new();
    for flags in candidates {
        match run(Command::new("unshare").args(&flags).arg("true")) {
            Ok(()) => return Ok(flags),
            Err(Error::Setup { reason: said, .. }) => reason = said,
            Err(other) => return Err(other),
        }
    }
    let hint = if is_root {
        "root here lacks the right: in a container, start it with --privileged"
    } else {
        "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0), or run it as root"
    };
    Err(Error::Refused { reason, hint })
}

fn inside() -> Result<Sandbox, Error> {
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "lazymesh", "/run"]))?;
    let sandbox = Sandbox { dir: DIR.into() };
    let file = |path: &Path, source| Error::File {
        path: path.to_owned(),
        source,
    };
    fs::create_dir(sandbox.dir()).map_err(|source| file(sandbox.dir(), source))?;
    let hosts = sandbox.hosts();
    fs::write(&hosts, "127.0.0.1 localhost\n::1 localhost\n")
        .map_err(|source| file(&hosts, source))?;
    run(Command::new("mount")
        .arg("--bind")
        .arg(&hosts)
        .arg("/etc/hosts"))?;
    Ok(sandbox)
}

/// Runs a short command to its end, its output kept for the error.
fn run(command: &mut Command) -> Result<(), Error> {
    let name = format!("{command:?}");
    let fail = |reason: String| Error::Setup {
        command: name,
        reason,
    };
    match Command::output(command) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(fail(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
        Err(error) => Err(fail(error.to_string())),
    }
}
