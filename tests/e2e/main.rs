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
mod concurrency;
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
mod limits;
mod logging;
mod malformed;
mod modules;
mod outbound;
mod plain;
mod processes;
mod python;
mod quota;
mod refused;
mod reload;
mod secrets;
mod settings;
mod sockets;
mod startup;
mod wasm_type;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use harness::host::{Kind, ModuleType};
use harness::peers::process;
use harness::{Host, guests};
use libtest_mimic::{Arguments, Failed, Trial};

/// Where a test makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Every host.
    All,
    /// The stand-in alone, for what real Unit cannot be made to do.
    Standin,
    /// Every host, with the module built for type `wasm`.
    WasmType,
    /// Every host, if the guests in Python were built.
    Python,
    /// Every host, if the guest in JavaScript was built.
    Javascript,
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
        isolation::cases(),
        access::cases(),
        escape::cases(),
        example::cases(),
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
            Self::All | Self::Standin | Self::WasmType => true,
            Self::Python => {
                let names = ["python-hello", "secrets-python"];
                names.iter().all(|name| guests::built(name).exists())
            }
            Self::Javascript => guests::built("secrets-javascript").exists(),
            Self::Redis => process::redis_server().is_some(),
            Self::Postgres => process::postgres_programs().is_some(),
        }
    }

    fn covers(self, kind: Kind) -> bool {
        self != Self::Standin || kind == Kind::Standin
    }
}

fn trial(case: &Case, kind: Kind) -> Result<Trial, String> {
    let name = format!("{}::{}", kind.name(), case.name);
    let module_type = case.scope.module_type();
    let host = Host::from_env(kind, module_type)?;
    let absent = host.is_none() || !case.scope.is_possible();
    let run = case.run;
    let trial = Trial::test(name.clone(), move || match &host {
        Some(host) => {
            attempt(&name, || run(host));
            Ok(())
        }
        None => {
            let variable = kind.variable(module_type);
            Err(Failed::from(format!("{variable} is not set")))
        }
    });
    Ok(trial.with_ignored_flag(absent))
}

/// Runs a test, and once more if it failed because Unit's router crashed.
///
/// That happens to 1.35 and 1.36 under load: at a stop (to a C application as
/// well, see `drain::router_may_crash`), and once in some hundred
/// reconfigurations of 1.35. Nothing can be told from such a run.
fn attempt(name: &str, run: impl Fn()) {
    for _ in 0..2 {
        match panic::catch_unwind(AssertUnwindSafe(&run)) {
            Ok(()) => return,
            Err(failure) if !harness::server::router_crashed() => panic::resume_unwind(failure),
            Err(_) => eprintln!("{name}: Unit's router has crashed, once more"),
        }
    }
    run();
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // More would make the measurements of one test those of another.
    arguments.test_threads.get_or_insert(2);
    let mut trials = Vec::new();
    for kind in Kind::ALL {
        for case in all().iter().filter(|case| case.scope.covers(kind)) {
            match trial(case, kind) {
                Ok(trial) => trials.push(trial),
                Err(why) => {
                    eprintln!("{why}");
                    return ExitCode::FAILURE;
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
    libtest_mimic::run(&arguments, trials).exit_code()
}
