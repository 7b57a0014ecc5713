//! What the environment asks for.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use harness::{Kind, guests};

/// Everything that can be chosen; `make bench` sets it.
pub struct Options {
    /// What loads the module.
    pub host: Kind,
    /// Its executable.
    pub exe: PathBuf,
    /// The directory with the module.
    pub modules: PathBuf,
    /// The tree to build the native application against; none with the stand-in.
    pub tree: Option<PathBuf>,
    /// Another module, to take the place of ours in a host of its own.
    pub peer_module: Option<PathBuf>,
    /// Another server of the hello component, and one of the lab guest.
    pub peer_url: Option<String>,
    /// See `peer_url`.
    pub peer_lab_url: Option<String>,
    /// The Python component, if it has been built.
    pub python: Option<PathBuf>,
    /// How long each run lasts.
    pub time: Duration,
    /// How many runs each peer has in each row.
    pub rounds: usize,
    /// Only rows with one of these in their names.
    pub rows: Vec<String>,
}

impl Options {
    /// Reads the environment.
    pub fn read() -> Result<Self, String> {
        let host = match text("BENCH_HOST").as_deref() {
            Some("unit") => Kind::Unit,
            Some("freeunit") => Kind::FreeUnit,
            Some("standin") | None => Kind::Standin,
            Some(other) => {
                return Err(format!("BENCH_HOST={other}: unit, freeunit or standin"));
            }
        };
        let out = PathBuf::from(text("BENCH_OUT").ok_or("BENCH_OUT is not set")?);
        let (tree, exe) = match host {
            Kind::Standin => (None, out.join("nxt-standin")),
            Kind::Unit | Kind::FreeUnit => {
                let variable = match host {
                    Kind::FreeUnit => "FREEUNIT_SRC",
                    _ => "UNIT_SRC",
                };
                let tree = PathBuf::from(text(variable).ok_or(format!("{variable} is not set"))?);
                let exe = tree.join("build/sbin/unitd");
                (Some(tree), exe)
            }
        };
        let python = text("BENCH_PYTHON").map_or_else(
            || guests::root().join("build/guests/python-hello.wasm"),
            PathBuf::from,
        );
        let rows = text("BENCH_ROWS").unwrap_or_default();
        Ok(Self {
            host,
            exe: existing(exe)?,
            modules: existing(out.join("modules"))?,
            tree,
            peer_module: text("PEER_MODULE")
                .map(|path| existing(path.into()))
                .transpose()?,
            peer_url: text("PEER_URL"),
            peer_lab_url: text("PEER_LAB_URL"),
            python: python.is_file().then_some(python),
            time: Duration::from_secs(number("BENCH_SECONDS", 2)?),
            rounds: usize::try_from(number("BENCH_ROUNDS", 5)?).map_err(|e| e.to_string())?,
            rows: rows.split_whitespace().map(str::to_owned).collect(),
        })
    }

    /// Whether a row is wanted.
    pub fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|part| row.contains(part.as_str()))
    }
}

fn text(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

fn number(variable: &str, otherwise: u64) -> Result<u64, String> {
    let Some(value) = text(variable) else {
        return Ok(otherwise);
    };
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{variable}={value}: a whole number above 0")),
    }
}

fn existing(path: PathBuf) -> Result<PathBuf, String> {
    path.canonicalize()
        .map_err(|error| format!("{}: {error}", path.display()))
}
