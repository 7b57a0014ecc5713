//! The main process, from start to end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, sleep};

use crate::control;
use crate::log::{Level, log};
use crate::module::{self, Module};
use crate::options::{self, Options};
use crate::router::{Router, apply};

/// How long processes may take to end before they are killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves until told to stop.
pub fn serve(options: &Options) -> io::Result<ExitCode> {
    if let Some(file) = &options.log {
        let file = OpenOptions::new().create(true).append(true).open(file)?;
        rustix::stdio::dup2_stderr(file.as_fd())?;
    }
    log(
        Level::Notice,
        concat!(
            "nxt-standin ",
            env!("CARGO_PKG_VERSION"),
            " started; it is a stand-in for testing, not a production server"
        ),
    );
    if let Some(file) = &options.pid {
        std::fs::write(file, format!("{}\n", std::process::id()))?;
    }
    let modules = match &options.modules {
        Some(directory) => find_modules(directory)?,
        None => Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let code = local.block_on(&runtime, run(options, modules));
    if let Some(file) = &options.pid {
        let _ = std::fs::remove_file(file);
    }
    code
}

/// Looks for modules in a child, which loads them.
fn find_modules(directory: &Path) -> io::Result<Vec<Module>> {
    let output = Command::new("/proc/self/exe")
        .arg(options::DISCOVER)
        .arg(directory)
        .stdin(File::open("/dev/null")?)
        .stderr(io::stderr().as_fd().try_clone_to_owned()?)
        .output()?;
    if !output.status.success() {
        log(Level::Alert, format!("discovery failed: {}", output.status));
    }
    let modules = module::parse_list(&String::from_utf8_lossy(&output.stdout));
    for module in &modules {
        let Module {
            kind,
            version,
            file,
        } = module;
        log(
            Level::Notice,
            format!("module: {kind} {version} \"{}\"", file.display()),
        );
    }
    Ok(modules)
}

async fn run(options: &Options, modules: Vec<Module>) -> io::Result<ExitCode> {
    let router = Rc::new(Router {
        modules,
        tmp: options.tmp.clone().unwrap_or_else(std::env::temp_dir),
        state: options.state.clone(),
        site: Default::default(),
        listeners: Default::default(),
        faults: Default::default(),
        leaving: Default::default(),
        applying: Default::default(),
        counts: Default::default(),
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;

    let address = match &options.control {
        Some(address) => address,
        None => {
            let address = options::DEFAULT_CONTROL;
            log(Level::Notice, format!("control API at {address}"));
            println!("control API at {address}");
            address
        }
    };
    control::serve(Rc::clone(&router), address).await?;
    let ticking = Rc::clone(&router);
    tokio::task::spawn_local(async move {
        let mut ticks = interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            ticking.tick();
        }
    });

    let applied = configure(options, &router).await;
    if applied {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
        }
    }
    log(Level::Notice, "stopping");
    tokio::select! {
        () = stop(&router) => {}
        _ = terminate.recv() => kill(&router),
        _ = interrupt.recv() => kill(&router),
    }
    control::remove(address);
    log(Level::Notice, "stopped");
    Ok(if applied {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Applies what is to be applied at start; false if that fails.
async fn configure(options: &Options, router: &Rc<Router>) -> bool {
    let mut first: Option<Value> = None;
    if let Some(directory) = &options.state {
        if let Err(error) = std::fs::create_dir_all(directory) {
            log(Level::Alert, format!("{}: {error}", directory.display()));
        }
        first = apply::kept(directory);
    }
    let mandatory = options.config.is_some();
    if let Some(file) = &options.config {
        let read = std::fs::read(file).map_err(io::Error::other);
        let parsed = read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        match parsed {
            Ok(value) => first = Some(value),
            Err(error) => {
                log(Level::Alert, format!("{}: {error}", file.display()));
                return false;
            }
        }
    }
    let Some(config) = first else { return true };
    let _turn = router.applying.lock().await;
    let (status, shown) = control::reconfigure(router, config).await;
    if status == 200 {
        return true;
    }
    log(Level::Alert, format!("configuration at start: {shown}"));
    !mandatory
}

/// Tells all processes to end, and waits for it.
async fn stop(router: &Router) {
    router.listeners.borrow_mut().clear();
    let site = Rc::clone(&router.site.borrow());
    let mut apps: Vec<_> = router.leaving.borrow().clone();
    apps.extend(site.apps.values().cloned());
    for app in &apps {
        app.stop();
    }
    let deadline = Instant::now() + PATIENCE;
    while apps.iter().any(|app| !app.is_gone()) {
        if Instant::now() >= deadline {
            return kill(router);
        }
        sleep(Duration::from_millis(10)).await;
    }
    // What was answered last shall reach the clients.
    sleep(Duration::from_millis(20)).await;
}

fn kill(router: &Router) {
    let site = router.site.borrow();
    let mut killed = 0;
    for app in router.leaving.borrow().iter().chain(site.apps.values()) {
        killed += app.kill();
    }
    if killed != 0 {
        log(
            Level::Alert,
            format!("{killed} app processes did not end and were killed"),
        );
    }
}
