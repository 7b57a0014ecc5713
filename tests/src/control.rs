//! The control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::http::{Conn, Error, Request, Response};

/// Applying a configuration may have to compile a component first.
const PATIENCE: Duration = Duration::from_secs(180);

/// A client of a host's control socket.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
}

/// Status and JSON of an answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body, or null where it is not JSON.
    pub json: Value,
}

impl Reply {
    /// Whether the host says that it did as told.
    pub fn success(&self) -> bool {
        self.status == 200 && self.json.get("success").is_some()
    }
}

impl Control {
    /// The control socket at `socket`.
    pub fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_path_buf(),
        }
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Result<Reply, Error> {
        self.exchange(&Request::get(path).close())
    }

    /// `PUT path` with a JSON body.
    pub fn put(&self, path: &str, json: &Value) -> Result<Reply, Error> {
        let body = json.to_string().into_bytes();
        self.exchange(&Request::with_body("PUT", path, body).close())
    }

    /// `DELETE path`.
    pub fn delete(&self, path: &str) -> Result<Reply, Error> {
        self.exchange(&Request::new("DELETE", path).close())
    }

    /// Whether the socket answers yet.
    pub fn ready(&self) -> bool {
        self.get("/config").is_ok_and(|reply| reply.status == 200)
    }

    fn exchange(&self, request: &Request) -> Result<Reply, Error> {
        let mut conn = Conn::open_unix(&self.socket).map_err(Error::Io)?;
        conn.set_patience(PATIENCE);
        let Response { head, body } = conn.exchange(request)?;
        Ok(Reply {
            status: head.status,
            json: serde_json::from_slice(&body).unwrap_or(Value::Null),
        })
    }
}
