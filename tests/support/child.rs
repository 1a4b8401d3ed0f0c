//! Runs a test again in a process of its own, where it may fork, close stdin, drop its rights, count, or die.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const SCENARIO: &str = "STILLMAP_TEST_SCENARIO";
/// Only against a hang: no test depends on how long anything takes. `STILLMAP_TEST_TIMEOUT` is for slow machines, in seconds.
fn timeout() -> Duration {
    let seconds = std::env::var("STILLMAP_TEST_TIMEOUT").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(600))
}

/// Starts a test that has a child: `let child = scenario!(|| { ... });` as its first statement.
/// In the child the closure runs and the process ends; in the parent the value configures and runs that child.
macro_rules! scenario {
    ($body:expr) => {{
        fn here() {}
        $crate::support::child::Scenario::new(std::any::type_name_of_val(&here), $body)
    }};
}
pub(crate) use scenario;

pub struct Scenario {
    command: Command,
    /// For what the child makes, and cannot remove if it dies.
    dir: tempfile::TempDir,
}

/// How the child ended and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Scenario {
    pub fn new(marker: &str, body: impl FnOnce()) -> Self {
        // "crate::module::test::here", where libtest says "module::test".
        let name = marker
            .trim_end_matches("::here")
            .split_once("::")
            .map(|(_, name)| name)
            .expect("a path with a crate name");
        if std::env::var_os(SCENARIO).is_some_and(|wanted| wanted == name) {
            run_alone(body);
        }
        let dir = super::temp_dir();
        // The child may become another user.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        std::fs::set_permissions(dir.path(), mode).expect("open it to all");
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command
            .args([
                "--exact",
                name,
                "--nocapture",
                "--include-ignored",
                "--test-threads=1",
            ])
            .env(SCENARIO, name)
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Scenario { command, dir }
    }

    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.command.stdin(stdin);
        self
    }

    /// Hands a value to the child, which reads it with [`argument`].
    pub fn argument(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(format!("STILLMAP_TEST_{name}"), value);
        self
    }

    /// Runs the child to its end.
    pub fn run(&mut self) -> Outcome {
        let child = self.command.spawn().expect("start the test binary again");
        let id = child.id() as libc::pid_t;
        let (ended, end) = mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let _ = ended.send(child.wait_with_output());
        });
        let output = end.recv_timeout(timeout()).unwrap_or_else(|_| {
            // SAFETY: our own child, not waited for yet, so the number is still its.
            unsafe { libc::kill(id, libc::SIGKILL) };
            end.recv().expect("the waiter sends before it ends")
        });
        waiter.join().expect("join the waiter");
        let output = output.expect("wait for the child");
        super::temporary::remove_leftovers(self.dir.path());
        Outcome {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs the child and fails the test if it failed; repeats what the child skipped.
    #[track_caller]
    pub fn succeed(&mut self) -> Outcome {
        let outcome = self.run();
        assert!(
            outcome.status.success(),
            "the child ended with {} (killed after {:?} if SIGKILL)\n--- stdout\n{}\n--- stderr\n{}",
            outcome.status,
            timeout(),
            outcome.stdout,
            outcome.stderr
        );
        for line in outcome.stderr.lines() {
            if let Some((_, why)) = line.split_once("skipped: ") {
                super::skip(why);
            }
        }
        outcome
    }
}

impl Outcome {
    /// The lines that the child reported with [`report`], in order.
    pub fn reports(&self) -> Vec<&str> {
        self.stdout
            .lines()
            .filter_map(|line| line.strip_prefix("report: "))
            .collect()
    }

    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// In a child: what the parent handed over under `name`.
pub fn argument(name: &str) -> OsString {
    std::env::var_os(format!("STILLMAP_TEST_{name}")).expect("the parent sets every argument")
}

/// In a child: reports one line to the parent.
pub fn report(line: impl std::fmt::Display) {
    // libtest has begun a line of its own.
    println!("\nreport: {line}");
}

/// libtest runs tests beside its main thread, and a process with two threads may not do all that ours may. The copy
/// that fork makes has one. Ends this process as the copy ended.
fn run_alone(body: impl FnOnce()) -> ! {
    // What a child has changed is put back when it ends, so it ends with the process that waits for it.
    // SAFETY: takes plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let parent = std::process::id();
    let alone = || {
        // SAFETY: takes plain numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if std::os::unix::process::parent_id() == parent {
            body();
        }
    };
    // SAFETY: libtest's main thread waits for this one and holds no lock.
    let copy = unsafe { fork_into(alone) };
    let status = copy.wait();
    if let Some(signal) = status.signal() {
        // SAFETY: dies here, of the same signal.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    std::process::exit(status.code().unwrap_or(101))
}

/// Forks; `body` runs in the new process, which then ends without running anything of ours.
/// Only in a scenario, whose process has one thread.
pub fn fork(body: impl FnOnce()) -> Forked {
    assert_eq!(super::kernel::threads(), 1, "fork with other threads");
    // SAFETY: no other thread, so no lock is held by one.
    unsafe { fork_into(body) }
}

/// The same with other threads.
///
/// # Safety
/// No other thread may hold a lock that `body` takes, those of the allocator aside: fork(2) of the C library takes them.
pub unsafe fn fork_into(body: impl FnOnce()) -> Forked {
    // SAFETY: as the caller promises.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            let _ = std::io::Write::flush(&mut std::io::stdout());
            // SAFETY: touches no memory, and keeps libtest's code from running twice.
            unsafe { libc::_exit(if done.is_ok() { 0 } else { 101 }) }
        }
        id => Forked { id },
    }
}

/// A child made by [`fork`]; to be waited for.
#[must_use]
pub struct Forked {
    id: libc::pid_t,
}

impl Forked {
    pub fn id(&self) -> libc::pid_t {
        self.id
    }

    /// SIGKILL.
    pub fn kill(&self) {
        // SAFETY: our own child, not waited for yet, so the number is still its.
        unsafe { libc::kill(self.id, libc::SIGKILL) };
    }

    pub fn wait(self) -> ExitStatus {
        let mut status = 0;
        // SAFETY: `status` is valid for the result.
        while unsafe { libc::waitpid(self.id, &mut status, 0) } == -1 {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "{error}");
        }
        ExitStatus::from_raw(status)
    }

    #[track_caller]
    pub fn succeed(self) {
        let status = self.wait();
        assert!(status.success(), "the forked child ended with {status}");
    }
}
