//! A stand-in for NGINX Unit: it loads the same language modules, gives them
//! the same API, and serves HTTP through them, so that they can be tried and
//! tested where there is no Unit. It is not a server for production.
//!
//! One executable has all roles. The main process ([`serve`]) takes
//! connections and the control API. Per application it starts itself again as
//! a prototype ([`prototype`]), which forks the application processes; in
//! these, modules find libunit ([`libunit`]) in the executable itself.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod codec;
mod conf_api;
mod config;
mod control;
mod ffi;
mod http;
mod libunit;
mod log;
mod module;
mod options;
mod prototype;
mod request;
mod router;
mod serve;
mod sys;
mod wire;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use log::Level;
use options::Command;

fn main() -> ExitCode {
    let command = match options::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("nxt-standin: {error}");
            return ExitCode::from(2);
        }
    };
    let result = match command {
        Command::Print(text) => {
            print!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Discover(directory) => module::discover(&directory).map(|()| ExitCode::SUCCESS),
        Command::Prototype => match be_prototype() {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => {
                // As in Unit, no alarm: the module has said what is wrong.
                log::log(Level::Warn, error);
                Ok(ExitCode::FAILURE)
            }
        },
        Command::Serve(options) => serve::serve(&options),
    };
    result.unwrap_or_else(|error| {
        log::log(Level::Alert, error);
        ExitCode::FAILURE
    })
}

/// Takes the stream to the main process from descriptor 0.
fn be_prototype() -> io::Result<()> {
    let stream = io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(nothing.as_fd())?;
    prototype::run(stream)
}
