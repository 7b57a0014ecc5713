//! Starts this program anew as a helper, which does what a hostile component may
//! not be trusted with, and waits for it.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nxt_wasm_runtime::{Limits, World};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::examine;
use crate::terminal::{self, Progress};

/// Exit code of a helper whose work failed; stderr says why.
pub const FAILED: u8 = 3;
/// Exit code of a helper that could not give up its rights.
pub const UNCONFINED: u8 = 4;

/// Longest time of a helper.
const WALL_TIME: Duration = Duration::from_secs(900);
/// Bytes of an error that are read.
const LONGEST_ERROR: u64 = 8 << 10;

/// What a helper can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Compile a component and say in JSON what it is.
    Check,
    /// Compile a component.
    Compile,
    /// Say what an artifact is.
    Describe,
}

impl Work {
    /// As it stands among the arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Compile => "compile",
            Self::Describe => "describe",
        }
    }

    /// What is going on, for people.
    fn doing(self) -> &'static str {
        match self {
            Self::Check => "checking",
            Self::Compile => "compiling",
            Self::Describe => "verifying",
        }
    }
}

/// Why a helper has no result.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The component is at fault.
    #[error("{0}")]
    Failed(String),
    /// It did not get that far.
    #[error("the compile helper {0}")]
    Ended(String),
    /// The operating system refused something.
    #[error("cannot run the compile helper: {0}")]
    System(#[from] io::Error),
}

/// Does `work` with what is in `input`, and returns a file in memory with the result.
pub fn run(work: Work, input: &File, world: World, limits: &Limits) -> Result<File, HelperError> {
    let (output, errors) = (memory_file()?, memory_file()?);
    // What runs here, even if another program has its name by now.
    let child = Command::new("/proc/self/exe")
        .args(examine::arguments(work, world, limits))
        .env_clear()
        .stdin(input.try_clone()?)
        .stdout(output.try_clone()?)
        .stderr(Stdio::from(errors.try_clone()?))
        .spawn()?;
    let size = terminal::size(input.metadata()?.len());
    // Of a deployment, it is one step of many.
    let progress = Progress::new(format!("{} {size}", work.doing()), work != Work::Check);
    let status = wait(Running(child), progress)?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(output),
        (Some(code), _) if code == i32::from(FAILED) => Err(HelperError::Failed(text(errors)?)),
        (Some(code), _) if code == i32::from(UNCONFINED) => Err(HelperError::Ended(format!(
            "could not give up its rights ({}): run this as another user",
            text(errors)?
        ))),
        (_, Some(signal)) => Err(HelperError::Ended(format!(
            "was ended by signal {signal} (out of memory, CPU time or time?)"
        ))),
        _ => Err(HelperError::Ended(format!(
            "failed ({status}): {}",
            text(errors)?
        ))),
    }
}

/// A helper, which ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Does nothing to one that has been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(mut helper: Running, mut progress: Progress) -> io::Result<ExitStatus> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = helper.0.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > WALL_TIME {
            helper.0.kill()?;
        }
        progress.tick(started.elapsed());
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The contents of a helper's stderr.
fn text(mut file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(LONGEST_ERROR).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.trim().lines().map(terminal::shown).collect();
    Ok(lines.join("\n"))
}

fn memory_file() -> io::Result<File> {
    Ok(File::from(memfd_create("nxt-wasm", MemfdFlags::CLOEXEC)?))
}
