//! The life of an application: its prototype process, then the processes that
//! serve requests.

use std::rc::Rc;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nxt_wasm_runtime::{Redactor, Runtime};

use crate::files;
use crate::prepare::{self, Prepared};
use crate::report::App;
use crate::service::{Service, Siblings};
use crate::settings::Settings;
use crate::unit::{self, Application, Context, Level, Task};
use crate::watchdog::Watchdog;
use crate::worker;

/// What setup() leaves for the processes that are forked from the prototype.
struct Setup {
    settings: Settings,
    prepared: Prepared,
    /// Keeps secrets out of the log.
    redactor: Redactor,
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

fn set_up(task: &Task<'_>, application: &Application, app: &App) -> Result<Setup, String> {
    let mut settings = Settings::read(application).map_err(|e| app.cannot_start(None, &e))?;
    let redactor =
        files::open(&mut settings, &application.name).map_err(|e| app.cannot_start(None, &e))?;
    let path = prepare::component_path(&settings, application);
    let mut told = Duration::ZERO;
    let progress = |elapsed: Duration| {
        let next = if told.is_zero() { 2 } else { 10 };
        if elapsed >= told + Duration::from_secs(next) {
            told = elapsed;
            let text = format!("compiling {} for {}s", path.display(), elapsed.as_secs());
            task.log(Level::Notice, &app.line(&text));
        }
    };
    let started = std::time::Instant::now();
    let prepared = prepare::prepare(&settings, application, progress)
        .map_err(|e| app.cannot_start(Some(&path), &e))?;
    for note in &prepared.notes {
        task.log(Level::Warn, &app.line(note));
    }
    let text = format!(
        "component {} sha256={} exports {}, {} in {:?}",
        path.display(),
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
    Ok(Setup {
        settings,
        prepared,
        redactor,
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
    let path = prepare::component_path(&setup.settings, application);
    let failed = |error: &dyn std::fmt::Display| app.cannot_start(Some(&path), error);
    let runtime = with_own_proc(|| load(setup)).map_err(|e| failed(&e))?;
    let service = Arc::new(Service {
        app: app.clone(),
        runtime,
        settings: setup.settings.clone(),
        siblings: Siblings::default(),
        in_flight: AtomicU32::new(0),
        watchdog: Watchdog::start(app.clone(), setup.settings.watchdog)
            .map_err(|e| failed(&format!("watchdog thread: {e}")))?,
    });
    let tokio = worker::event_loop().map_err(|e| failed(&format!("event loop: {e}")))?;
    raise_descriptor_limit();
    unit::survive_file_size_limit();
    // From here on Unit may send requests.
    let context = Context::init(task).map_err(|function| failed(&format!("{function} failed")))?;
    let ended = worker::serve(tokio, &context, &service, {
        let (service, main) = (Arc::clone(&service), Rc::clone(&context));
        // Not before: the router must not hear of a further context of a
        // process that it does not know yet.
        move || (1..service.settings.threads).for_each(|n| spawn_worker(n, &service, &main))
    });
    // Waits for the others.
    drop(context);
    app.log_totals();
    if let Err(error) = ended {
        // It has served; for Unit this is a process that ends.
        app.log(Level::Alert, &error);
    }
    Ok(())
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

/// Runs `work` with this process's own files in /proc open to itself.
///
/// A process that unitd has made nobody's is not dumpable, and so cannot open
/// its own `/proc/self/pagemap`. Without that, Wasmtime does not see which pages
/// a guest has written, and clears whole memories for each request: that was
/// half of the CPU time of a small one. It keeps what it has opened.
fn with_own_proc<T>(work: impl FnOnce() -> T) -> T {
    use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
    let before = dumpable_behavior();
    let opened = set_dumpable_behavior(DumpableBehavior::Dumpable);
    let done = work();
    if let (Ok(before), Ok(())) = (before, opened)
        && set_dumpable_behavior(before).is_err()
    {
        // The kernel's third kind can be had by default only; this is stricter.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    done
}

fn load(setup: &Setup) -> Result<Runtime, nxt_wasm_runtime::LoadError> {
    let Settings { limits, grants, .. } = &setup.settings;
    let Prepared {
        artifact,
        description,
        ..
    } = &setup.prepared;
    // SAFETY: the artifact was compiled under these limits by the helper of
    // this application, or found undamaged in the cache under a key that
    // stands for them. It is sealed, or in a directory that only root or
    // unitd's user can write, where files are replaced but never changed.
    unsafe { Runtime::load(artifact, description, limits.clone(), grants.clone()) }
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
            .and_then(|tokio| worker::serve(tokio, &context, &service, || {}));
        if let Err(error) = outcome {
            app.log(Level::Alert, &error);
        }
    };
    if let Err(error) = main.spawn(format!("wasm-worker-{number}"), work) {
        let text = format!("cannot start a worker thread: {error}");
        app.log(Level::Alert, &text);
    }
}
