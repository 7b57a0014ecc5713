//! The command line tool.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::guests;

/// The tool, if it was built: what `E2E_CLI` names, or `nxt-wasm` in the target
/// directory.
pub fn program() -> Option<PathBuf> {
    let given = env::var_os("E2E_CLI").filter(|given| !given.is_empty());
    let path = given.map_or_else(
        || {
            let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
            let target = target.unwrap_or_else(|| guests::root().join("target"));
            target.join("debug/nxt-wasm")
        },
        PathBuf::from,
    );
    path.exists().then_some(path)
}

/// How it ended, and what it wrote.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The exit code.
    pub code: i32,
    /// To stdout.
    pub out: String,
    /// To stderr.
    pub err: String,
}

impl Ran {
    /// Panics unless it ended with this code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Panics unless it did what it was to do.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }
}

/// Runs it with these arguments.
pub fn run(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
    let program = program().expect("nxt-wasm was built");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().expect("nxt-wasm runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        code: output.status.code().expect("it was not ended by a signal"),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}
