//! `nxt-wasm`: looks at components, compiles, deploys them.

mod cache;
mod check;
mod compile;
mod component;
mod configuration;
mod deploy;
mod deployd;
mod deployer;
mod examine;
mod helper;
mod init;
mod list;
mod owner;
mod remove;
mod rollback;
mod target;
mod terminal;
mod unit;
mod wish;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Works with components for NGINX Unit's module of nxt-wasmtime.
#[derive(Parser)]
#[command(name = "nxt-wasm", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Args),
    Compile(compile::Args),
    Cache(cache::Args),
    Init(init::Args),
    Deploy(Box<deploy::Args>),
    Deployd(Box<deployd::Args>),
    List(list::Args),
    Rollback(rollback::Args),
    Remove(remove::Args),
    #[command(hide = true)]
    Examine(examine::Args),
}

/// Exit code of a command that could not be carried out as it was given.
pub const USAGE: u8 = 2;

fn run(command: &Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Check(args) => check::run(args),
        Command::Compile(args) => compile::run(args),
        Command::Cache(args) => cache::run(args),
        Command::Init(args) => init::run(args),
        Command::Deploy(args) => deploy::run(args),
        Command::Deployd(args) => deployd::run(args),
        Command::List(args) => list::run(args),
        Command::Rollback(args) => rollback::run(args),
        Command::Remove(args) => remove::run(args),
        Command::Examine(args) => Ok(examine::run(args)),
    }
}

fn main() -> ExitCode {
    run(&Cli::parse().command).unwrap_or_else(|error| {
        terminal::tell(&format!("nxt-wasm: {error}"));
        ExitCode::from(USAGE)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        super::Cli::command().debug_assert();
    }
}
