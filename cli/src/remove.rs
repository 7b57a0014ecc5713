//! `nxt-wasm remove`: an application is taken out of Unit, and forgotten.

use std::error::Error;
use std::process::ExitCode;

use nxt_wasm_store::Name;

use crate::deploy;
use crate::target::{StoreArgs, UnitArgs};
use crate::terminal;

/// Take an application that was deployed out of Unit and out of the store
///
/// If another machine has taken it out of the store already, out of Unit alone.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the application
    name: Name,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    unit: UnitArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let deployer = args.unit.deployer(&args.store, false)?;
    let note = match deployer.remove(&args.name) {
        Ok(note) => note,
        Err(error) => return Ok(deploy::failed(Some(&args.name), &error)),
    };
    terminal::print(&format!("{}: removed\n", args.name))?;
    if let Some(note) = note {
        terminal::tell(&format!("nxt-wasm: {note}"));
    }
    Ok(ExitCode::SUCCESS)
}
