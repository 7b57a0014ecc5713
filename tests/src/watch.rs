//! What must not change while a test runs.

use std::time::Duration;

use crate::proc::Process;
use crate::wait::wait_for;

/// How long connections may take to be closed and descriptors to be freed.
const SETTLE: Duration = Duration::from_secs(45);

/// Segments of shared memory in the default of `limits.shm`.
const SEGMENTS: usize = 10;

/// The processes of a host and their descriptors, after the warm-up.
#[derive(Debug)]
pub struct Baseline {
    processes: Vec<(Process, Vec<String>)>,
    workers: Vec<Process>,
}

impl Baseline {
    /// Looks at all processes; waits until their descriptors are steady.
    pub fn take(processes: Vec<Process>, workers: Vec<Process>) -> Self {
        let look = || -> Vec<(Process, Vec<String>)> {
            let all = processes.iter();
            all.map(|process| (*process, process.descriptors()))
                .collect()
        };
        // Clients of the warm-up have closed; the host notices in a moment.
        let mut last = look();
        let mut same = 0;
        wait_for(Duration::from_secs(10), || {
            let now = look();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            (same >= 5).then_some(())
        });
        let mut workers = workers;
        workers.sort();
        Self {
            processes: last,
            workers,
        }
    }

    /// The application processes of the beginning, sorted.
    pub fn workers(&self) -> Vec<Process> {
        self.workers.clone()
    }

    /// Asserts that no process of the beginning that still lives holds more
    /// descriptors than then.
    ///
    /// Two kinds come late, are kept, and are bounded, so they are no leak. In
    /// Unit, an application process is given one socket for answers by each of
    /// the `router_threads`, with the first request from there; which processes and
    /// threads the warm-up has met is up to the kernel. And shared memory grows by
    /// segments up to `limits.shm`, each known to both of its ends. The router
    /// also keeps the connections of requests that it has `lost`.
    #[track_caller]
    pub fn assert_no_leak(&self, router_threads: usize, lost: usize) {
        let allowed = |process: &Process| match process.command() {
            name if name.contains("\" application") => router_threads,
            name if name.contains("router") => lost,
            _ => 0,
        };
        let leaks = || -> Vec<String> {
            let all = self.processes.iter();
            let alive = all.filter(|(process, _)| process.alive());
            alive
                .filter_map(|(process, before)| leak(*process, before, allowed(process)))
                .collect()
        };
        if wait_for(SETTLE, || leaks().is_empty().then_some(())).is_none() {
            panic!("descriptors leaked:\n{}", leaks().join("\n"));
        }
    }
}

fn leak(process: Process, before: &[String], allowed_sockets: usize) -> Option<String> {
    let now = process.descriptors();
    let more = |kind: &str| {
        let count = |all: &[String]| all.iter().filter(|fd| fd.contains(kind)).count();
        count(&now).saturating_sub(count(before))
    };
    let late = more("socket:").min(allowed_sockets) + more("/memfd:/unit.").min(SEGMENTS);
    if now.len() <= before.len() + late {
        return None;
    }
    let new: Vec<&String> = now.iter().filter(|fd| !before.contains(fd)).collect();
    let (was, is) = (before.len(), now.len());
    let name = process.command();
    Some(format!(
        "{name}: {was} at first, {is} now, new or changed: {new:?}"
    ))
}
