//! Whatever ends a run, nothing of it is left: a sandbox's outer process is killed, and all it started must go with it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Trial};
use mesh_tests::sandbox::{self, Entered, Rights};

/// The argument with which this program plays a run: enters a sandbox and starts processes whose last argument is the
/// mark that follows.
const PLAY: &str = "--play-a-run";
const LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let [_, play, mark] = &args[..]
        && play == PLAY
    {
        return report(play_a_run(mark));
    }
    let trials = vec![
        Trial::test("a_killed_run_leaves_nothing", || {
            Ok(a_killed_run_leaves_nothing()?)
        }),
        Trial::test("two_runs_do_not_meet", || Ok(two_runs_do_not_meet()?)),
        Trial::test("nothing_of_the_machine_changes", || {
            Ok(nothing_of_the_machine_changes()?)
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn report(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// A listener on a fixed port, a named file, a process that has left its parent's session; then it waits for ever.
fn play_a_run(mark: &OsString) -> Result<ExitCode> {
    let sandbox = match sandbox::enter(Rights::AnyUser)? {
        Entered::Inside(sandbox) => sandbox,
        Entered::Ended(code) => return Ok(code),
    };
    let _port =
        std::net::TcpListener::bind("127.0.0.1:15012").context("the port is not mine alone")?;
    std::fs::write(sandbox.dir().join("file"), "")?;
    std::fs::write("/etc/hosts", "127.0.0.1 nobody.but.me\n")?;
    let script = r#"setsid sh -c "echo ready; sleep 1000; :" "$0" & wait"#;
    let status = Command::new("sh").args(["-c", script]).arg(mark).status()?;
    ensure!(status.success(), "sh ended with {status}");
    Ok(ExitCode::SUCCESS)
}

struct Run {
    outer: Child,
    mark: String,
}

impl Run {
    fn start(name: &str) -> Result<Self> {
        let mark = format!("lazymesh-sandbox-test-{name}-{}", std::process::id());
        let mut outer = Command::new(std::env::current_exe()?)
            .args([PLAY, &mark])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = outer.stdout.take().context("no pipe")?;
        let run = Self { outer, mark };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "the run did not start: {line:?}");
        ensure!(!run.processes()?.is_empty());
        Ok(run)
    }

    /// The processes of the run, all of which have the mark among their arguments.
    fn processes(&self) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A process that ends in between has no arguments any more.
            let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if pid != self.outer.id() && String::from_utf8_lossy(&arguments).contains(&self.mark) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// Waits until `count` processes are there. Between fork and exec a child still shows its parent's arguments, so that
    /// a single look may see more than there are.
    fn wait_for(&self, count: usize) -> Result<()> {
        let begin = Instant::now();
        loop {
            let found = self.processes()?;
            if found.len() == count {
                return Ok(());
            }
            ensure!(begin.elapsed() < LIMIT, "not {count} processes: {found:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(&mut self) -> Result<()> {
        self.outer.kill()?;
        self.outer.wait()?;
        self.wait_for(0)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

fn a_killed_run_leaves_nothing() -> Result<()> {
    let mut run = Run::start("killed")?;
    // unshare, the inner process, its shell, and the one that left for a session of its own.
    run.wait_for(4)?;
    run.kill()
}

fn two_runs_do_not_meet() -> Result<()> {
    let mut one = Run::start("one")?;
    let mut two = Run::start("two")?;
    one.kill()?;
    ensure!(
        !two.processes()?.is_empty(),
        "the end of one run ended the other"
    );
    two.kill()
}

fn nothing_of_the_machine_changes() -> Result<()> {
    let hosts = std::fs::read_to_string("/etc/hosts")?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut run = Run::start("traces")?;
    ensure!(
        std::fs::read_to_string("/etc/hosts")? == hosts,
        "/etc/hosts has changed"
    );
    ensure!(
        std::fs::read_to_string("/proc/self/mounts")? == mounts,
        "there are new mounts"
    );
    ensure!(
        !Path::new("/run/lazymesh").exists(),
        "/run/lazymesh is to be seen from outside"
    );
    run.kill()
}
