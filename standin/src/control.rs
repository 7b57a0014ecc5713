//! The control API.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::spawn_local;

use crate::config::path::{self, NoChange, segments};
use crate::config::validate::validate;
use crate::http::body::{self, NoBody, Rules};
use crate::http::head::Head;
use crate::http::input::Input;
use crate::http::reply::reason;
use crate::http::target;
use crate::log::{Level, log};
use crate::router::apply::{apply, set_faults};
use crate::router::{Faults, Router};

/// A status and what is shown.
type Answer = (u16, Value);

fn error(status: u16, text: &str) -> Answer {
    (status, json!({ "error": text }))
}

fn not_found() -> Answer {
    error(404, "Value doesn't exist.")
}

fn not_allowed() -> Answer {
    error(405, "Method isn't allowed.")
}

/// Opens the socket, `unix:/path` or an address, and serves it.
pub async fn serve(router: Rc<Router>, at: &str) -> io::Result<()> {
    if let Some(file) = at.strip_prefix("unix:") {
        // A socket that a former run left behind.
        let _ = std::fs::remove_file(file);
        let socket = UnixListener::bind(file)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(file, mode)?;
        spawn_local(async move {
            while let Ok((stream, _)) = socket.accept().await {
                spawn_local(connection(Rc::clone(&router), stream));
            }
        });
    } else {
        let socket = TcpListener::bind(at).await?;
        spawn_local(async move {
            while let Ok((stream, _)) = socket.accept().await {
                spawn_local(connection(Rc::clone(&router), stream));
            }
        });
    }
    Ok(())
}

/// Removes the socket's file.
pub fn remove(at: &str) {
    if let Some(file) = at.strip_prefix("unix:") {
        let _ = std::fs::remove_file(file);
    }
}

async fn connection(router: Rc<Router>, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut input = Input::default();
    let wait = Duration::from_secs(60);
    let Ok(mut head) = input.head(&mut stream, false, wait, wait).await else {
        return;
    };
    let rules = Rules {
        max_size: 16 << 20,
        in_memory: 16 << 20,
        directory: Path::new("/nonexistent"),
        silence: wait,
        chunked: false,
    };
    let received = match body::framing(&mut head, &rules) {
        Ok(framing) => body::receive(&mut head, framing, &mut input, &mut stream, &rules).await,
        Err(status) => Err(NoBody::Refused(status)),
    };
    let (status, shown) = match received {
        Ok(body) => answer(&router, &head, &body.preread).await,
        Err(NoBody::Refused(status)) => error(status, reason(status)),
        Err(NoBody::Closed) => return,
    };
    let text = serde_json::to_string_pretty(&shown).unwrap_or_default();
    let bytes = format!(
        "HTTP/1.1 {status} {}\r\nServer: nxt-standin\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{text}\r\n",
        reason(status),
        text.len() + 2
    );
    let _ = stream.write_all(bytes.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn answer(router: &Rc<Router>, head: &Head, body: &[u8]) -> Answer {
    let path = target::split(&head.target).and_then(|_| {
        // Not normalised: names may contain encoded slashes.
        let path = head.target.split(|byte| *byte == b'?').next()?;
        segments(std::str::from_utf8(path).ok()?)
    });
    let Some(path) = path else {
        return error(400, "Invalid path.");
    };
    let Some((first, rest)) = path.split_first() else {
        return match head.method.as_slice() {
            b"GET" => (
                200,
                json!({"config": config(router), "status": router.status()}),
            ),
            _ => not_allowed(),
        };
    };
    match (first.as_str(), head.method.as_slice()) {
        ("config", b"GET") => {
            path::get(&config(router), rest).map_or_else(not_found, |value| (200, value.clone()))
        }
        ("config", method) => change(router, method, rest, body).await,
        ("status", b"GET") => {
            path::get(&router.status(), rest).map_or_else(not_found, |value| (200, value.clone()))
        }
        ("control", b"GET") => control(router, rest),
        ("faults", method) => faults(router, method, rest, body),
        ("status" | "control", _) => not_allowed(),
        _ => not_found(),
    }
}

fn config(router: &Router) -> Value {
    router.site.borrow().config.clone()
}

fn parse(body: &[u8]) -> Result<Value, Answer> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    serde_json::from_slice(body).map_err(|found| {
        let shown = json!({
            "error": "Invalid JSON.",
            "detail": found.to_string(),
            "location": {"line": found.line(), "column": found.column()},
        });
        (400, shown)
    })
}

async fn change(router: &Rc<Router>, method: &[u8], path: &[String], body: &[u8]) -> Answer {
    let _turn = router.applying.lock().await;
    let mut new = config(router);
    let changed = match method {
        b"PUT" | b"POST" => {
            if method == b"POST" && path.is_empty() {
                return not_allowed();
            }
            let value = match parse(body) {
                Ok(value) => value,
                Err(answer) => return answer,
            };
            if method == b"PUT" {
                path::put(&mut new, path, value)
            } else {
                path::post(&mut new, path, value)
            }
        }
        b"DELETE" => path::delete(&mut new, path),
        _ => return not_allowed(),
    };
    match changed {
        Ok(()) => {}
        Err(NoChange::NotFound) => return not_found(),
        Err(NoChange::NotAllowed) => return not_allowed(),
    }
    reconfigure(router, new).await
}

/// Checks and applies; what a client of the control API is told.
pub async fn reconfigure(router: &Rc<Router>, new: Value) -> Answer {
    if let Err(detail) = validate(&new, &router.modules) {
        let shown = json!({"error": "Invalid configuration.", "detail": detail});
        return (400, shown);
    }
    match apply(router, new).await {
        Ok(()) => (200, json!({"success": "Reconfiguration done."})),
        Err(cause) => {
            log(Level::Warn, cause);
            log(Level::Alert, "failed to apply new conf");
            error(500, "Failed to apply new configuration.")
        }
    }
}

fn control(router: &Rc<Router>, path: &[String]) -> Answer {
    let [group, name, action] = path else {
        return not_found();
    };
    let site = Rc::clone(&router.site.borrow());
    let app = site.apps.get(name);
    match (group.as_str(), app, action.as_str()) {
        ("applications", Some(app), "restart") => match app.restart() {
            Ok(()) => (200, json!({"success": "Ok"})),
            Err(cause) => {
                log(Level::Alert, format!("restart of \"{name}\": {cause}"));
                error(500, "Failed to restart app.")
            }
        },
        _ => not_found(),
    }
}

fn faults(router: &Router, method: &[u8], path: &[String], body: &[u8]) -> Answer {
    match (method, path) {
        (b"GET", _) => {
            let all: serde_json::Map<String, Value> = {
                let faults = router.faults.borrow();
                let shown =
                    |(name, known): (&String, &Faults)| (name.clone(), known.object.clone());
                faults.iter().map(shown).collect()
            };
            path::get(&Value::Object(all), path)
                .map_or_else(not_found, |value| (200, value.clone()))
        }
        (b"PUT", [name]) => match parse(body) {
            Ok(value) => put_faults(router, name, &value),
            Err(answer) => answer,
        },
        (b"DELETE", [name]) => put_faults(router, name, &json!({})),
        _ => not_allowed(),
    }
}

fn put_faults(router: &Router, name: &str, object: &Value) -> Answer {
    match set_faults(router, name, object) {
        Ok(()) => (200, json!({"success": "Faults set."})),
        Err(detail) => (400, json!({"error": "Invalid faults.", "detail": detail})),
    }
}
