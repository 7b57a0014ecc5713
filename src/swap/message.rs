//! What the watcher and the processes say to each other: the kind of the message
//! on its first line, then what belongs to it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nxt_wasm_runtime::artifact::Description;

use super::channel::{Channel, Received};
use crate::unit::Level;

/// What the watcher says when it is one.
pub const UP: &str = "up";

/// What a process says at the watcher's door, which all share. The watcher's end
/// of a channel of its own comes along.
pub const JOIN: &str = "join";

/// Levels of what the watcher has to tell.
const LEVELS: [Level; 3] = [Level::Error, Level::Warn, Level::Notice];

/// A component in place of the one that was there when the application started.
pub struct Version {
    /// Counts those of an application, from 1.
    pub number: u64,
    /// SHA-256 of the component.
    pub sha256: String,
    /// What is known of it.
    pub description: Description,
    /// Its machine code.
    pub artifact: File,
}

/// From the watcher to a process.
pub enum Order<V> {
    /// The answer to one that joins: serve what was there at the start.
    Begin,
    /// The same: serve this one.
    BeginWith(V),
    /// Load this one.
    Load(V),
    /// Serve what you have loaded.
    Switch(u64),
    /// Somebody could not load it: let go of it.
    Forget(u64),
    /// Put this into the log.
    Log(Level, String),
}

/// From a process to the watcher.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// It has loaded the version of this number.
    Loaded(u64),
    /// It could not.
    Failed(u64, String),
    /// It serves the version of this number.
    Switched(u64),
    /// It serves nothing any more, and ends as it should.
    Leaving,
}

impl Order<&Version> {
    pub fn send(&self, channel: &Channel) -> io::Result<()> {
        let with = |kind, version: &Version| {
            let Version {
                number,
                sha256,
                description,
                artifact,
            } = version;
            let text = format!("{kind}\n{number}\n{sha256}\n{}", description.to_text());
            channel.send(&text, Some(artifact.as_fd()))
        };
        match self {
            Self::Begin => channel.send("begin", None),
            Self::BeginWith(version) => with("begin-with", version),
            Self::Load(version) => with("load", version),
            Self::Switch(number) => channel.send(&format!("switch\n{number}"), None),
            Self::Forget(number) => channel.send(&format!("forget\n{number}"), None),
            Self::Log(level, text) => {
                let number = LEVELS.iter().position(|known| known == level);
                channel.send(&format!("log\n{}\n{text}", number.unwrap_or(0)), None)
            }
        }
    }
}

impl Order<Version> {
    /// `None` if it is none.
    pub fn of(mut message: Received) -> Option<Self> {
        let file = message.take_file();
        let (kind, rest) = split(&message.text);
        let version = || {
            let (number, rest) = split(rest);
            let (sha256, rest) = split(rest);
            Some(Version {
                number: number.parse().ok()?,
                sha256: sha256.to_owned(),
                description: Description::from_text(rest)?,
                artifact: file?,
            })
        };
        Some(match kind {
            "begin" => Self::Begin,
            "begin-with" => Self::BeginWith(version()?),
            "load" => Self::Load(version()?),
            "switch" => Self::Switch(rest.parse().ok()?),
            "forget" => Self::Forget(rest.parse().ok()?),
            "log" => {
                let (level, text) = split(rest);
                let level = *LEVELS.get(level.parse::<usize>().ok()?)?;
                Self::Log(level, text.to_owned())
            }
            _ => return None,
        })
    }
}

impl Reply {
    pub fn send(&self, channel: &Channel) -> io::Result<()> {
        let text = match self {
            Self::Loaded(number) => format!("loaded\n{number}"),
            Self::Failed(number, why) => format!("failed\n{number}\n{why}"),
            Self::Switched(number) => format!("switched\n{number}"),
            Self::Leaving => "leaving".to_owned(),
        };
        channel.send(&text, None)
    }

    /// `None` if it is none.
    pub fn of(text: &str) -> Option<Self> {
        let (kind, rest) = split(text);
        let (number, why) = split(rest);
        if kind == "leaving" {
            return Some(Self::Leaving);
        }
        let number = number.parse().ok()?;
        match kind {
            "loaded" => Some(Self::Loaded(number)),
            "failed" => Some(Self::Failed(number, why.to_owned())),
            "switched" => Some(Self::Switched(number)),
            _ => None,
        }
    }
}

/// The first line, and what follows.
fn split(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use nxt_wasm_runtime::World;

    use super::*;

    fn travelled(order: &Order<&Version>) -> Order<Version> {
        let (one, other) = Channel::pair().unwrap();
        order.send(&one).unwrap();
        Order::of(other.receive().unwrap().unwrap()).unwrap()
    }

    #[test]
    fn orders_survive_the_way() {
        use rustix::fs::{MemfdFlags, memfd_create};
        let version = Version {
            number: 7,
            sha256: "ab".repeat(32),
            description: Description {
                world: World::Service,
                handler: "wasi:http/handler@0.3.0".into(),
                memories: 1,
                tables: 2,
                table_elements: 3,
                initial_memory: 4,
            },
            artifact: memfd_create("test", MemfdFlags::CLOEXEC).unwrap().into(),
        };
        for order in [Order::BeginWith(&version), Order::Load(&version)] {
            let (Order::BeginWith(back) | Order::Load(back)) = travelled(&order) else {
                panic!("another order");
            };
            assert_eq!((back.number, &back.sha256), (7, &version.sha256));
            assert_eq!(back.description, version.description);
        }
        assert!(matches!(travelled(&Order::Begin), Order::Begin));
        assert!(matches!(travelled(&Order::Switch(8)), Order::Switch(8)));
        assert!(matches!(travelled(&Order::Forget(9)), Order::Forget(9)));
        let log = Order::Log(Level::Error, "two\nlines".into());
        assert!(matches!(
            travelled(&log),
            Order::Log(Level::Error, text) if text == "two\nlines"
        ));
    }

    #[test]
    fn replies_survive_the_way() {
        for reply in [
            Reply::Loaded(1),
            Reply::Failed(2, "no\nroom".into()),
            Reply::Switched(3),
            Reply::Leaving,
        ] {
            let (one, other) = Channel::pair().unwrap();
            reply.send(&one).unwrap();
            let text = other.receive().unwrap().unwrap().text;
            assert_eq!(Reply::of(&text), Some(reply));
        }
        assert_eq!(Reply::of("loaded\nmany"), None);
    }
}
