//! The end-to-end suite: every test on every host that the run is given.
//!
//! `E2E_STANDIN`, `E2E_UNIT` and `E2E_FREEUNIT` name the hosts, each as
//! `EXECUTABLE:MODULESDIR`; with `_WASM` appended, the same for a module that
//! was built for type `wasm`. Tests of a host that is not given are listed as
//! ignored, and so are those that need a guest that was not built, or a server
//! that is not installed.

mod access;
mod audit;
mod bodies;
mod bounds;
mod budgets;
mod cache;
mod capacity;
mod cli;
mod concurrency;
mod deploy;
mod deployd;
mod disconnect;
mod download;
mod drain;
mod escape;
mod example;
mod failures;
mod faults;
mod framing;
mod headers;
mod hello;
mod hostile;
mod isolation;
mod keyvalue;
mod keyvalue_s3;
mod languages;
mod limits;
mod logging;
mod malformed;
mod modules;
mod observe;
mod outbound;
mod plain;
mod processes;
mod python;
mod quota;
mod refused;
mod reload;
mod remote;
mod scenarios;
mod secrets;
mod service;
mod settings;
mod sockets;
mod startup;
mod swap;
mod wasm_type;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use harness::host::{Kind, ModuleType, Wasi};
use harness::peers::process;
use harness::{Host, guests};
use libtest_mimic::{Arguments, Failed, Trial};

/// Where a test makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Every host.
    All,
    /// Every host, with a lab guest of WASI 0.2 and with one of 0.3.
    Both,
    /// The stand-in alone, for what real Unit cannot be made to do.
    Standin,
    /// Real Unit, for what the stand-in has not.
    Unit,
    /// Every host, with the module built for type `wasm`.
    WasmType,
    /// Every host, if `nxt-wasm` was built.
    Cli,
    /// The stand-in, if `nxt-wasm` was built, and components in this language can be.
    Starter(&'static str),
    /// Every host, if the guests in Python were built.
    Python,
    /// Every host, if the guest in JavaScript was built.
    Javascript,
    /// Every host, if `build/guests/NAME.wasm` was built.
    Built(&'static str),
    /// Every host, if there is a Redis server on this machine.
    Redis,
    /// Every host, if there is a PostgreSQL server on this machine.
    Postgres,
}

/// One test.
struct Case {
    name: &'static str,
    run: fn(&Host),
    scope: Scope,
}

/// The tests of one file, named after it.
macro_rules! cases {
    ($topic:literal, $scope:ident: $($test:ident),+ $(,)?) => {
        vec![$(crate::Case {
            name: concat!($topic, "::", stringify!($test)),
            run: $test,
            scope: crate::Scope::$scope,
        }),+]
    };
}
use cases;

fn all() -> Vec<Case> {
    let topics = [
        hello::cases(),
        bodies::cases(),
        framing::cases(),
        headers::cases(),
        malformed::cases(),
        refused::cases(),
        concurrency::cases(),
        failures::cases(),
        limits::cases(),
        logging::cases(),
        observe::cases(),
        isolation::cases(),
        access::cases(),
        escape::cases(),
        example::cases(),
        languages::cases(),
        plain::cases(),
        secrets::cases(),
        audit::cases(),
        sockets::cases(),
        outbound::cases(),
        quota::cases(),
        keyvalue::cases(),
        keyvalue_s3::cases(),
        startup::cases(),
        settings::cases(),
        cache::cases(),
        processes::cases(),
        reload::cases(),
        swap::cases(),
        remote::cases(),
        drain::cases(),
        download::cases(),
        disconnect::cases(),
        python::cases(),
        wasm_type::cases(),
        modules::cases(),
        faults::cases(),
        bounds::cases(),
        budgets::cases(),
        capacity::cases(),
        hostile::cases(),
        service::cases(),
        scenarios::cases(),
        deploy::cases(),
        deployd::cases(),
        cli::cases(),
    ];
    topics.into_iter().flatten().collect()
}

impl Scope {
    fn module_type(self) -> ModuleType {
        match self {
            Self::WasmType => ModuleType::Wasm,
            _ => ModuleType::Component,
        }
    }

    /// Whether there is what the test needs beside a host.
    fn is_possible(self) -> bool {
        match self {
            Self::All | Self::Both | Self::Standin | Self::Unit | Self::WasmType => true,
            Self::Python => {
                let names = ["python-hello", "secrets-python"];
                names.iter().all(|name| guests::built(name).exists())
            }
            Self::Built(name) => guests::built(name).exists(),
            Self::Cli => harness::cli::program().is_some(),
            Self::Starter(language) => cli::can_build(language),
            Self::Javascript => guests::built("secrets-javascript").exists(),
            Self::Redis => process::redis_server().is_some(),
            Self::Postgres => process::postgres_programs().is_some(),
        }
    }

    /// The lab guests that the test is run with.
    fn wasi(self) -> &'static [Wasi] {
        match self {
            Self::Both => &[Wasi::V02, Wasi::V03],
            _ => &[Wasi::V02],
        }
    }

    fn covers(self, kind: Kind) -> bool {
        match self {
            Self::Standin | Self::Starter(_) => kind == Kind::Standin,
            Self::Unit => kind != Kind::Standin,
            _ => true,
        }
    }
}

fn trial(case: &Case, kind: Kind, wasi: Wasi) -> Result<Trial, String> {
    let name = match wasi {
        Wasi::V02 => format!("{}::{}", kind.name(), case.name),
        Wasi::V03 => format!("{}-0.3::{}", kind.name(), case.name),
    };
    let module_type = case.scope.module_type();
    let host = Host::from_env(kind, module_type)?.map(|host| Host { wasi, ..host });
    let absent = host.is_none() || !case.scope.is_possible();
    let run = case.run;
    let trial = Trial::test(name.clone(), move || match &host {
        Some(host) => {
            let begin = Instant::now();
            attempt(&name, || run(host));
            note_time(&name, begin.elapsed());
            Ok(())
        }
        None => {
            let variable = kind.variable(module_type);
            Err(Failed::from(format!("{variable} is not set")))
        }
    });
    Ok(trial.with_ignored_flag(absent))
}

/// Runs a test, and some times more if it failed because Unit's router crashed.
///
/// That happens to 1.35 and 1.36 under load: at a stop (to a C application as
/// well, see `drain::router_may_crash`), and once in some hundred new
/// configurations, where a request of a connection that was being accepted
/// reads the address of its listener in the configuration that has been freed
/// (`r->local` in `nxt_router_prepare_msg`, before any application knows of the
/// request). Nothing can be told from such a run.
fn attempt(name: &str, run: impl Fn()) {
    const MORE: usize = 4;
    for _ in 0..MORE {
        match panic::catch_unwind(AssertUnwindSafe(&run)) {
            Ok(()) => return,
            Err(failure) if !harness::server::router_crashed() => panic::resume_unwind(failure),
            Err(_) => eprintln!("{name}: Unit's router has crashed, once more"),
        }
    }
    run();
}

/// How long tests took, for those who wait for them.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

fn note_time(name: &str, took: Duration) {
    if let Ok(mut times) = TIMES.lock() {
        times.push((took, name.to_owned()));
    }
}

/// Names the tests that took longest.
fn tell_times() {
    const MANY: usize = 100;
    let mut times = TIMES.lock().map(|t| t.clone()).unwrap_or_default();
    if times.len() < MANY {
        return;
    }
    times.sort_by(|a, b| b.cmp(a));
    let sum: Duration = times.iter().map(|(took, _)| *took).sum();
    eprintln!("{} tests took {sum:.0?}, the slowest:", times.len());
    for (took, name) in times.iter().take(20) {
        eprintln!("{:6.1} s  {name}", took.as_secs_f64());
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Tests mostly wait. More at once would make the measurements of one those of another.
    arguments.test_threads.get_or_insert(3);
    let mut trials = Vec::new();
    for kind in Kind::ALL {
        for case in all().iter().filter(|case| case.scope.covers(kind)) {
            for &wasi in case.scope.wasi() {
                match trial(case, kind, wasi) {
                    Ok(trial) => trials.push(trial),
                    Err(why) => {
                        eprintln!("{why}");
                        return ExitCode::FAILURE;
                    }
                }
            }
        }
    }
    let given = trials.iter().any(|trial| !trial.has_ignored_flag());
    if !given && !arguments.list {
        eprintln!(
            "The end-to-end suite was given no host to run on; \
             `make e2e` builds one and names it in E2E_STANDIN."
        );
        return ExitCode::FAILURE;
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    tell_times();
    conclusion.exit_code()
}
