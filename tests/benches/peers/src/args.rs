//! The command line.

use core::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::Failure;
use crate::contender::Contender;
use crate::workload::Workload;

#[derive(Debug, Parser)]
#[command(about = "Measures FalcoTCP beside plain TCP, TLS, Noise and RPC frameworks")]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measures, and prints one table for each workload
    Run(RunArgs),
    /// Draws bar charts from what `run --json` wrote
    Chart(ChartArgs),
    /// Prints the names of the contenders and of the workloads
    List,
    /// The server of one contender; `run` starts it
    #[command(hide = true)]
    Serve(ServeArgs),
    /// The client of one contender; `run` starts it
    #[command(hide = true)]
    Load(LoadArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The contenders, separated by commas; all without it
    #[arg(long, value_delimiter = ',')]
    pub(crate) contenders: Vec<Contender>,
    /// The workloads, separated by commas; all without it. `curve` is all steps of the curve
    #[arg(long, value_delimiter = ',')]
    pub(crate) workloads: Vec<String>,
    /// The cryptography of FalcoTCP
    #[arg(long, value_enum, default_value_t)]
    pub(crate) provider: Provider,
    /// How often each contender is measured; the contenders take turns
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// How long idle connections are watched. FalcoTCP sends a keep-alive every 20 s
    #[arg(long, default_value_t = 20.0)]
    pub(crate) idle_seconds: f64,
    /// 1: client and server share one core; 2: each has a core of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) cores: u8,
    /// Writes every measurement to this file
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ChartArgs {
    /// What `run --json` wrote
    pub(crate) json: PathBuf,
    /// Where the charts go
    #[arg(long, default_value = "docs/speed")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    #[arg(long)]
    pub(crate) contender: Contender,
    #[arg(long, value_enum, default_value_t)]
    pub(crate) provider: Provider,
    #[arg(long)]
    pub(crate) core: Option<usize>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    #[arg(long)]
    pub(crate) contender: Contender,
    #[arg(long, value_enum, default_value_t)]
    pub(crate) provider: Provider,
    #[arg(long)]
    pub(crate) core: Option<usize>,
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// The server's certificate as PEM, where the contender speaks TLS
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) certificate: Option<String>,
    #[arg(long)]
    pub(crate) workload: Workload,
    #[arg(long)]
    pub(crate) seconds: f64,
}

/// Which cryptography FalcoTCP uses. A build has one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Provider {
    /// `falco_core::RustCrypto`
    Rustcrypto,
    /// `falco_core::AwsLc`, in a build with the feature of that name
    AwsLcRs,
}

impl Default for Provider {
    fn default() -> Self {
        if cfg!(feature = "aws-lc-rs") {
            Self::AwsLcRs
        } else {
            Self::Rustcrypto
        }
    }
}

impl Provider {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rustcrypto => "rustcrypto",
            Self::AwsLcRs => "aws-lc-rs",
        }
    }

    /// Checks that this build has it.
    pub(crate) fn check(self) -> Result<(), Failure> {
        if self == Self::default() {
            return Ok(());
        }
        Err("this build has the other provider: `--features aws-lc-rs` of cargo selects it".into())
    }
}
