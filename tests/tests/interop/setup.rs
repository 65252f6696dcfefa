//! Gets the published peers: builds the Rust ones and installs the Python one, once, below the
//! target directory; and our own tool. What runs them lives in `peer.rs` and `tool.rs`.

use core::time::Duration;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::python::{self, Package, run};

/// Where everything goes that the tests make for themselves.
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");
const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
const FALCOTCP: Package = Package {
    requirements: &["falcotcp==0.1.1"],
    check: "import falcotcp_py; assert falcotcp_py.__version__ == '0.1.1'",
    place: "peer-python",
};
/// A first build downloads and compiles Tokio; it may also wait for another cargo.
const BUILD_TIME: Duration = Duration::from_secs(900);

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

/// Our own tool `falco`, as it is now: where the tests run alone, nothing else has built it.
pub(crate) fn tool() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // The target directory of the tests, where most of it stands already.
        let target = Path::new(SCRATCH)
            .parent()
            .expect("the tests' own directory is in the target directory");
        let mut cargo = cargo();
        cargo.args(["build", "--quiet", "--locked", "--package", "falco-tokio"]);
        cargo.args(["--features", "cli", "--bin", "falco", "--manifest-path"]);
        cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        cargo.arg("--target-dir").arg(target);
        finish(cargo, target, "falco")
    })
}

/// The script of the Python peer.
pub(crate) fn python_script() -> PathBuf {
    Path::new(PEERS).join("peer.py")
}

/// A Python interpreter that has the published package; `None`, and a line on standard error, where
/// this machine cannot have one.
pub(crate) fn python() -> Option<&'static Path> {
    static INSTALLED: OnceLock<python::Installed> = OnceLock::new();
    python::interpreter(INSTALLED.get_or_init(|| python::install(&FALCOTCP)))
}

fn build(package: &str) -> PathBuf {
    let target = Path::new(SCRATCH).join("peers");
    // The two runtimes are features of one crate that exclude each other: one package, one build.
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "--locked", "--package", package, "--manifest-path"]);
    cargo
        .arg(Path::new(PEERS).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    // Flags of the build under test, such as instrumentation, are not the peer's.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    finish(cargo, &target, package)
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Builds, and says where the binary is.
fn finish(mut cargo: Command, target: &Path, binary: &str) -> PathBuf {
    // What is built runs here, whatever the tests are compiled for.
    cargo.env_remove("CARGO_BUILD_TARGET");
    run(&mut cargo, BUILD_TIME).unwrap_or_else(|error| panic!("building {binary}: {error}"));
    target
        .join("debug")
        .join(binary)
        .with_extension(std::env::consts::EXE_EXTENSION)
}
