//! The life of an application: its prototype process, then the processes that
//! serve requests.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nxt_wasm_runtime::{LoadError, Redactor, Runtime};
use nxt_wasm_settings::{Application, Settings, files};

use crate::breaker::Breaker;
use crate::metrics::{self, Board, Metrics};
use crate::prepare::{self, Prepared};
use crate::report::App;
use crate::service::{Service, Serving, Siblings};
use crate::source::Source;
use crate::swap::{self, Membership, Version};
use crate::unit::{self, Context, Level, Task};
use crate::watchdog::Watchdog;
use crate::worker;

/// The member of the application object that names the component's file.
#[cfg(not(feature = "type-wasm"))]
const COMPONENT: &str = "component";
#[cfg(feature = "type-wasm")]
const COMPONENT: &str = "module";

/// What setup() leaves for the processes that are forked from the prototype.
struct Setup {
    settings: Settings,
    prepared: Prepared,
    /// Keeps secrets out of the log.
    redactor: Redactor,
    /// Where processes learn of changes of the component's file, if they are to.
    watcher: Option<swap::Channel>,
    /// For the numbers of all processes, if anybody wants to read them.
    board: Option<Board>,
    /// The process that this was set up in.
    prototype: u32,
}

/// Set once, in the prototype, and inherited by fork. The error is the text
/// for the operator: it is reported by start(), as a prototype that fails
/// would leave Unit with an application that hangs.
static SETUP: OnceLock<Result<Setup, String>> = OnceLock::new();

/// Everything that is done once per application: reading the settings,
/// checking and compiling the component.
pub fn setup(task: &Task<'_>) {
    let application = task.application();
    let app = App::new(&application.name);
    let outcome = set_up(task, &application, &app);
    // setup() is called once per prototype; a second value has no use.
    let _ = SETUP.set(outcome);
}

/// When to tell of what takes long: after 2 seconds, and then every 10.
#[derive(Default)]
struct Pace {
    told: Option<Duration>,
}

impl Pace {
    /// Whether to tell now, `elapsed` after the beginning.
    fn is_due(&mut self, elapsed: Duration) -> bool {
        let next = match self.told {
            None => Duration::from_secs(2),
            Some(told) => told + Duration::from_secs(10),
        };
        let is_due = elapsed >= next;
        if is_due {
            self.told = Some(elapsed);
        }
        is_due
    }
}

fn set_up(task: &Task<'_>, application: &Application, app: &App) -> Result<Setup, String> {
    let mut settings =
        Settings::read(application, COMPONENT).map_err(|e| app.cannot_start(None, &e))?;
    let redactor =
        files::open(&mut settings, &application.name).map_err(|e| app.cannot_start(None, &e))?;
    let source = Source::of(&settings, application).map_err(|e| app.cannot_start(None, &e))?;
    let started = Instant::now();
    let mut pace = Pace::default();
    // There are several children, one after the other: what counts is the time of all.
    let progress = |_: Duration| {
        let elapsed = started.elapsed();
        if pace.is_due(elapsed) {
            let text = format!("preparing {source} for {}s", elapsed.as_secs());
            task.log(Level::Notice, &app.line(&text));
        }
        ControlFlow::Continue(())
    };
    let prepared = prepare::prepare(&settings, &source, application, progress)
        .map_err(|e| app.cannot_start(Some(&source), &e))?;
    for note in &prepared.notes {
        task.log(Level::Warn, &app.line(note));
    }
    let text = format!(
        "component {source} sha256={} exports {}, {} in {:?}",
        prepared.sha256,
        prepared.description.handler,
        if prepared.cached {
            "artifact found in the cache"
        } else {
            "compiled"
        },
        started.elapsed()
    );
    task.log(Level::Notice, &app.line(&text));
    let board = settings.metrics.map(|_| Board::new()).transpose();
    let board = board.map_err(|e| app.cannot_start(None, &format!("UNIT_WASM_METRICS: {e}")))?;
    let watcher = match settings.watch {
        true => {
            let watched = app.clone().without(redactor.clone());
            let watcher = swap::start(&settings, application, &watched, &prepared.sha256);
            Some(watcher.map_err(|e| app.cannot_start(None, &e))?)
        }
        false => None,
    };
    Ok(Setup {
        settings,
        prepared,
        redactor,
        watcher,
        board,
        prototype: std::process::id(),
    })
}

/// An application process. Returns true when it has served and was told to
/// quit, false if it could not start.
pub fn start(task: &Task<'_>) -> bool {
    let application = task.application();
    let app = App::new(&application.name);
    let outcome = match SETUP.get() {
        Some(Ok(setup)) => {
            let app = app.clone().without(setup.redactor.clone());
            serve(task, setup, &application, &app)
        }
        Some(Err(text)) => Err(text.clone()),
        None => Err(app.cannot_start(None, &"setup() did not finish")),
    };
    if let Err(text) = &outcome {
        task.log(Level::Alert, text);
    }
    outcome.is_ok()
}

fn serve(
    task: &Task<'_>,
    setup: &Setup,
    application: &Application,
    app: &App,
) -> Result<(), String> {
    let component = setup.settings.component.display();
    let failed = |error: &dyn std::fmt::Display| app.cannot_start(Some(&component), error);
    let mut membership = join_watcher(setup, app);
    let version = membership.as_mut().and_then(|m| m.begin_with.take());
    open_page_map();
    let runtime = load(setup, version.as_ref()).map_err(|e| failed(&e))?;
    drop(version);
    let service = Arc::new(Service {
        app: app.clone(),
        runtime: Serving::new(runtime),
        settings: setup.settings.clone(),
        siblings: Siblings::default(),
        in_flight: AtomicU32::new(0),
        watchdog: Watchdog::start(app.clone(), setup.settings.watchdog)
            .map_err(|e| failed(&format!("watchdog thread: {e}")))?,
        guest_log: Arc::new(app.clone()),
        prototype: setup.prototype,
        from_cache: setup.prepared.cached,
        metrics: join_board(setup, application, app),
        breaker: setup.settings.breaker.map(Breaker::new),
    });
    let farewell = membership
        .map(|membership| swap::follow(membership, &service, load_successor))
        .transpose()
        .map_err(|e| failed(&format!("swap thread: {e}")))?;
    let tokio = worker::event_loop().map_err(|e| failed(&format!("event loop: {e}")))?;
    raise_descriptor_limit();
    unit::survive_file_size_limit();
    // From here on Unit may send requests.
    let context = Context::init(task).map_err(|function| failed(&format!("{function} failed")))?;
    let ended = worker::serve(tokio, &context, &service, {
        let (service, main) = (Arc::clone(&service), Rc::clone(&context));
        // Not before: the router must not hear of a further context of a
        // process that it does not know yet.
        move || {
            (1..service.settings.threads).for_each(|n| spawn_worker(n, &service, &main));
            let addr = service.settings.metrics?;
            let listening = metrics::listen(addr, Arc::clone(&service));
            Some(tokio::task::spawn_local(listening).abort_handle())
        }
    });
    // Waits for the others.
    drop(context);
    if let Some(farewell) = &farewell {
        farewell.say();
    }
    if let Some(metrics) = &service.metrics {
        metrics.publish(&service.state());
    }
    app.log_totals();
    if let Err(error) = ended {
        // It has served; for Unit this is a process that ends.
        app.log(Level::Alert, &error);
    }
    Ok(())
}

/// The counters of this process, if they are wanted. It can serve without them.
fn join_board(setup: &Setup, application: &Application, app: &App) -> Option<Metrics> {
    let board = setup.board.as_ref()?.share();
    match board.and_then(|board| Metrics::join(&application.name, board)) {
        Ok(metrics) => Some(metrics),
        Err(error) => {
            let text = format!("no metrics of this process (UNIT_WASM_METRICS): {error}");
            app.log(Level::Error, &text);
            None
        }
    }
}

/// The tie to the watcher, if there is to be one. The process can serve without:
/// what was there when the application started.
fn join_watcher(setup: &Setup, app: &App) -> Option<Membership> {
    let joined = swap::join(setup.watcher.as_ref()?);
    if joined.as_ref().is_ok_and(|membership| membership.is_late) {
        app.log(
            Level::Error,
            "the watcher (UNIT_WASM_WATCH) does not answer: until it does, this process serves \
             what was there when the application started",
        );
    }
    joined
        .inspect_err(|why| {
            let text = format!(
                "changes of the component's file are not noticed (UNIT_WASM_WATCH), not even \
                 former ones: {why}: restart the application"
            );
            app.log(Level::Error, &text);
        })
        .ok()
}

/// A guest with a directory may open as many files as it may hold resources;
/// that must not starve its neighbours.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it the process serves all the same.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Has Wasmtime open this process's page map.
///
/// A process that unitd has made nobody's is not dumpable, and so cannot open
/// its own `/proc/self/pagemap`. Without that, Wasmtime does not see which pages
/// a guest has written, and clears whole memories for each request: that was
/// half of the CPU time of a small one. It opens the file once and keeps it, for
/// all engines of the process. While the process is dumpable, others of its user can
/// trace it, so nothing else is done meanwhile.
fn open_page_map() {
    use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
    let before = dumpable_behavior();
    let opened = set_dumpable_behavior(DumpableBehavior::Dumpable);
    nxt_wasm_runtime::open_page_map();
    if let (Ok(before), Ok(())) = (before, opened)
        && set_dumpable_behavior(before).is_err()
    {
        // The kernel's third kind can be had by default only; this is stricter.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Loads the component of the application's start, or what has taken its place.
fn load(setup: &Setup, version: Option<&Version>) -> Result<Runtime, LoadError> {
    let Settings { limits, grants, .. } = &setup.settings;
    let Prepared {
        artifact,
        description,
        ..
    } = &setup.prepared;
    let (artifact, description) = match version {
        Some(version) => (&version.artifact, &version.description),
        None => (artifact, description),
    };
    // SAFETY: the artifact was compiled under these limits by the helper of
    // this application, or found undamaged in the cache under a key that
    // stands for them. It is sealed, or in a directory that only root or
    // unitd's user can write, where files are replaced but never changed.
    unsafe { Runtime::load(artifact, description, limits.clone(), grants.clone()) }
}

/// Loads what is to take the place of `runtime`.
fn load_successor(runtime: &Runtime, version: &Version) -> Result<Runtime, LoadError> {
    let Version {
        artifact,
        description,
        ..
    } = version;
    // SAFETY: as above. The watcher has the settings of this application, which
    // `runtime` was loaded with, and prepares components as setup() does.
    unsafe { runtime.successor(artifact, description) }
}

fn spawn_worker(number: usize, service: &Arc<Service>, main: &Context) {
    let app = service.app.clone();
    let service = Arc::clone(service);
    let work = move |context: Result<Rc<Context>, &'static str>| {
        let app = &service.app;
        let context = match context {
            Ok(context) => context,
            // Not an alarm: the router may have gone, at a stop.
            Err(function) => {
                let text = format!("a process with one thread less: {function} failed");
                return app.log(Level::Error, &text);
            }
        };
        let outcome = worker::event_loop()
            .map_err(|e| format!("event loop: {e}"))
            .and_then(|tokio| worker::serve(tokio, &context, &service, || None));
        if let Err(error) = outcome {
            app.log(Level::Alert, &error);
        }
    };
    if let Err(error) = main.spawn(format!("wasm-worker-{number}"), work) {
        let text = format!("cannot start a worker thread: {error}");
        app.log(Level::Alert, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_by_the_time_since_the_start() {
        // Ten looks a second, as at a child of 100 seconds and one of 60 after it.
        let mut pace = Pace::default();
        let looks = (0..1600).map(|tenths| Duration::from_millis(100 * tenths));
        let told: Vec<u64> = looks
            .filter(|elapsed| pace.is_due(*elapsed))
            .map(|elapsed| elapsed.as_secs())
            .collect();
        let expected: Vec<u64> = (0..16).map(|n| 2 + 10 * n).collect();
        assert_eq!(told, expected);
    }
}
