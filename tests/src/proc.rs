//! Processes as `/proc` shows them.

use std::fs;

/// One process; the start time tells it from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start: u64,
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// The process.
    pub process: Process,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Whether it has exited, with all its threads, and waits to be reaped.
    pub zombie: bool,
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Heap, stacks and other private pages.
    pub anonymous: u64,
    /// Shared memory segments, those of Unit's ports among them.
    pub shared: u64,
}

/// Reads the stat line of one process.
pub fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    // The command, in parentheses, may contain anything.
    let rest = &text[text.rfind(')')? + 2..];
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<i64>().ok();
    Some(Stat {
        process: Process {
            pid,
            start: u64::try_from(number(19)?).ok()?,
        },
        parent: i32::try_from(number(1)?).ok()?,
        group: i32::try_from(number(2)?).ok()?,
        // Of several threads the last one closes the descriptors.
        zombie: fields.first() == Some(&"Z") && number(17)? <= 1,
    })
}

/// All living processes of a process group.
pub fn group(id: i32) -> Vec<Stat> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let names = entries.flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse().ok());
    let all = pids.filter_map(stat);
    all.filter(|found| found.group == id && !found.zombie)
        .collect()
}

impl Process {
    /// The process with this id now.
    pub fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|found| found.process)
    }

    /// Whether it still runs.
    pub fn alive(self) -> bool {
        stat(self.pid).is_some_and(|now| now.process == self && !now.zombie)
    }

    /// Its command line, as far as it can be read.
    pub fn command(self) -> String {
        let text = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace('\0', " ");
        text.trim().to_owned()
    }

    /// What its descriptors refer to.
    pub fn descriptors(self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return Vec::new();
        };
        let links = entries.flatten().filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().into_string().ok()?;
            Some(format!("{number} -> {}", link.display()))
        });
        links.collect()
    }

    /// A field of its `status`; empty if there is none.
    pub fn status(self, field: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(name, _)| *name == field);
        found.map_or(String::new(), |(_, value)| value.trim().to_owned())
    }

    /// Its resident memory.
    pub fn memory(self) -> Memory {
        let bytes = |name: &str| {
            let kib = self.status(name);
            let kib = kib.split_whitespace().next();
            kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
        };
        Memory {
            anonymous: bytes("RssAnon"),
            shared: bytes("RssShmem"),
        }
    }

    /// Sends a signal.
    pub fn signal(self, signal: libc::c_int) {
        // SAFETY: kill takes two integers and touches no memory of ours.
        unsafe { libc::kill(self.pid, signal) };
    }
}
