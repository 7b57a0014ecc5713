//! `nxt-wasm init`: a component to begin with, made of the examples of this
//! repository.

mod starters;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use starters::{Language, files};

use crate::terminal;

/// Make a component to begin with, in a new directory
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language to write it in
    language: Language,
    /// Directory, which has to be empty or not there yet
    directory: PathBuf,
    /// Name of the component and of its application [default: that of the directory]
    #[arg(long)]
    name: Option<String>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// It would not do as the name of a package or a file.
    #[error(
        "{0:?} cannot be its name: give one with --name that has lower-case letters, digits and \
         dashes, 1 to 64, and a letter first"
    )]
    Name(String),
    /// Something is there that could be lost.
    #[error("{0} is there already and is not empty")]
    NotEmpty(PathBuf),
    /// The operating system refused something.
    #[error("{path}: {error}")]
    Io {
        /// What was to be made.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let name = name(args)?;
    make(args.language, &args.directory, &name)?;
    let directory = args.directory.display();
    terminal::print(&format!(
        "{directory} has a component in {}: `sh {directory}/build.sh` makes {directory}/{name}.wasm. \
         See {directory}/README.md.\n",
        args.language.title()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn name(args: &Args) -> Result<String, InitError> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            let path = std::path::absolute(&args.directory);
            let path = path.map_err(failed(&args.directory))?;
            let last = path.file_name().unwrap_or_default();
            last.to_string_lossy().into_owned()
        }
    };
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let letter = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    match letter && name.len() <= 64 && name.bytes().all(good) {
        true => Ok(name),
        false => Err(InitError::Name(name)),
    }
}

fn make(language: Language, directory: &Path, name: &str) -> Result<(), InitError> {
    fs::create_dir_all(directory).map_err(failed(directory))?;
    let mut entries = fs::read_dir(directory).map_err(failed(directory))?;
    if entries.next().is_some() {
        return Err(InitError::NotEmpty(directory.to_owned()));
    }
    for (path, text) in files(language, name) {
        let path = directory.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed(folder))?;
        }
        // Whatever came there in the meantime is not written over.
        fs::File::create_new(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
            .map_err(failed(&path))?;
    }
    Ok(())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> InitError {
    let path = path.to_owned();
    |error| InitError::Io { path, error }
}
