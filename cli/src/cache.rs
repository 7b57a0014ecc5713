//! `nxt-wasm cache`: what is kept of compiled components, and less of it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use nxt_wasm_runtime::artifact;
use nxt_wasm_runtime::cache::{Cache, Entry};
use nxt_wasm_settings::units;
use serde_json::{Value, json};

use crate::{owner, terminal};

/// List the compiled components of a cache, or remove some
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List them, the one that was used last at the end
    List(ListArgs),
    /// Remove those that have not been used for a long time
    Prune(PruneArgs),
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Directory of compiled components
    #[arg(long, value_name = "DIR", default_value = "/var/cache/nxt-wasmtime")]
    cache: PathBuf,
    /// User that unitd runs as, by name or number [default: the one that runs this]
    #[arg(long)]
    user: Option<String>,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    place: Place,
    /// Write a JSON array instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(id = "bound", required = true, multiple = true, args = ["max", "older_than"])]
struct PruneArgs {
    #[command(flatten)]
    place: Place,
    /// Remove those unused for longest until the rest has at most this: 500MiB, 2GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max: Option<u64>,
    /// Remove those that have not been used for so long: 90m, 12h, 30d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    match &args.command {
        Command::List(args) => list(args),
        Command::Prune(args) => prune(args),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// The cache, which is not made if it is not there.
fn open(place: &Place) -> Result<Cache, Box<dyn Error>> {
    let user = place.user.as_deref().map(owner::number).transpose()?;
    let path: &Path = &place.cache;
    if !path.exists() {
        return Err(format!("there is no cache {}", path.display()).into());
    }
    Ok(Cache::open(path, user.unwrap_or_else(owner::current))?)
}

fn list(args: &ListArgs) -> Result<(), Box<dyn Error>> {
    let entries = open(&args.place)?.entries()?;
    if args.json {
        let list: Value = entries.iter().map(as_json).collect();
        terminal::print(&format!("{list:#}\n"))?;
        return Ok(());
    }
    let now = SystemTime::now();
    let mut text: String = entries.iter().map(|entry| line(entry, now)).collect();
    let total = entries.iter().map(|entry| entry.size).sum();
    let components = entries.iter().filter(|entry| kind(entry) == "component");
    let components = components.count();
    let artifacts = entries.len() - components;
    text.push_str(&format!("{artifacts} artifacts, "));
    if components > 0 {
        text.push_str(&format!("{components} components, "));
    }
    text.push_str(&format!("{}\n", terminal::size(total)));
    terminal::print(&text)?;
    Ok(())
}

fn as_json(entry: &Entry) -> Value {
    let used = entry.used.duration_since(UNIX_EPOCH);
    json!({
        "key": entry.key,
        "kind": kind(entry),
        "file": entry.file,
        "size": entry.size,
        "used": used.unwrap_or_default().as_secs(),
    })
}

/// What an entry is: components that come from other machines are kept as they are, too.
fn kind(entry: &Entry) -> &'static str {
    let digest = entry.key.split('-').next().unwrap_or_default();
    match entry.key == artifact::component_key(digest) {
        true => "component",
        false => "artifact",
    }
}

fn line(entry: &Entry, now: SystemTime) -> String {
    let unused = now.duration_since(entry.used).unwrap_or_default();
    format!(
        "{}  {:<9}  {:>10}  used {} ago\n",
        entry.key,
        kind(entry),
        terminal::size(entry.size),
        terminal::age(unused)
    )
}

fn prune(args: &PruneArgs) -> Result<(), Box<dyn Error>> {
    let cache = open(&args.place)?;
    let entries = cache.entries()?;
    let now = SystemTime::now();
    let chosen = choose(&entries, args.max, args.older_than, now);
    let mut text = String::new();
    let mut freed = 0;
    for &entry in &chosen {
        if !args.dry_run {
            let removed = cache.remove_entry(entry);
            removed.map_err(|error| format!("cannot remove {}: {error}", entry.file))?;
        }
        freed += entry.size;
        text.push_str(&line(entry, now));
    }
    text.push_str(&format!(
        "{} of {} {} {}, {}\n",
        chosen.len(),
        entries.len(),
        match entries.iter().any(|entry| kind(entry) == "component") {
            true => "artifacts and components",
            false => "artifacts",
        },
        if args.dry_run {
            "would be removed"
        } else {
            "removed"
        },
        terminal::size(freed)
    ));
    terminal::print(&text)?;
    Ok(())
}

/// Those to remove of `entries`, which begin with the one unused for longest.
fn choose(
    entries: &[Entry],
    most: Option<u64>,
    unused: Option<Duration>,
    now: SystemTime,
) -> Vec<&Entry> {
    let mut left: u64 = entries.iter().map(|entry| entry.size).sum();
    let mut chosen = Vec::new();
    for entry in entries {
        let age = now.duration_since(entry.used).unwrap_or_default();
        let is_old = unused.is_some_and(|unused| age > unused);
        if is_old || most.is_some_and(|most| left > most) {
            left -= entry.size;
            chosen.push(entry);
        }
    }
    chosen
}

fn size(text: &str) -> Result<u64, &'static str> {
    units::size(text)
        .map(|size| size as u64)
        .ok_or("a size is needed: 500MiB, 2GiB")
}

/// Unlike a setting's, days are of use here.
fn duration(text: &str) -> Result<Duration, &'static str> {
    let day = Duration::from_secs(86_400);
    let days = text.trim().strip_suffix('d').map(str::trim);
    let duration = match days.map(str::parse::<u32>) {
        Some(days) => days.ok().and_then(|days| day.checked_mul(days)),
        None => units::duration(text),
    };
    duration.ok_or("a duration is needed: 90m, 12h, 30d")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(age: u64, size: u64) -> Entry {
        Entry {
            used: UNIX_EPOCH + Duration::from_secs(1_000_000 - age),
            size,
            key: age.to_string(),
            file: String::new(),
        }
    }

    #[test]
    fn the_oldest_go_first() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let entries = [entry(300, 10), entry(200, 20), entry(100, 30)];
        let keys = |most, unused: Option<u64>| -> Vec<String> {
            let chosen = choose(&entries, most, unused.map(Duration::from_secs), now);
            chosen.iter().map(|entry| entry.key.clone()).collect()
        };
        assert_eq!(keys(Some(60), None), [] as [&str; 0]);
        assert_eq!(keys(Some(59), None), ["300"]);
        assert_eq!(keys(Some(30), None), ["300", "200"]);
        assert_eq!(keys(Some(0), None), ["300", "200", "100"]);
        assert_eq!(keys(None, Some(150)), ["300", "200"]);
        assert_eq!(keys(Some(10), Some(250)), ["300", "200", "100"]);
    }

    #[test]
    fn components_are_told_from_artifacts() {
        let digest = artifact::sha256(b"component");
        let entry = |key: String| Entry { key, ..entry(0, 1) };
        assert_eq!(kind(&entry(artifact::component_key(&digest))), "component");
        let limits = nxt_wasm_runtime::Limits::default();
        let key = artifact::key(&digest, nxt_wasm_runtime::World::Proxy, &limits).unwrap();
        assert_eq!(kind(&entry(key)), "artifact");
    }

    #[test]
    fn durations_of_days() {
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(duration("90m"), Ok(Duration::from_secs(5_400)));
        for bad in ["", "d", "-1d", "1.5d", "99999999999d", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
