//! The process that watches the component's file, one for each application.
//!
//! It is forked from the prototype while that has the file's name in sight, with
//! the application's rights and nothing else, and ends when all processes of the
//! application have. It has one thread, so that it can fork children that read,
//! compile and try out what it finds, as the prototype does at the start.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nxt_wasm_settings::{Application, Settings};

use super::channel::Channel;
use super::club::Club;
use super::look::{Look, Looks};
use super::message::{UP, Version};
use crate::prepare::{self, Prepared};
use crate::report::App;
use crate::source::Source;
use crate::unit::{self, Level};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What the log and `ps` call the process.
const NAME: &std::ffi::CStr = c"wasm-watcher";

/// Starts the watcher of an application whose component has this digest. The
/// channel is that to its door.
///
/// # Errors
///
/// Why there can be none, for the operator.
pub fn start(
    settings: &Settings,
    application: &Application,
    app: &App,
    sha256: &str,
) -> Result<Channel, String> {
    let system = |error: io::Error| format!("UNIT_WASM_WATCH: no watcher: {error}");
    let identity =
        unit::application_identity(application.user.as_deref(), application.group.as_deref())?;
    let source = Source::of(settings, application).map_err(|e| e.to_string())?;
    let told = source.path().ok_or("UNIT_WASM_WATCH: there is no file")?;
    // What Unit does to the root directory later is none of the watcher's
    // business: its working directory stays the one that the path is looked up in.
    let base = settings
        .rootfs
        .clone()
        .unwrap_or_else(|| PathBuf::from("/"));
    let path = match told.strip_prefix(&base) {
        Ok(path) => path.to_owned(),
        Err(_) => std::env::current_dir().map_err(system)?.join(told),
    };
    let (inside, door) = Channel::pair().map_err(system)?;
    let was_root = identity.is_some();
    let log = {
        let app = app.clone();
        move |level, text: &str| app.log(level, text)
    };
    let watch = |inside| {
        let mut watcher = Watcher {
            settings,
            told,
            path: &path,
            was_root,
            serving: sha256.to_owned(),
            number: 0,
            troubled: false,
            club: Club::new(Channel::of(inside), log),
        };
        match std::env::set_current_dir(&base) {
            Ok(()) => watcher.run(),
            Err(_) => unit::CHILD_UNCONFINED,
        }
    };
    unit::spawn_companion(NAME, identity.as_ref(), inside.into_fd(), watch).map_err(system)?;
    match door.receive() {
        Ok(Some(message)) if message.text == UP => Ok(door),
        _ => Err(
            "UNIT_WASM_WATCH: the watcher could not take on the application's user, or go to its root \
             directory"
                .to_owned(),
        ),
    }
}

struct Watcher<'a> {
    settings: &'a Settings,
    /// The file, as the log has it.
    told: &'a Path,
    /// The file, as it is found from here.
    path: &'a Path,
    /// Whether unitd is root, which this process is not.
    was_root: bool,
    /// Digest of the component that is served.
    serving: String,
    /// Versions so far.
    number: u64,
    /// There is something wrong with the file, and the log says so.
    troubled: bool,
    club: Club,
}

impl Watcher<'_> {
    /// Until the application has ended. Returns the exit code.
    fn run(&mut self) -> i32 {
        if self.club.greet(UP).is_err() {
            return 1;
        }
        let mut looks = Looks::default();
        while self.club.wait(LOOK).is_continue() {
            match looks.news(Look::at(self.path)) {
                Some(Look::Nothing(error)) => self.complain(Level::Warn, "is gone", &error),
                Some(file) => {
                    let taken = self.take(&file);
                    if taken.is_break() {
                        looks.forget();
                    }
                }
                None => {}
            }
        }
        0
    }

    /// Prepares what lies in the file, and has it served. Breaks off if the file is
    /// no longer the one that `look` has found: what it had is not to be served, and
    /// nobody wants to know what was wrong with it.
    fn take(&mut self, look: &Look) -> ControlFlow<()> {
        let started = Instant::now();
        let (club, path) = (&mut self.club, self.path);
        let mut looked = started;
        // The child is ended then, also if the file turns out to be the same after all.
        let mut changed = false;
        let prepared =
            prepare::prepare_successor(self.settings, path, self.was_root, &self.serving, |_| {
                club.wait(Duration::ZERO)?;
                if looked.elapsed() < LOOK {
                    return ControlFlow::Continue(());
                }
                looked = Instant::now();
                let is_still = still(path, look);
                changed |= is_still.is_break();
                is_still
            });
        still(path, look)?;
        if changed {
            return ControlFlow::Break(());
        }
        if !club.is_over() {
            match prepared {
                Ok(Some(prepared)) => self.serve(prepared, started),
                Ok(None) => self.is_the_same(),
                Err(error) => self.refuse(&error.to_string()),
            }
        }
        ControlFlow::Continue(())
    }

    /// Has all processes serve it.
    fn serve(&mut self, prepared: Prepared, started: Instant) {
        for note in &prepared.notes {
            self.club.log(Level::Warn, note);
        }
        self.number += 1;
        let text = format!(
            "component {} sha256={} exports {}, {} in {:?}",
            self.told.display(),
            prepared.sha256,
            prepared.description.handler,
            if prepared.cached {
                "artifact found in the cache"
            } else {
                "compiled"
            },
            started.elapsed()
        );
        let sha256 = prepared.sha256.clone();
        let version = Version {
            number: self.number,
            sha256: prepared.sha256,
            description: prepared.description,
            artifact: prepared.artifact,
        };
        match self.club.switch(version) {
            Ok(processes) => {
                self.serving = sha256;
                self.troubled = false;
                let text = format!("{text}: switched, processes: {processes}");
                self.club.log(Level::Notice, &text);
            }
            Err(_) if self.club.is_over() => {}
            Err(why) => self.refuse(&why),
        }
    }

    fn refuse(&mut self, why: &str) {
        self.complain(Level::Error, "has changed and is not taken", why);
    }

    fn complain(&mut self, level: Level, what: &str, why: &str) {
        self.troubled = true;
        let text = format!(
            "component {} {what}, sha256={} is served as before: {why}",
            self.told.display(),
            self.serving
        );
        self.club.log(level, &text);
    }

    fn is_the_same(&mut self) {
        if std::mem::take(&mut self.troubled) {
            let text = format!(
                "component {} is the one that is served again: sha256={}",
                self.told.display(),
                self.serving
            );
            self.club.log(Level::Notice, &text);
        }
    }
}

/// Whether `look` is what there is to see.
fn still(path: &Path, look: &Look) -> ControlFlow<()> {
    match Look::at(path) == *look {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    }
}
