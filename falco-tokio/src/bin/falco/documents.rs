//! `falco completions` and `falco man`: files for shells and for `man`, made from the description
//! of the command line.

use std::fs;
use std::path::PathBuf;

use clap::Command;
use clap_complete::Shell;

use crate::failure::{Code, Failure};
use crate::output;

/// Prints completions for a shell.
#[derive(clap::Args, Debug)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Writes man pages, one for each command, into a directory.
#[derive(clap::Args, Debug)]
pub(crate) struct Man {
    /// The directory, such as /usr/local/share/man/man1. It is created
    directory: PathBuf,
}

pub(crate) fn completions(args: &Completions, command: &mut Command) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, command, "falco", &mut text);
    output::put(&text)
}

pub(crate) fn man(args: &Man, command: Command) -> Result<(), Failure> {
    let directory = &args.directory;
    fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(command, directory))
        .map_err(|error| {
            let message = format!("cannot write man pages into {}: {error}", directory.display());
            Failure::new(Code::Failed, message)
        })
}
