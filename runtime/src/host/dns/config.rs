//! How names are resolved: what `/etc/resolv.conf` and `/etc/hosts` say.
//!
//! Both are read as the C library reads them: what cannot be understood is
//! passed over.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::host::net::host_name;

/// The port of name servers.
const PORT: u16 = 53;
/// Name servers that are used at most, as in the C library.
const SERVERS: usize = 3;

/// How names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// The name servers to ask.
    pub servers: Vec<SocketAddr>,
    /// Domains that may be left out at the end of a name.
    pub search: Vec<String>,
    /// A name with as many dots is first tried as it stands.
    pub ndots: usize,
    /// How long to wait for an answer of one server.
    pub timeout: Duration,
    /// How often to ask.
    pub attempts: usize,
    /// Addresses of names that no server is asked about, by name in lower case.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
}

impl Default for DnsConfig {
    /// A name server on this machine, as for a missing `resolv.conf`.
    fn default() -> Self {
        Self {
            servers: vec![(Ipv4Addr::LOCALHOST, PORT).into()],
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            hosts: BTreeMap::new(),
        }
    }
}

impl DnsConfig {
    /// What this machine's `/etc/resolv.conf` and `/etc/hosts` say. Files that are
    /// missing say nothing.
    pub fn from_system() -> Self {
        let read = |path: &str| std::fs::read(path).unwrap_or_default();
        Self::from_files(&read("/etc/resolv.conf"), &read("/etc/hosts"))
    }

    /// What files with these contents say.
    pub fn from_files(resolv_conf: &[u8], hosts: &[u8]) -> Self {
        let mut config = Self::default();
        let mut servers = Vec::new();
        for line in String::from_utf8_lossy(resolv_conf).lines() {
            // A comment begins a line, or ends a value.
            let mut words = line
                .split_whitespace()
                .take_while(|word| !word.starts_with(['#', ';']));
            match words.next() {
                Some("nameserver") => {
                    // An address with a zone (fe80::1%eth0) is passed over.
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    servers.extend(address.map(|ip| SocketAddr::new(ip, PORT)));
                }
                // The last one counts.
                Some("search" | "domain") => {
                    config.search = words.filter_map(|word| host_name(word).ok()).collect();
                }
                Some("options") => words.for_each(|word| config.set_option(word)),
                _ => {}
            }
        }
        servers.truncate(SERVERS);
        if !servers.is_empty() {
            config.servers = servers;
        }
        config.read_hosts(&String::from_utf8_lossy(hosts));
        config
    }

    fn set_option(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else {
            return;
        };
        let Ok(value) = value.parse::<u64>() else {
            return;
        };
        // With the bounds of the C library.
        match name {
            "ndots" => self.ndots = value.min(15) as usize,
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, 30)),
            "attempts" => self.attempts = value.clamp(1, 5) as usize,
            _ => {}
        }
    }

    fn read_hosts(&mut self, hosts: &str) {
        for line in hosts.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
                continue;
            };
            for name in words.filter_map(|word| host_name(word).ok()) {
                let addresses = self.hosts.entry(name).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_the_c_library_reads_them() {
        let config = DnsConfig::from_files(
            b"# comment\n; another\nnameserver 10.0.0.1 # first\nnameserver fe80::1%eth0\n\
              nameserver 2001:db8::53\nnameserver nonsense\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n\
              domain gone.example\nsearch Svc.Cluster.Local cluster.local. -- \n\
              options ndots:5 timeout:99 attempts:0 edns0 rotate\nwhatever\n",
            b"127.0.0.1 localhost\n10.0.0.7 db DB.example.com # comment\n::7 db\n10.0.0.7 db\n\
              10.0.0.8\nnonsense x\n\xff\xfe\n",
        );
        let servers: Vec<String> = config.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[2001:db8::53]:53", "10.0.0.3:53"]);
        assert_eq!(config.search, ["svc.cluster.local", "cluster.local"]);
        assert_eq!(config.ndots, 5);
        assert_eq!(config.timeout, Duration::from_secs(30));
        assert_eq!(config.attempts, 1);
        let db: Vec<String> = config.hosts["db"].iter().map(ToString::to_string).collect();
        assert_eq!(db, ["10.0.0.7", "::7"]);
        assert_eq!(config.hosts["db.example.com"].len(), 1);
        assert!(!config.hosts.contains_key("x"));
    }

    #[test]
    fn no_files_are_a_server_on_this_machine() {
        let config = DnsConfig::from_files(b"", b"");
        assert_eq!(config, DnsConfig::default());
        assert_eq!(config.servers, ["127.0.0.1:53".parse().unwrap()]);
    }
}
