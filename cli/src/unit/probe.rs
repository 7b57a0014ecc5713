//! Whether an application answers.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::Value;

use super::client::{self, Address, ClientError, Question};

/// Between two attempts: at first, and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// For one attempt.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A request that an application is to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where it is sent.
    pub address: Address,
    /// Path and query.
    pub path: String,
    /// What `Host` says.
    pub host: String,
    /// For all attempts.
    pub timeout: Duration,
}

/// An answer with a status under 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// How long it took, from the first attempt.
    pub took: Duration,
}

impl Probe {
    /// Asks until there is an answer with a status under 500, or the time is over.
    pub fn ask(&self) -> Result<Answered, String> {
        let begin = Instant::now();
        let mut pause = PAUSE;
        let mut told = None;
        loop {
            let left = self.timeout.saturating_sub(begin.elapsed());
            let question = Question {
                method: Method::GET,
                path: &self.path,
                host: &self.host,
                body: None,
                timeout: left.clamp(PAUSE, ATTEMPT),
            };
            // The last one may have next to no time: what went wrong before tells more.
            let mut late = false;
            let problem = match client::ask(&self.address, question) {
                Ok(answer) if answer.status < 500 => {
                    return Ok(Answered {
                        status: answer.status,
                        took: begin.elapsed(),
                    });
                }
                Ok(answer) => format!("status {}", answer.status),
                Err(error) => {
                    late = matches!(error, ClientError::Late { .. });
                    error.to_string()
                }
            };
            if begin.elapsed() + pause >= self.timeout {
                let before = told.filter(|_| late);
                let before = before.map_or_else(String::new, |before| format!(", after {before}"));
                return Err(format!(
                    "GET {} at {}: {problem}{before}, for {} s",
                    self.path,
                    self.address,
                    self.timeout.as_secs()
                ));
            }
            if !late {
                told = Some(problem);
            }
            std::thread::sleep(pause);
            // Each failure may be some lines in Unit's log.
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The listener through which an application can be asked over plain HTTP: `wanted`, or
/// the first that passes to one of `targets`, and to which.
pub fn listener(
    config: &Value,
    targets: &[&str],
    wanted: Option<&str>,
) -> Result<(Address, String), String> {
    let listeners = config.get("listeners").and_then(Value::as_object);
    let mut tls = false;
    for (at, listener) in listeners.into_iter().flatten() {
        let pass = listener.get("pass").and_then(Value::as_str);
        let Some(pass) = pass.filter(|pass| targets.contains(pass)) else {
            continue;
        };
        if wanted.is_some_and(|wanted| wanted != at) {
            continue;
        }
        match listener.get("tls") {
            None => return Ok((address(at)?, pass.to_owned())),
            Some(_) => tls = true,
        }
    }
    Err(match tls {
        true => "its only listener has TLS, through which is not asked: --no-probe".to_owned(),
        false => "no listener passes to \"routes\": --listener '*:8080' makes one, and \
                  --no-probe does without"
            .to_owned(),
    })
}

/// Where a listener is reached from this machine.
fn address(listener: &str) -> Result<Address, String> {
    if let Some(path) = listener.strip_prefix("unix:") {
        return Ok(Address::Unix(PathBuf::from(path)));
    }
    let parts = listener.rsplit_once(':');
    let parts = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.ok_or_else(|| format!("{listener:?} is no address of a listener"))?;
    let host = match host.trim_matches(['[', ']']) {
        "*" | "0.0.0.0" => "127.0.0.1".to_owned(),
        host if host.parse() == Ok(Ipv6Addr::UNSPECIFIED) => "::1".to_owned(),
        host => host.to_owned(),
    };
    Ok(Address::Tcp(host, port))
}

/// Whether `text` can be the address of a listener.
pub fn check_listener(text: &str) -> Result<(), String> {
    let wrong = || format!("listener {text:?}: an address is needed: *:8080, 127.0.0.1:8080");
    let at = address(text).map_err(|_| wrong())?;
    match at {
        Address::Tcp(_, 0) => Err(wrong()),
        Address::Tcp(host, _) if host.parse::<std::net::IpAddr>().is_err() => Err(wrong()),
        Address::Unix(path) if !path.is_absolute() => Err(wrong()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// The last attempt has less time than the others. If there is no answer within
    /// that, what was answered before is told as well.
    #[test]
    fn what_went_wrong_before_is_told() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let probe = Probe {
            address: Address::Tcp("127.0.0.1".to_owned(), port),
            path: "/here".to_owned(),
            host: "localhost".to_owned(),
            timeout: Duration::from_secs(8),
        };
        std::thread::spawn(move || answer_once(&server));
        let problem = probe.ask().unwrap_err();
        assert!(problem.contains("has not answered within"), "{problem}");
        assert!(problem.contains(", after status 500, for 8 s"), "{problem}");
    }

    /// Nobody else is answered.
    fn answer_once(server: &TcpListener) {
        let (mut first, _) = server.accept().unwrap();
        let failed = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
        let mut asked_for = [0; 9];
        first.read_exact(&mut asked_for).unwrap();
        assert_eq!(&asked_for, b"GET /here");
        first.write_all(failed.as_bytes()).unwrap();
        let _others: Vec<_> = server.incoming().collect();
    }

    #[test]
    fn listeners_are_found() {
        let tcp = |host: &str, port, pass: &str| {
            Ok((Address::Tcp(host.to_owned(), port), pass.to_owned()))
        };
        let mut config = json!({ "listeners": {
            "*:443": { "pass": "routes", "tls": { "certificate": "x" } },
            "127.0.0.1:81": { "pass": "applications/other" },
        }});
        let shop = ["routes", "applications/shop"];
        let tls = listener(&config, &shop, None).unwrap_err();
        assert!(tls.contains("TLS"), "{tls}");
        assert_eq!(
            listener(&config, &["routes", "applications/other"], None),
            tcp("127.0.0.1", 81, "applications/other")
        );
        config["listeners"]["[::]:82"] = json!({ "pass": "routes" });
        assert_eq!(listener(&config, &shop, None), tcp("::1", 82, "routes"));
        config["listeners"]["*:83"] = json!({ "pass": "routes" });
        assert_eq!(
            listener(&config, &shop, Some("*:83")),
            tcp("127.0.0.1", 83, "routes")
        );
        assert!(listener(&config, &shop, Some("*:443")).is_err());
        let none = listener(&json!({}), &shop, None).unwrap_err();
        assert!(none.contains("--listener"), "{none}");
    }

    #[test]
    fn addresses_of_listeners() {
        for good in ["*:8080", "127.0.0.1:80", "[::1]:80", "unix:/run/a.sock"] {
            assert_eq!(check_listener(good), Ok(()), "{good}");
        }
        for bad in ["", "8080", "localhost:80", "*:", "*:0", "*:70000", "unix:a"] {
            assert!(check_listener(bad).is_err(), "{bad}");
        }
    }
}
