//! Gets the published peers: builds the Rust ones and installs the Python one, once, below the target directory. What runs them
//! lives in `peer.rs`.

use core::time::Duration;
use std::fs;
use std::io::{Read, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

/// Where everything goes that the tests make for themselves.
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");
const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
const PYTHON_PACKAGE: &str = "falcotcp==0.1.1";
/// Set to 1 where a missing peer shall fail the tests, as in CI.
const REQUIRE: &str = "FALCO_REQUIRE_PEERS";
/// A first build downloads and compiles Tokio; it may also wait for another cargo.
const BUILD_TIME: Duration = Duration::from_secs(900);
const INSTALL_TIME: Duration = Duration::from_secs(300);
const IMPORT_TIME: Duration = Duration::from_secs(60);

/// The binary of `peer-thread`.
pub(crate) fn thread_peer() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("peer-thread"))
}

/// The binary of `peer-tokio`.
pub(crate) fn tokio_peer() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("peer-tokio"))
}

/// The script of the Python peer.
pub(crate) fn python_script() -> PathBuf {
    Path::new(PEERS).join("peer.py")
}

/// A Python interpreter that has the published package; `None`, and a line on standard error, where this machine cannot have one.
pub(crate) fn python() -> Option<&'static Path> {
    static INSTALLED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match INSTALLED.get_or_init(install) {
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

fn build(package: &str) -> PathBuf {
    let target = Path::new(SCRATCH).join("peers");
    // The two runtimes are features of one crate that exclude each other: one package, one build.
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--package", package, "--manifest-path"]);
    cargo
        .arg(Path::new(PEERS).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    // Flags of the build under test, such as instrumentation, are not the peer's; nor is a cross-compilation.
    cargo
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    run(&mut cargo, BUILD_TIME).unwrap_or_else(|error| panic!("building {package}: {error}"));
    target
        .join("debug")
        .join(package)
        .with_extension(std::env::consts::EXE_EXTENSION)
}

/// A virtual environment with the package: the one of an earlier run if it still works, else a new one, put in its place by a
/// rename so that another process never sees half of one.
fn install() -> Result<PathBuf, String> {
    let interpreter = |environment: &Path| environment.join("bin").join("python");
    let works = |environment: &Path| {
        let check = "import falcotcp_py; assert falcotcp_py.__version__ == '0.1.1'";
        run(Command::new(interpreter(environment)).args(["-c", check]), IMPORT_TIME)
    };
    let place = Path::new(SCRATCH).join("peer-python");
    if works(&place).is_ok() {
        return Ok(interpreter(&place));
    }
    run(Command::new("python3").arg("--version"), IMPORT_TIME).map_err(|error| format!("missing: python3: {error}"))?;
    let fresh = Path::new(SCRATCH).join(format!("peer-python-{}", std::process::id()));
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(&fresh), INSTALL_TIME)
        .map_err(|error| format!("missing: python3 -m venv: {error}"))
        .and_then(|()| {
            let mut pip = Command::new(interpreter(&fresh));
            pip.args(["-m", "pip", "install", "--quiet", "--no-input", PYTHON_PACKAGE]);
            run(&mut pip, INSTALL_TIME).map_err(|error| format!("missing: pip install {PYTHON_PACKAGE}: {error}"))
        })
        .and_then(|()| works(&fresh).map_err(|error| format!("missing: a {PYTHON_PACKAGE} that works: {error}")));
    if made.is_ok() && fs::rename(&fresh, &place).is_err() && works(&place).is_err() {
        // What stands there is an old one that has stopped working, and not another process's new one.
        let _ = fs::remove_dir_all(&place);
        fs::rename(&fresh, &place).map_err(|error| format!("missing: a place for {PYTHON_PACKAGE}: {error}"))?;
    }
    let _ = fs::remove_dir_all(&fresh);
    made.map(|()| interpreter(&place))
}

/// Runs a command to its end, for `limit` at most. Its last words are the error.
fn run(command: &mut Command, limit: Duration) -> Result<(), String> {
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
