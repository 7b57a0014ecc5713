//! Listening sockets.

use std::io;
use std::rc::Rc;

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, spawn_local};

use super::{Router, bump};
use crate::http::connection;
use crate::log::{Level, log};

/// An open listener; it closes when this is dropped. Its connections stay.
pub struct Listener {
    accepting: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The address to bind for the name of a listener.
pub fn address(name: &str) -> String {
    match name.strip_prefix("*:") {
        Some(port) => format!("0.0.0.0:{port}"),
        None => name.to_owned(),
    }
}

/// Opens the listener of that name.
pub async fn open(router: &Rc<Router>, name: &str) -> io::Result<Listener> {
    let socket = TcpListener::bind(address(name)).await?;
    let (router, name) = (Rc::clone(router), Rc::<str>::from(name));
    let accepting = spawn_local(async move {
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    bump(&router.counts.accepted);
                    let (router, name) = (Rc::clone(&router), Rc::clone(&name));
                    spawn_local(async move {
                        let _ = stream.set_nodelay(true);
                        connection::serve(&router, &name, stream, peer).await;
                        bump(&router.counts.closed);
                    });
                }
                Err(error) => {
                    log(Level::Alert, format!("accept on {name}: {error}"));
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(Listener { accepting })
}
