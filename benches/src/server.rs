//! Where a peer listens.

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};

use harness::proc::Process;

use crate::wrk::Load;

/// A listener that is measured.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name in the table.
    pub name: String,
    /// Its address.
    pub addr: SocketAddr,
    /// Those that answer, as far as they are known.
    pub processes: Vec<Process>,
    /// Comes before each target.
    prefix: String,
}

impl Server {
    /// A listener of a host of ours.
    pub fn new(name: &str, addr: SocketAddr, processes: Vec<Process>) -> Self {
        Self {
            name: name.to_owned(),
            addr,
            processes,
            prefix: String::new(),
        }
    }

    /// A server that somebody else has started.
    pub fn at(url: &str) -> Result<Self, String> {
        let wrong = || format!("{url}: expected http://HOST:PORT, perhaps with a path");
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut found = host.to_socket_addrs().map_err(|_| wrong())?;
        let path = path.trim_end_matches('/');
        Ok(Self {
            name: url.to_owned(),
            addr: found.next().ok_or_else(wrong)?,
            processes: Vec::new(),
            prefix: if path.is_empty() {
                String::new()
            } else {
                format!("/{path}")
            },
        })
    }

    /// Microseconds that its processes have been on a CPU; none if they are not
    /// known.
    pub fn cpu_time(&self) -> Option<f64> {
        let mut nanos = 0;
        for process in &self.processes {
            let tasks = fs::read_dir(format!("/proc/{}/task", process.pid)).ok()?;
            for task in tasks {
                let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
                nanos += text.split(' ').next()?.parse::<u64>().ok()?;
            }
        }
        (nanos > 0).then_some(nanos as f64 / 1000.0)
    }

    /// The same load, below the server's path.
    pub fn adapt(&self, load: &Load) -> Load {
        Load {
            target: format!("{}{}", self.prefix, load.target),
            ..load.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let plain = Server::at("http://127.0.0.1:80").unwrap();
        assert_eq!(plain.adapt(&Load::get("/x")).target, "/x");
        let below = Server::at("http://127.0.0.1:80/app/").unwrap();
        assert_eq!(below.adapt(&Load::get("/x")).target, "/app/x");
        assert!(Server::at("127.0.0.1:80").is_err());
        assert!(Server::at("http://127.0.0.1").is_err());
    }
}
