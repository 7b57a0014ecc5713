//! `nxt-wasm deploy`: a component becomes an application of a running Unit.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nxt_wasm_store::{Ask, FetchOptions, Location, MAX_COMPONENT, Name, fetch};
use tempfile::NamedTempFile;

use crate::USAGE;
use crate::deployer::{DeployError, Deployer, Done, Order, Restored};
use crate::target::{self, StoreArgs, UnitArgs};
use crate::terminal;
use crate::wish::{Wish, pair};

/// For a component to come from another machine.
const FETCH: Duration = Duration::from_secs(120);

/// Deploy a component as an application of a running Unit, without touching other ones
///
/// Exits with 0 if it serves, with 1 if it does not and Unit has what it had before, with 2 if it
/// could not be tried, and with 3 if Unit could not be brought back to what it had before.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The component: a path, s3://bucket/key?... or https://host/path
    #[arg(required_unless_present = "all")]
    file: Option<Location>,
    /// Name of the application
    #[arg(long, required_unless_present = "all")]
    name: Option<Name>,
    /// Bring up everything that is deployed in this store
    #[arg(long, value_name = "STORE", conflicts_with_all = ["file", "name", "Wishes", "store"])]
    all: Option<String>,
    /// Replace an application of that name that was not deployed from this store: no rollback
    /// brings it back
    #[arg(long, conflicts_with = "all")]
    take_over: bool,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    unit: UnitArgs,
}

/// Settings of the application.
#[derive(Debug, clap::Args)]
#[group(id = "Wishes", multiple = true)]
struct Wishes {
    /// Paths that are passed to it; several are possible [default: /NAME/*]
    #[arg(long, value_name = "PATTERN")]
    route: Vec<String>,
    /// Make no step of `routes`
    #[arg(long, conflicts_with_all = ["route", "host"])]
    no_route: bool,
    /// Host that the route is for
    #[arg(long)]
    host: Option<String>,
    /// Make this listener, which passes to `routes`, if it is not there: *:8080
    #[arg(long, value_name = "ADDRESS")]
    listener: Option<String>,
    /// Variable of the guest's environment; several are possible
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Setting of the module: UNIT_WASM_...; several are possible
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// The same as --set UNIT_WASM_MEMORY=SIZE
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// The same as --set UNIT_WASM_CPU_TIME=TIME
    #[arg(long, value_name = "TIME")]
    cpu_time: Option<String>,
    /// The same as --set UNIT_WASM_FUEL=NUMBER
    #[arg(long, value_name = "NUMBER")]
    fuel: Option<String>,
    /// The same as --set UNIT_WASM_TIMEOUT=TIME
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Processes that serve it
    #[arg(long, value_name = "N")]
    processes: Option<u32>,
    /// JSON file: other members of the application object, such as access and user
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// Begin with the settings that are deployed now, instead of none
    #[arg(long)]
    keep: bool,
}

/// How to find out whether the application answers.
#[derive(Debug, clap::Args)]
pub struct AskArgs {
    /// Path that has to be answered with a status under 500 [default: the beginning of the route;
    /// with --keep, --all and rollback, what was said when it was deployed]
    #[arg(long, value_name = "PATH", value_parser = path)]
    probe: Option<String>,
    /// Do not ask whether it answers
    #[arg(long, conflicts_with = "probe")]
    no_probe: bool,
}

/// The path of a probe.
pub fn path(text: &str) -> Result<String, String> {
    match text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err("a path is needed: /shop/health".to_owned()),
    }
}

impl AskArgs {
    /// The way that is meant, if one is.
    pub fn ask(&self) -> Option<Ask> {
        match self.no_probe {
            true => Some(Ask::Nothing),
            false => self.probe.clone().map(Ask::Path),
        }
    }
}

impl Wishes {
    fn wish(&self) -> Result<Wish, Box<dyn Error>> {
        let mut limits = self.set.clone();
        for (key, value) in [
            ("UNIT_WASM_MEMORY", &self.memory),
            ("UNIT_WASM_CPU_TIME", &self.cpu_time),
            ("UNIT_WASM_FUEL", &self.fuel),
            ("UNIT_WASM_TIMEOUT", &self.timeout),
        ] {
            limits.extend(value.iter().map(|value| (key.to_owned(), value.clone())));
        }
        Ok(Wish {
            routes: self.route.clone(),
            no_route: self.no_route,
            host: self.host.clone(),
            listener: self.listener.clone(),
            processes: self.processes,
            environment: self.env.clone(),
            limits,
            base: target::base(self.base.as_deref())?,
            keep: self.keep,
        })
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    if let Some(url) = &args.all {
        let deployer = args.unit.deployer_at(&args.store, url, false)?;
        return restore_all(&deployer, args.ask.ask().as_ref());
    }
    let (Some(location), Some(name)) = (&args.file, &args.name) else {
        return Err("FILE and --name are needed, or --all".into());
    };
    let wish = args.wishes.wish()?;
    let deployer = args.unit.deployer(&args.store, true)?;
    let fetched = match location.path() {
        Some(_) => None,
        None => Some(download(location, &args.store, &deployer)?),
    };
    let file = fetched.as_ref().map(|file| file.path());
    let order = Order {
        name,
        file: file.or(location.path()).unwrap_or(Path::new("")),
        sha256: None,
        wish: &wish,
        ask: args.ask.ask(),
        take_over: args.take_over,
    };
    report(name, deployer.deploy(&order))
}

/// Reads a component from another machine.
fn download(
    location: &Location,
    store: &StoreArgs,
    deployer: &Deployer,
) -> Result<NamedTempFile, Box<dyn Error>> {
    let secret = location.credentials().map(|name| store.secret(name));
    let secret = secret.transpose()?;
    let authorities = store.authorities()?;
    let options = FetchOptions {
        credentials: secret.as_deref(),
        authorities: authorities.as_deref(),
        max_bytes: MAX_COMPONENT,
        timeout: FETCH,
        allow_plain_http: store.allow_plain_http,
    };
    let mut file = NamedTempFile::new_in(deployer.writing_folder())?;
    fetch(location, &options, file.as_file_mut())?;
    Ok(file)
}

fn restore_all(deployer: &Deployer, ask: Option<&Ask>) -> Result<ExitCode, Box<dyn Error>> {
    let mut code = 0;
    let restored = match deployer.restore_all(ask) {
        Ok(restored) => restored,
        Err(error) => return Ok(failed(None, &error)),
    };
    for left in &restored.left {
        terminal::tell(&format!("nxt-wasm: {}", Restored::about(left)));
    }
    for (name, result) in restored.outcomes {
        match result {
            Ok(done) if done.changed => {
                terminal::print(&format!("{}\n", told(&name, &done)))?;
                for note in &done.notes {
                    terminal::tell(&format!("nxt-wasm: {name}: {note}"));
                }
            }
            Ok(_) => terminal::print(&format!("{name}: as it is to be\n"))?,
            Err(error) => {
                failed(Some(&name), &error);
                // Others have been tried.
                code = code.max(match exit_code(&error) {
                    STUCK => STUCK,
                    _ => REFUSED,
                });
            }
        }
    }
    Ok(ExitCode::from(code))
}

/// Exit code of what has been refused, and undone.
const REFUSED: u8 = 1;
/// Exit code of what could not be undone.
const STUCK: u8 = 3;

/// Tells how a deployment went.
pub fn report(name: &Name, result: Result<Done, DeployError>) -> Result<ExitCode, Box<dyn Error>> {
    match result {
        Ok(done) => {
            terminal::print(&format!("{}\n", told(name, &done)))?;
            for note in &done.notes {
                terminal::tell(&format!("nxt-wasm: {note}"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Ok(failed(Some(name), &error)),
    }
}

/// Tells why something failed, and has its exit code.
pub fn failed(name: Option<&Name>, error: &DeployError) -> ExitCode {
    let name = name.map(|name| format!("{name}: ")).unwrap_or_default();
    terminal::tell(&format!("nxt-wasm: {name}{error}"));
    ExitCode::from(exit_code(error))
}

fn exit_code(error: &DeployError) -> u8 {
    match error {
        DeployError::Stuck { .. } => STUCK,
        // Nothing was wrong with the component or the configuration, but with the command,
        // the machine, or what is to be there.
        DeployError::Settings(_)
        | DeployError::Check(_)
        | DeployError::Read(_)
        | DeployError::Store(_)
        | DeployError::Lock(_) => USAGE,
        DeployError::Control(error) if error.is_silence() => USAGE,
        _ => REFUSED,
    }
}

/// What has been done, in one line.
fn told(name: &Name, done: &Done) -> String {
    let deployment = &done.deployment;
    let mut text = format!(
        "{name}: deployment {} of {}",
        deployment.number,
        deployment.digest.short()
    );
    if let Some(number) = deployment.restores {
        text.push_str(&format!(", which brings back deployment {number}"));
    }
    if !done.changed {
        text.push_str(" was there already");
    }
    if let Some(answered) = done.answered {
        text.push_str(&format!(
            ", answered with {} after {} ms",
            answered.status,
            answered.took.as_millis()
        ));
    }
    text
}
