//! The command line: unitd's options, and a few more.

use std::path::PathBuf;

/// What `--help` prints.
pub const HELP: &str = "\
nxt-standin - a stand-in for NGINX Unit, for trying and testing language modules.
It is not a server for production.

  --control ADDRESS    control API: unix:/path or HOST:PORT
  --modulesdir DIR     where *.unit.so are looked for
  --statedir DIR       the configuration is kept there
  --tmpdir DIR         large request bodies are put there
  --pid FILE           gets the process id
  --log FILE           gets the log; without it standard error
  --config FILE        a configuration to apply at start
  --no-daemon          accepted; it is never a daemon
  --user NAME          accepted and ignored
  --group NAME         accepted and ignored
  --version            print the version
  --help               print this
";

/// The control socket unless another is named.
pub const DEFAULT_CONTROL: &str = "127.0.0.1:8081";

/// How the stand-in was started.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Serve(Box<Options>),
    /// Print a text.
    Print(String),
    /// Role of a child: look for modules.
    Discover(PathBuf),
    /// Role of a child: be a prototype; the stream is descriptor 0.
    Prototype,
}

/// Options of the main process.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `--control`.
    pub control: Option<String>,
    /// `--modulesdir`.
    pub modules: Option<PathBuf>,
    /// `--statedir`.
    pub state: Option<PathBuf>,
    /// `--tmpdir`.
    pub tmp: Option<PathBuf>,
    /// `--pid`.
    pub pid: Option<PathBuf>,
    /// `--log`.
    pub log: Option<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
}

/// The first argument of children.
pub const DISCOVER: &str = "--role=discover";
/// The first argument of children.
pub const PROTOTYPE: &str = "--role=prototype";

/// Reads the arguments after the program's name.
pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = Options::default();
    let mut arguments = arguments.peekable();
    match arguments.peek().map(String::as_str) {
        Some(PROTOTYPE) => return Ok(Command::Prototype),
        Some(DISCOVER) => {
            let directory = arguments.nth(1).ok_or("no directory to look into")?;
            return Ok(Command::Discover(directory.into()));
        }
        _ => {}
    }
    while let Some(argument) = arguments.next() {
        let (name, mut inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || {
            inline
                .take()
                .or_else(|| arguments.next())
                .ok_or_else(|| format!("option \"{name}\" requires a value"))
        };
        match name.as_str() {
            "--no-daemon" => {}
            "--control" => options.control = Some(value()?),
            "--modulesdir" | "--modules" => options.modules = Some(value()?.into()),
            "--statedir" | "--state" => options.state = Some(value()?.into()),
            "--tmpdir" | "--tmp" => options.tmp = Some(value()?.into()),
            "--pid" => options.pid = Some(value()?.into()),
            "--log" => options.log = Some(value()?.into()),
            "--config" => options.config = Some(value()?.into()),
            "--user" | "--group" => drop(value()?),
            "--version" => {
                return Ok(Command::Print(format!(
                    "nxt-standin version: {}\n",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            "--help" | "-h" => return Ok(Command::Print(HELP.to_owned())),
            _ => return Err(format!("unknown option \"{name}\", see --help")),
        }
    }
    Ok(Command::Serve(Box::new(options)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, String> {
        parse(arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn options_of_unitd_are_understood() {
        let command = parsed(&["--no-daemon", "--control", "unix:/c", "--pid=/p"]).unwrap();
        let Command::Serve(options) = command else {
            panic!("not to be served");
        };
        assert_eq!(options.control.as_deref(), Some("unix:/c"));
        assert_eq!(options.pid, Some("/p".into()));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parsed(&["--contrl"]).unwrap_err().contains("--contrl"));
        assert!(parsed(&["--log"]).unwrap_err().contains("--log"));
    }
}
