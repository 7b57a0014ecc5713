//! `nxt-wasm deployd`: deployments over HTTP, for teams and for CI.

mod query;
mod server;
mod service;
mod token;
mod upload;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nxt_wasm_settings::{SettingsError, units};
use nxt_wasm_store::MAX_COMPONENT;
use serde_json::json;

use crate::configuration::configured;
use crate::deployer::{DeployError, Deployer, Restored};
use crate::target::{self, StoreArgs, UnitArgs, duration};
use crate::terminal::tell;
use crate::unit::probe::check_listener;
use server::Listen;
use service::Service;
use token::Tokens;

/// Where to listen, if nothing else is said.
const LISTEN: &str = "127.0.0.1:8089";
/// Between two attempts to reach Unit.
const PAUSE: Duration = Duration::from_millis(250);

/// Take deployments over HTTP from whoever has a token
///
/// Brings up everything in its store when it starts, and ends at SIGTERM when what is under way
/// is done.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen: 127.0.0.1:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = LISTEN)]
    listen: Listen,
    /// Listen on an address that other machines reach. There is no TLS
    #[arg(long)]
    allow_remote: bool,
    /// File of tokens, one on each line, that only its owner may read
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Bytes of the largest component
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    max_size: u64,
    /// Setting that may be asked for beside limits; several are possible
    #[arg(long, value_name = "UNIT_WASM_...", value_parser = setting)]
    allow_set: Vec<String>,
    /// Listener of Unit that is made with a deployment if it is not there: *:8080
    #[arg(long, value_name = "ADDRESS", value_parser = listener)]
    listener: Option<String>,
    /// JSON file: members of each application object, such as user and limits
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// How long to wait for Unit at the start
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    wait: Duration,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    unit: UnitArgs,
}

fn size(text: &str) -> Result<u64, String> {
    let bytes = units::size(text).and_then(|bytes| u64::try_from(bytes).ok());
    let bytes = bytes.filter(|bytes| (1..=MAX_COMPONENT).contains(bytes));
    bytes.ok_or_else(|| format!("a size of at most {MAX_COMPONENT} is needed: 64MiB"))
}

fn listener(text: &str) -> Result<String, String> {
    check_listener(text).map(|()| text.to_owned())
}

/// The key of a setting.
fn setting(text: &str) -> Result<String, String> {
    let app = json!({
        "type": "wasm-wasi-component",
        "component": "/x",
        "environment": { text: "" },
    });
    let needed = || "the name of a setting is needed: UNIT_WASM_ALLOW_HTTP".to_owned();
    if !text.starts_with("UNIT_WASM_") {
        return Err(needed());
    }
    match configured("x", app)?.settings() {
        Err(SettingsError::Unknown { nearest, .. }) => {
            Err(format!("{}; the nearest one is {nearest}", needed()))
        }
        // Its value is none, but it is known.
        _ => Ok(text.to_owned()),
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    args.listen.check(args.allow_remote)?;
    let tokens = Tokens::read(&args.token_file)?;
    let deployer = Arc::new(args.unit.deployer(&args.store, true)?);
    let base = target::base(args.base.as_deref())?;
    // Bound first: that it cannot be should be known before anything is done.
    let socket = args.listen.bind()?;
    if let Err(error) = bring_up(&deployer, args.wait) {
        tell(&format!("nxt-wasm deployd: {error}"));
        return Ok(ExitCode::from(1));
    }
    let service = Service::new(service::Config {
        deployer: Arc::clone(&deployer),
        tokens,
        max_size: args.max_size,
        allowed: args.allow_set.clone(),
        listener: args.listener.clone(),
        base,
    });
    server::serve(socket, service)?;
    Ok(ExitCode::SUCCESS)
}

/// Brings up what is in the store, once Unit is there.
fn bring_up(deployer: &Deployer, patience: Duration) -> Result<(), DeployError> {
    let begin = Instant::now();
    let restored = loop {
        match deployer.restore_all(None) {
            Err(DeployError::Control(error))
                if error.is_silence() && begin.elapsed() < patience =>
            {
                std::thread::sleep(PAUSE);
            }
            restored => break restored?,
        }
    };
    for left in &restored.left {
        tell(&format!("nxt-wasm deployd: {}", Restored::about(left)));
    }
    for (name, result) in restored.outcomes {
        match result {
            Ok(done) if done.changed => {
                let digest = done.deployment.digest.short();
                tell(&format!("nxt-wasm deployd: {name}: brought up {digest}"));
                for note in &done.notes {
                    tell(&format!("nxt-wasm deployd: {name}: {note}"));
                }
            }
            Ok(_) => {}
            // The others have nothing to do with it.
            Err(error) => tell(&format!("nxt-wasm deployd: {name}: {error}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_no_other_machine_reaches_it() {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            args: Args,
        }
        let command = ["deployd", "--token-file", "/x"];
        let args = <Command as clap::Parser>::parse_from(command).args;
        assert_eq!(Ok(args.listen.clone()), "127.0.0.1:8089".parse());
        assert_eq!(args.listen.check(false), Ok(()));
    }

    #[test]
    fn settings_that_are_allowed_have_to_be_known() {
        for good in [
            "UNIT_WASM_ALLOW_HTTP",
            "UNIT_WASM_SECRETS",
            "UNIT_WASM_FUEL",
        ] {
            assert_eq!(setting(good).as_deref(), Ok(good));
        }
        let near = setting("UNIT_WASM_ALLOW_HTPP").unwrap_err();
        assert!(near.contains("UNIT_WASM_ALLOW_HTTP"), "{near}");
        for bad in ["", "ALLOW_HTTP", "UNIT_WASM_", "UNIT_WASM_FUEL=1"] {
            assert!(setting(bad).is_err(), "{bad}");
        }
    }
}
