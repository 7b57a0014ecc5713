//! The HTTP/1 front: enough of a server to show a module the requests that
//! Unit would show it, and to send its responses as Unit would.

pub mod body;
pub mod connection;
pub mod head;
pub mod input;
pub mod reply;
pub mod target;
