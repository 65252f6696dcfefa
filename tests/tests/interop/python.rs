//! Python packages for the interop tests of either wire: installed once, each into a virtual
//! environment of its own below the target directory. What runs them lives elsewhere.

use core::time::Duration;
use std::fs;
use std::io::{Read, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

/// Where everything goes that the tests make for themselves.
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");
/// Set to 1 where a missing peer shall fail the tests, as in CI.
const REQUIRE: &str = "FALCO_REQUIRE_PEERS";
const INSTALL_TIME: Duration = Duration::from_secs(300);
const IMPORT_TIME: Duration = Duration::from_secs(60);

/// What a peer needs.
pub(crate) struct Package {
    /// What pip is told to install.
    pub(crate) requirements: &'static [&'static str],
    /// A program that fails unless it is there and works.
    pub(crate) check: &'static str,
    /// The directory of its environment.
    pub(crate) place: &'static str,
}

/// The interpreter that has it, or what is missing.
pub(crate) type Installed = Result<PathBuf, String>;

/// The interpreter; `None`, and a line on standard error, where this machine cannot have one.
pub(crate) fn interpreter(installed: &'static Installed) -> Option<&'static Path> {
    match installed {
        Ok(python) => Some(python),
        Err(missing) => {
            assert!(
                std::env::var(REQUIRE).as_deref() != Ok("1"),
                "{REQUIRE}=1 and {missing}"
            );
            let current = thread::current();
            let test = current.name().unwrap_or("a test");
            // Straight to the stream: what a passing test prints is otherwise not shown.
            let _ = writeln!(stderr(), "NOT RUN: {test}: {missing} (with {REQUIRE}=1 this fails)");
            None
        }
    }
}

/// A virtual environment with the package: the one of an earlier run if it still works, else a new
/// one, put in its place by a rename so that another process never sees half of one.
pub(crate) fn install(package: &Package) -> Installed {
    let interpreter = |environment: &Path| environment.join("bin").join("python");
    let works = |environment: &Path| {
        run(
            Command::new(interpreter(environment)).args(["-c", package.check]),
            IMPORT_TIME,
        )
    };
    let place = Path::new(SCRATCH).join(package.place);
    let wanted = package.requirements.join(" ");
    if works(&place).is_ok() {
        return Ok(interpreter(&place));
    }
    run(Command::new("python3").arg("--version"), IMPORT_TIME).map_err(|error| format!("missing: python3: {error}"))?;
    let fresh = Path::new(SCRATCH).join(format!("{}-{}", package.place, std::process::id()));
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(&fresh), INSTALL_TIME)
        .map_err(|error| format!("missing: python3 -m venv: {error}"))
        .and_then(|()| {
            let mut pip = Command::new(interpreter(&fresh));
            pip.args(["-m", "pip", "install", "--quiet", "--no-input"])
                .args(package.requirements);
            run(&mut pip, INSTALL_TIME).map_err(|error| format!("missing: pip install {wanted}: {error}"))
        })
        .and_then(|()| works(&fresh).map_err(|error| format!("missing: a {wanted} that works: {error}")));
    if made.is_ok() && fs::rename(&fresh, &place).is_err() && works(&place).is_err() {
        // What stands there is an old one that has stopped working, and not another process's new
        // one.
        let _ = fs::remove_dir_all(&place);
        fs::rename(&fresh, &place).map_err(|error| format!("missing: a place for {wanted}: {error}"))?;
    }
    let _ = fs::remove_dir_all(&fresh);
    made.map(|()| interpreter(&place))
}

/// Runs a command to its end, for `limit` at most. Its last words are the error.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<(), String> {
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| error.to_string())?;
    let mut pipe = child.stderr.take().expect("standard error is piped");
    let words = thread::spawn(move || {
        let mut words = Vec::new();
        let _ = pipe.read_to_end(&mut words);
        String::from_utf8_lossy(&words).trim().to_owned()
    });
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{status}: {}", words.join().unwrap_or_default())),
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("not done after {limit:?}"));
            }
        }
    }
}
