//! What is done with a component in a process of its own, with few rights: it
//! may upset the compiler, and runs its start code. [`crate::helper`] starts it.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use nxt_wasm_runtime::artifact::{self, Description};
use nxt_wasm_runtime::{Grants, Limits, LoadError, World, imports};
use serde_json::{Value, json};

use crate::helper::{FAILED, UNCONFINED, Work};
use crate::terminal;

/// What the helper is told. The component, or the artifact, is its stdin.
#[derive(Debug, clap::Args)]
pub struct Args {
    work: Work,
    #[arg(long)]
    world: String,
    #[arg(long)]
    memory: usize,
    #[arg(long)]
    stack: usize,
    #[arg(long)]
    fuel: Option<u64>,
    #[arg(long)]
    cpu_time: u64,
    #[arg(long)]
    timeout: u64,
}

/// Arguments by which a helper gets what it is to do.
pub fn arguments(work: Work, world: World, limits: &Limits) -> Vec<String> {
    let milliseconds = |duration: Duration| duration.as_millis().to_string();
    let mut arguments = vec![
        "examine".to_owned(),
        work.name().to_owned(),
        format!("--world={world}"),
        format!("--memory={}", limits.memory),
        format!("--stack={}", limits.stack),
        format!("--cpu-time={}", milliseconds(limits.cpu_time)),
        format!("--timeout={}", milliseconds(limits.timeout)),
    ];
    arguments.extend(limits.fuel.map(|fuel| format!("--fuel={fuel}")));
    arguments
}

/// Does the work. Results go to stdout, and why there are none to stderr.
pub fn run(args: &Args) -> ExitCode {
    // Nothing of the component has been touched yet, and there is one thread.
    if let Err(error) = confine() {
        terminal::tell(&error.to_string());
        return ExitCode::from(UNCONFINED);
    }
    match examine(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::tell(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// The user and the group that nobody's files belong to.
const NOBODY: u32 = 65_534;
/// As the module's own helper has them.
const CPU_SECONDS: u64 = 600;
const DATA_BYTES: u64 = 8 << 30;

/// Gives up what is not needed.
fn confine() -> rustix::io::Result<()> {
    use rustix::process::{
        Gid, Resource, Rlimit, Signal, Uid, set_parent_process_death_signal, setrlimit,
    };
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    for (resource, limit) in [
        (Resource::Cpu, CPU_SECONDS),
        (Resource::Data, DATA_BYTES),
        (Resource::Core, 0),
    ] {
        // A lower limit stays.
        let maximum = rustix::process::getrlimit(resource).maximum;
        let limit = Some(maximum.map_or(limit, |maximum| maximum.min(limit)));
        let (current, maximum) = (limit, limit);
        setrlimit(resource, Rlimit { current, maximum })?;
    }
    if rustix::process::geteuid().is_root() {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        let dropped = set_thread_groups(&[])
            .and_then(|()| set_thread_res_gid(group, group, group))
            .and_then(|()| set_thread_res_uid(user, user, user));
        match dropped {
            // Of a user namespace that has nobody else; outside, it is no root.
            Err(rustix::io::Errno::INVAL) => {}
            other => other?,
        }
    }
    // After the change of user, which clears it.
    set_parent_process_death_signal(Some(Signal::KILL))
}

fn examine(args: &Args) -> Result<(), String> {
    fn text(error: impl Display) -> String {
        error.to_string()
    }
    let world: World = args.world.parse().map_err(|()| "no such world")?;
    let limits = Limits {
        memory: args.memory,
        stack: args.stack,
        fuel: args.fuel,
        cpu_time: Duration::from_millis(args.cpu_time),
        timeout: Duration::from_millis(args.timeout),
        ..Limits::default()
    };
    let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(text)?);
    let input = artifact::read_all(&input).map_err(text)?;
    let output = match args.work {
        Work::Compile => artifact::compile(&input, world, &limits).map_err(text)?,
        Work::Check => {
            let artifact = artifact::compile(&input, world, &limits).map_err(text)?;
            let found = look(&artifact, world, &limits).map_err(text)?;
            found.to_string().into_bytes()
        }
        Work::Describe => {
            // SAFETY: the caller's input comes from the cache, with its checksum.
            let description = unsafe { describe(&input, world, &limits) };
            description.map_err(text)?.to_text().into_bytes()
        }
    };
    let mut out = io::stdout().lock();
    out.write_all(&output)
        .and_then(|()| out.flush())
        .map_err(text)
}

/// What can be said of a component that could be compiled.
fn look(artifact: &[u8], world: World, limits: &Limits) -> Result<Value, LoadError> {
    // SAFETY: it has just been compiled, for this world under these limits.
    let imports = unsafe { imports::unsatisfied(artifact, world, limits) }?;
    let (mut description, mut error, mut needed) = (None, None, None);
    if imports.unsatisfied.is_empty() {
        // SAFETY: as above.
        match unsafe { describe(artifact, world, limits) } {
            Ok(found) => description = Some(found.to_text()),
            Err(failure) => {
                error = Some(failure.to_string());
                if let LoadError::Memory { needed: bytes, .. } = failure {
                    needed = Some(bytes);
                }
            }
        }
    }
    let unsatisfied: Value = imports
        .unsatisfied
        .into_iter()
        .map(|import| json!({ "name": import.name, "problem": import.problem }))
        .collect();
    Ok(json!({
        "unsatisfied": unsatisfied,
        "complete": imports.complete,
        "description": description,
        "error": error,
        "needed_memory": needed,
    }))
}

/// # Safety
///
/// As for [`artifact::describe`].
unsafe fn describe(
    artifact: &[u8],
    world: World,
    limits: &Limits,
) -> Result<Description, LoadError> {
    // Whether it is granted what it imports, others have to know.
    let grants = Grants::of_all_interfaces();
    // SAFETY: passed on to the caller.
    unsafe { artifact::describe(artifact, world, limits, &grants) }
}
