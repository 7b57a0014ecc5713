//! `nxt-wasm check`: what a file is, and whether the module can serve it.

mod imports;
mod report;
mod sections;
mod settings;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nxt_wasm_runtime::artifact::{self, Description};
use nxt_wasm_runtime::{Limits, World};
use nxt_wasm_settings::Settings;
use serde_json::Value;

use crate::component::Component;
use crate::configuration::{self, Configured};
use crate::helper::{self, HelperError, Work};
use crate::terminal;
use imports::{Import, is_set, not_granted};
use report::Report;
use sections::Sections;

/// Say what a file is, what it imports, which settings it needs, and whether it can be served
///
/// Exits with 0 if it can be served, with 1 if it cannot, and with 2 if it could not be
/// looked at.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The component
    file: PathBuf,
    #[command(flatten)]
    configuration: configuration::Args,
    /// Do not open the files and directories that settings name: they are on another machine
    #[arg(long, requires = "config")]
    without_files: bool,
    /// Write one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Exit code for what cannot be served.
const REFUSED: u8 = 1;
/// Name of the setting for memory.
const MEMORY: &str = "UNIT_WASM_MEMORY";

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let configured = args.configuration.load()?;
    let component = Component::read(&args.file)?;
    let report = examine(args, &component, configured.as_ref())?;
    terminal::print(&match args.json {
        true => format!("{:#}\n", report.json()),
        false => report.text(),
    })?;
    Ok(match report.problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(REFUSED),
    })
}

/// The SHA-256 of the component in a file, and why it cannot be served as the
/// application object `app` configures it.
pub fn verdict(
    file: &Path,
    name: &str,
    app: Value,
) -> Result<(String, Vec<String>), Box<dyn Error>> {
    let args = Args {
        file: file.to_owned(),
        configuration: configuration::Args::default(),
        without_files: false,
        json: false,
    };
    let configured = configuration::configured(name, app)?;
    let component = Component::read(file)?;
    let report = examine(&args, &component, Some(&configured))?;
    Ok((report.sha256, report.problems))
}

fn examine(
    args: &Args,
    component: &Component,
    configured: Option<&Configured>,
) -> Result<Report, Box<dyn Error>> {
    let bytes = &component.bytes;
    let mut report = Report {
        file: args.file.clone(),
        size: bytes.len() as u64,
        sha256: artifact::sha256(bytes),
        sections: Sections::read(bytes),
        application: configured.map(|configured| configured.name().to_owned()),
        ..Report::default()
    };
    let settings = read_settings(args, configured, &mut report)?;
    if let Some(wanted) = &settings.sha256
        && *wanted != report.sha256
    {
        report.problems.push(format!(
            "its SHA-256 is {}, UNIT_WASM_SHA256 asks for {wanted}",
            report.sha256
        ));
    }
    let world = artifact::check_kind(bytes).and_then(|()| World::of(bytes));
    match world {
        Err(error) => report.problems.push(error.to_string()),
        Ok(world) => {
            report.world = Some(world);
            let concurrent = settings.limits.reuse.concurrent;
            if world == World::Proxy && concurrent > 1 {
                report.problems.push(format!(
                    "UNIT_WASM_REUSE_CONCURRENT = \"{concurrent}\" takes a component of WASI \
                     0.3, and this one is of 0.2: leave it out"
                ));
            }
            try_out(component, world, &settings, configured, &mut report)?;
        }
    }
    if report.imports.is_empty() {
        let names = report.sections.imports.iter();
        report.imports = names.map(|name| Import::new(name, None)).collect();
    }
    judge_imports(configured, &settings, &mut report);
    Ok(report)
}

/// The settings, or the default ones if they are bad.
fn read_settings(
    args: &Args,
    configured: Option<&Configured>,
    report: &mut Report,
) -> Result<Settings, Box<dyn Error>> {
    let plain = || Configured::plain(&args.file).settings();
    let Some(configured) = configured else {
        return Ok(plain()?);
    };
    let mut settings = match configured.settings() {
        Ok(settings) => settings,
        Err(error) => {
            report.problems.push(error.to_string());
            report.bad_settings = true;
            return Ok(plain()?);
        }
    };
    if !args.without_files {
        let opened = settings::open_files(&mut settings, configured.name());
        let verified = opened
            .map_err(|error| error.to_string())
            .and_then(|()| settings::verify_grants(&settings, configured));
        report.problems.extend(verified.err());
    }
    Ok(settings)
}

/// Compiles it and makes an instance, in a process of its own.
fn try_out(
    component: &Component,
    world: World,
    settings: &Settings,
    configured: Option<&Configured>,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let mut limits = settings.limits.clone();
    if configured.is_none() {
        // Then it is a question how much it needs.
        limits.memory = 4 << 30;
    }
    let found = match helper::run(Work::Check, &component.file, world, &limits) {
        Ok(file) => serde_json::from_slice::<Value>(&artifact::read_all(&file)?)?,
        Err(HelperError::System(error)) => return Err(HelperError::System(error).into()),
        Err(error) => {
            report.problems.push(error.to_string());
            return Ok(());
        }
    };
    let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    let pair = |value: &Value| Some((text(value, "name")?, text(value, "problem")?));
    let unsatisfied = found.get("unsatisfied").and_then(Value::as_array);
    let unsatisfied = unsatisfied.ok_or("the compile helper left no report")?;
    let unsatisfied: Vec<_> = unsatisfied.iter().filter_map(pair).collect();
    let complete = found.get("complete").and_then(Value::as_bool) == Some(true);
    let names = report.sections.imports.iter();
    report.imports = names
        .map(|name| {
            let is_named = unsatisfied.iter().any(|(other, _)| other == name);
            let tried = complete || is_named;
            Import::new(name, tried.then_some(&unsatisfied))
        })
        .collect();
    report.problems.extend(text(&found, "error"));
    report.description = text(&found, "description").and_then(|text| Description::from_text(&text));
    let tried = report.description.as_ref();
    let needed = found.get("needed_memory").and_then(Value::as_u64);
    let needed = needed.or(tried.map(|description| description.initial_memory));
    report.minimum_memory = needed;
    let above = |limit: usize| needed.is_some_and(|needed| needed > limit as u64);
    if above(settings.limits.memory) {
        report.missing.push(MEMORY);
    }
    if above(Limits::default().memory) || above(settings.limits.memory) {
        report.needed.push(MEMORY);
    }
    Ok(())
}

/// Which settings are needed, and which of them are not there.
fn judge_imports(configured: Option<&Configured>, settings: &Settings, report: &mut Report) {
    for import in &report.imports {
        let name = &import.name;
        match &import.status {
            imports::Status::Missing(problem) => {
                report
                    .problems
                    .push(format!("unsatisfied import: `{name}`: {problem}"));
            }
            imports::Status::Compose => report.problems.push(format!(
                "it imports `{name}`: it is made to stand before another component, and has to \
                 be composed with that one first, as by `wac plug`"
            )),
            _ => {}
        }
        let required = import.required();
        let mut missing = Vec::new();
        for &setting in required {
            let is_missing =
                configured.is_none_or(|configured| !is_set(setting, configured, settings));
            if is_missing {
                missing.push(setting);
            }
            for (list, belongs) in [
                (&mut report.needed, true),
                (&mut report.missing, is_missing),
            ] {
                if belongs && !list.contains(&setting) {
                    list.push(setting);
                }
            }
        }
        // Without a configuration, nothing has been refused.
        if configured.is_some() && !missing.is_empty() && !report.bad_settings {
            report.problems.push(not_granted(import, &missing));
        }
    }
    report.optional = report
        .imports
        .iter()
        .flat_map(|import| import.optional)
        .copied()
        .collect();
    if let Some(configured) = configured {
        report.set = report
            .optional
            .iter()
            .copied()
            .filter(|setting| is_set(setting, configured, settings))
            .collect();
    }
}
