//! Unit's control socket.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::client::{self, Address, ClientError, Question};

/// Applying a configuration may have to compile a component first.
const PATIENCE: Duration = Duration::from_secs(600);
/// Looking at it does not.
const LOOK: Duration = Duration::from_secs(30);

/// Where Unit is controlled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The address of its socket.
    pub address: Address,
}

/// Why Unit does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no answer.
    #[error("Unit's control socket: {0}")]
    Client(#[from] ClientError),
    /// It says no.
    #[error("Unit refuses {method} {path}: {reason}")]
    Refused {
        /// What was asked.
        method: Method,
        /// Of what.
        path: String,
        /// What it said.
        reason: String,
    },
    /// It answers something else.
    #[error("GET {path}: the answer is not JSON; is {address} Unit's control socket?")]
    NotUnit {
        /// What was asked.
        path: String,
        /// Who was asked.
        address: Address,
    },
}

impl ControlError {
    /// Whether there was no answer.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Client(_))
    }
}

impl FromStr for Control {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "takes the path of a socket, or http://127.0.0.1:PORT";
        if let Some(rest) = text.strip_prefix("http://") {
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            let (host, port) = rest.rsplit_once(':').ok_or(form)?;
            let port = port.parse().map_err(|_| form)?;
            let host = host.trim_matches(['[', ']']);
            if host.is_empty() || host.contains(['/', '@', '?']) {
                return Err(form.to_owned());
            }
            let address = Address::Tcp(host.to_owned(), port);
            return Ok(Self { address });
        }
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.is_empty() || path.contains("://") {
            return Err(form.to_owned());
        }
        let address = Address::Unix(PathBuf::from(path));
        Ok(Self { address })
    }
}

/// `text` as a segment of a path.
pub fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

impl Control {
    /// The whole configuration.
    pub fn config(&self) -> Result<Value, ControlError> {
        let path = "/config".to_owned();
        let answer = self.ask(Method::GET, &path, None, LOOK)?;
        match answer {
            Some(config) if config.is_object() => Ok(config),
            _ => Err(ControlError::NotUnit {
                path,
                address: self.address.clone(),
            }),
        }
    }

    /// Waits until changes are done that others have asked for. What is asked for here
    /// is nothing, but Unit looks at it when those are done.
    pub fn wait_for_others(&self) -> Result<(), ControlError> {
        match self.delete("/config/none") {
            Err(ControlError::Refused { .. }) => Ok(()),
            other => other,
        }
    }

    /// Sets what is at a path of the configuration.
    pub fn put(&self, path: &str, value: &Value) -> Result<(), ControlError> {
        let body = Some(value.to_string());
        self.ask(Method::PUT, path, body, PATIENCE).map(drop)
    }

    /// Takes away what is at a path of the configuration.
    pub fn delete(&self, path: &str) -> Result<(), ControlError> {
        self.ask(Method::DELETE, path, None, PATIENCE).map(drop)
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        timeout: Duration,
    ) -> Result<Option<Value>, ControlError> {
        let question = Question {
            method: method.clone(),
            path,
            host: "localhost",
            body,
            timeout,
        };
        let answer = client::ask(&self.address, question)?;
        let json: Option<Value> = serde_json::from_slice(&answer.body).ok();
        if answer.status == 200 {
            return Ok(json);
        }
        let text = |name: &str| json.as_ref()?.get(name)?.as_str().map(str::to_owned);
        let mut reason = text("error").unwrap_or_else(|| format!("status {}", answer.status));
        if let Some(detail) = text("detail") {
            reason.push(' ');
            reason.push_str(&detail);
        }
        if answer.status == 500 {
            reason.push_str(" Its log says why.");
        }
        Err(ControlError::Refused {
            method,
            path: path.to_owned(),
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        for (text, address) in [
            ("/run/unit.sock", Address::Unix("/run/unit.sock".into())),
            ("unix:/run/a:b", Address::Unix("/run/a:b".into())),
            ("http://127.0.0.1:8081", tcp("127.0.0.1", 8081)),
            ("http://[::1]:8081/", tcp("::1", 8081)),
        ] {
            assert_eq!(text.parse(), Ok(Control { address }), "{text}");
        }
        for bad in [
            "",
            "http://localhost",
            "http://:1",
            "https://localhost:1",
            "http://a/b:1",
        ] {
            assert!(bad.parse::<Control>().is_err(), "{bad}");
        }
        assert_eq!(segment("*:80/ä"), "%2A%3A80%2F%C3%A4");
    }
}
