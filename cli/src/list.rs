//! `nxt-wasm list`: what is deployed.

use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;

use nxt_wasm_store::{Deployment, Name, Record};
use serde_json::{Value, json};

use crate::target::StoreArgs;
use crate::terminal::{self, size};

/// List what is deployed in a store, and what was before
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this application
    name: Option<Name>,
    /// Write one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let store = args.store.open(false)?;
    let names = match &args.name {
        Some(name) => vec![name.clone()],
        None => store.names()?,
    };
    let (mut records, mut bad) = (Vec::new(), Vec::new());
    for name in names {
        match store.record(&name) {
            Err(error) => {
                terminal::tell(&format!("nxt-wasm: {error}"));
                bad.push(json!({ "name": name, "error": error.to_string() }));
            }
            Ok(Some(record)) => records.push(record),
            Ok(None) if args.name.is_some() => {
                terminal::tell(&format!(
                    "nxt-wasm: \"{name}\" is not deployed from this store"
                ));
                return Ok(ExitCode::from(1));
            }
            // Removed meanwhile.
            Ok(None) => {}
        }
    }
    terminal::print(&match args.json {
        true => {
            let apps = records.iter().map(app).chain(bad.iter().cloned());
            let apps: Vec<Value> = apps.collect();
            format!("{:#}\n", json!({ "apps": apps }))
        }
        false => records.iter().map(text).collect(),
    })?;
    Ok(match bad.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    })
}

/// An application, with what may be told of its settings: values of its environment
/// may be secrets.
pub fn app(record: &Record) -> Value {
    let history: Vec<Value> = record.history().iter().map(deployment).collect();
    json!({ "name": record.name, "current": history.first(), "history": history })
}

fn deployment(deployment: &Deployment) -> Value {
    let settings = &deployment.settings;
    json!({
        "number": deployment.number,
        "digest": deployment.digest,
        "size": deployment.size,
        "time": deployment.time,
        "restores": deployment.restores,
        "routes": settings.routes,
        "host": settings.host,
        "listener": settings.listener,
        "processes": settings.processes,
        "environment": settings.environment.keys().collect::<Vec<_>>(),
        "settings": settings.limits.keys().collect::<Vec<_>>(),
    })
}

fn text(record: &Record) -> String {
    let mut text = format!("{}\n", record.name);
    for (index, deployment) in record.history().iter().enumerate() {
        let mark = if index == 0 { '*' } else { ' ' };
        let routes = deployment.settings.routes.join(" ");
        let digest = deployment.digest.short();
        let (number, time) = (deployment.number, &deployment.time);
        let bytes = size(deployment.size);
        let _ = write!(
            text,
            "{mark} {number:>4}  {time}  {digest}  {bytes:>10}  {routes}"
        );
        if let Some(number) = deployment.restores {
            let _ = write!(text, "  (deployment {number} again)");
        }
        text.push('\n');
    }
    text
}
