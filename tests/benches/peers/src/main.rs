//! Measures FalcoTCP beside plain TCP, TLS, Noise and RPC frameworks, each as a server and a client
//! in processes of their own. `README.md` says what is measured and how to read it.

mod args;
mod blocking_load;
mod chart;
mod child;
mod contender;
mod contenders;
mod load;
mod pair;
mod report;
mod results;
mod run;
mod usage;
mod window;
mod workload;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser as _;

/// What ends a process of the benchmark.
type Failure = Box<dyn core::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(order) => run::run(&order),
        Command::Chart(order) => chart::chart(&order),
        Command::List => {
            run::list();
            Ok(())
        }
        Command::Serve(order) => contenders::serve(&order),
        Command::Load(order) => contenders::load(&order),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("peers: {failure}");
            ExitCode::FAILURE
        }
    }
}
