//! `nxt-wasm compile`: makes the artifact that the module would make, before an
//! application is started that needs it.

use std::error::Error;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nxt_wasm_runtime::World;
use nxt_wasm_runtime::artifact::{self, Description};
use nxt_wasm_runtime::cache::{Cache, CacheError};
use nxt_wasm_settings::{Cache as Place, Settings, SettingsError};

use crate::component::Component;
use crate::configuration::{self, Configured};
use crate::helper::{self, HelperError, Work};
use crate::{owner, terminal};

/// Compile a component into the cache, where the module finds it when the application starts
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The component
    file: PathBuf,
    /// Directory of compiled components [default: that of --config, or the module's own]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    configuration: configuration::Args,
    /// User that unitd runs as, by name or number [default: the one that runs this]
    #[arg(long)]
    user: Option<String>,
    /// Compile even if there is an artifact already
    #[arg(long)]
    force: bool,
    /// Load the artifact back, make an instance, and say what it is
    #[arg(long)]
    verify: bool,
}

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The application could not start either.
    #[error("the settings cannot be used: {0}")]
    Settings(#[from] SettingsError),
    /// It is not the component that the configuration asks for.
    #[error("its SHA-256 is {found}, UNIT_WASM_SHA256 asks for {wanted}")]
    Digest {
        /// What the file has.
        found: String,
        /// What was configured.
        wanted: String,
    },
    /// The component is at fault.
    #[error("{0}")]
    Component(String),
    /// Nobody has said where artifacts are kept.
    #[error("{0}: name the directory with --cache")]
    NoPlace(&'static str),
    /// unitd would not believe the artifact.
    #[error(
        "the artifact would belong to user {me}, and unitd, as user {unitd}, takes only those of \
         root and of its own: run this as one of them"
    )]
    Owner {
        /// Who runs this.
        me: u32,
        /// Who runs unitd.
        unitd: u32,
    },
    /// The cache directory cannot be trusted or used.
    #[error("the cache: {0}")]
    Cache(#[from] CacheError),
    /// The operating system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the operating system said.
        error: io::Error,
    },
}

/// Exit code for a component, or settings, that nothing can be compiled with.
const REFUSED: u8 = 1;

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let configured = args.configuration.load()?;
    let component = Component::read(&args.file)?;
    match compile(args, &component, configured.as_ref()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(
            error @ (CompileError::Component(_)
            | CompileError::Digest { .. }
            | CompileError::Settings(_)),
        ) => {
            terminal::tell(&format!("nxt-wasm: {}: {error}", args.file.display()));
            Ok(ExitCode::from(REFUSED))
        }
        Err(error) => Err(error.into()),
    }
}

fn compile(
    args: &Args,
    component: &Component,
    configured: Option<&Configured>,
) -> Result<(), CompileError> {
    let settings = match configured {
        Some(configured) => configured.settings()?,
        None => Configured::plain(&args.file).settings()?,
    };
    let sha256 = artifact::sha256(&component.bytes);
    if let Some(wanted) = settings.sha256.as_ref().filter(|&wanted| *wanted != sha256) {
        return Err(CompileError::Digest {
            found: sha256,
            wanted: wanted.clone(),
        });
    }
    artifact::check_kind(&component.bytes).map_err(fault)?;
    let world = World::of(&component.bytes).map_err(fault)?;
    let key = artifact::key(&sha256, world, &settings.limits).map_err(fault)?;

    let unitd = match &args.user {
        Some(user) => owner::number(user).map_err(|error| CompileError::System {
            what: "--user",
            error: io::Error::other(error),
        })?,
        None => owner::current(),
    };
    let me = owner::current();
    if me != 0 && me != unitd {
        return Err(CompileError::Owner { me, unitd });
    }
    let directory = place(args.cache.as_deref(), &settings, unitd == 0)?;
    let cache = open(&directory, unitd)?;
    let found = match args.force {
        true => None,
        false => find(&cache, &key),
    };
    let (file, made) = match found {
        Some(file) => (file, "is there already"),
        None => {
            let compiled = helper::run(Work::Compile, &component.file, world, &settings.limits);
            let compiled = compiled.map_err(helpers)?;
            let stored = cache.store(&key, &compiled);
            let file = stored.map_err(system("cannot keep the artifact in the cache"))?;
            give(&file, unitd)?;
            (file, "made")
        }
    };
    let size = file.metadata().map_err(system("the artifact"))?.len();
    let shown = directory.display();
    let size = terminal::size(size);
    let mut text = format!("{key} in {shown} {made}: {size} for {world}\n");
    if args.verify {
        let description = verify(&cache, &key, world, &settings)?;
        text.push_str(&description.to_text());
    }
    print(&text)?;
    let removed = cache.sweep(settings.cache_size, &[&key]);
    match removed.map_err(system("cannot bound the cache"))? {
        0 => {}
        removed => terminal::tell(&format!(
            "{removed} other artifacts were removed, as UNIT_WASM_CACHE_SIZE is {}",
            terminal::size(settings.cache_size)
        )),
    }
    if me != 0 && args.user.is_none() {
        terminal::tell(&format!(
            "Only a unitd of user {me} takes artifacts from there, not one of root."
        ));
    }
    Ok(())
}

/// Where artifacts are kept: as the module decides it, unless it is said here.
fn place(
    asked: Option<&Path>,
    settings: &Settings,
    unitd_is_root: bool,
) -> Result<PathBuf, CompileError> {
    let configured = settings.cache.directory(unitd_is_root);
    let Some(asked) = asked else {
        return configured.ok_or(match settings.cache {
            Place::Off => CompileError::NoPlace("UNIT_WASM_CACHE is off"),
            _ => CompileError::NoPlace("a unitd that is not root has no cache by itself"),
        });
    };
    let asked = std::path::absolute(asked).map_err(system("--cache"))?;
    if configured.is_none_or(|configured| configured != asked) {
        terminal::tell(&format!(
            "The application looks there if it has UNIT_WASM_CACHE = \"{}\".",
            asked.display()
        ));
    }
    Ok(asked)
}

/// Opens the cache for a unitd of that user.
fn open(directory: &Path, unitd: u32) -> Result<Cache, CompileError> {
    let is_new = !directory.exists();
    let me = owner::current();
    // What is made here belongs to us until it is given away.
    let cache = match is_new {
        true => Cache::open(directory, me)?,
        false => Cache::open(directory, unitd)?,
    };
    if is_new && me != unitd {
        let given = cache.give_to(unitd);
        return given.map_err(system("cannot give the cache to unitd's user"));
    }
    Ok(cache)
}

/// Lets unitd's user mark the artifact as used, and remove it.
fn give(file: &File, unitd: u32) -> Result<(), CompileError> {
    if owner::current() == unitd {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(unitd), None)
        .map_err(system("cannot give the artifact to unitd's user"))
}

fn find(cache: &Cache, key: &str) -> Option<File> {
    let lookup = cache.find(key);
    for refused in &lookup.refused {
        terminal::tell(&format!("not used: {refused}"));
    }
    lookup.file
}

/// Looks the artifact up as the module will, and loads it.
fn verify(
    cache: &Cache,
    key: &str,
    world: World,
    settings: &Settings,
) -> Result<Description, CompileError> {
    let lost = || CompileError::Component("the artifact cannot be found again".to_owned());
    let file = find(cache, key).ok_or_else(lost)?;
    let text = helper::run(Work::Describe, &file, world, &settings.limits).map_err(helpers)?;
    let text = artifact::read_all(&text).map_err(fault)?;
    Description::from_text(&String::from_utf8_lossy(&text)).ok_or_else(lost)
}

fn print(text: &str) -> Result<(), CompileError> {
    terminal::print(text).map_err(system("stdout"))
}

fn fault(error: impl Display) -> CompileError {
    CompileError::Component(error.to_string())
}

fn helpers(error: HelperError) -> CompileError {
    match error {
        HelperError::System(error) => system("cannot run the compile helper")(error),
        error => fault(error),
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> CompileError {
    move |error| CompileError::System { what, error }
}
