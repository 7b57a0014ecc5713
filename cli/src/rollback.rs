//! `nxt-wasm rollback`: what was deployed before is deployed again.

use std::error::Error;
use std::process::ExitCode;

use nxt_wasm_store::Name;

use crate::deploy::{self, AskArgs};
use crate::target::{StoreArgs, UnitArgs};

/// Deploy again what was deployed before, with the settings of that time
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the application
    name: Name,
    /// Component to go back to: the first 8 digits of its SHA-256, or more [default: the previous]
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    unit: UnitArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let deployer = args.unit.deployer(&args.store, false)?;
    let ask = args.ask.ask();
    let result = deployer.rollback(&args.name, args.to.as_deref(), ask.as_ref());
    deploy::report(&args.name, result)
}
