//! A host under test.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;
use std::{env, fs, thread};

use tempfile::TempDir;

use crate::config::Config;
use crate::control::{Control, Reply};
use crate::host::Host;
use crate::http::{self, Conn, Error, Request, Response};
use crate::launch::{cache, free_addr, next_ip, open_to_all, spawn};
use crate::log::Log;
use crate::proc::{self, Process};
use crate::wait::{eventually, wait_for};
use crate::watch::Baseline;

/// How long a host may take to open its control socket.
const START: Duration = Duration::from_secs(30);

/// How long the main process may take to tell that its router has crashed.
const CRASH_IS_LOGGED: Duration = Duration::from_secs(15);

/// How long processes may come and go before they are looked at.
const STEADY: Duration = Duration::from_secs(20);

/// How long a host may take to exit. Requests whose clients have gone may be under way.
const STOP: Duration = Duration::from_secs(40);

/// A host in a temporary directory of its own, which is removed at the end; of
/// a failed test it is kept if `E2E_KEEP` is set.
pub struct Server {
    /// The host.
    pub host: Host,
    /// Its log.
    pub log: Log,
    /// Its control socket.
    pub control: Control,
    child: Child,
    main: Process,
    /// The router of the beginning, in Unit.
    first_router: Option<Process>,
    dir: TempDir,
    ip: Ipv4Addr,
    addrs: BTreeMap<String, SocketAddr>,
    config: Config,
    baseline: Option<Baseline>,
    expected: Vec<String>,
    new_workers: bool,
    lost: usize,
    stop: Duration,
    finished: bool,
}

impl Server {
    /// Starts a host, configures it, warms it up and takes the baseline for
    /// the checks of [`Server::finish`].
    pub fn start(host: &Host, config: impl Into<Config>) -> Self {
        let mut server = Self::bare(host);
        server.apply(&config.into());
        server.warm_up();
        server.settle();
        server
    }

    /// The same with a configuration that needs to know the server, such as one
    /// that names files in its directory.
    pub fn start_with(host: &Host, config: impl FnOnce(&Self) -> Config) -> Self {
        let mut server = Self::bare(host);
        let config = config(&server);
        server.apply(&config);
        server.warm_up();
        server.settle();
        server
    }

    /// Starts a host without a configuration.
    pub fn bare(host: &Host) -> Self {
        let dir = tempfile::Builder::new().prefix("nxt-e2e-").tempdir();
        let dir = dir.expect("a temporary directory");
        // Unit's router and applications run as nobody when unitd is root.
        open_to_all(dir.path());
        for name in ["state", "tmp", "data"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
            open_to_all(&dir.path().join(name));
        }
        let log = Log::at(dir.path().join("log"));
        let control = Control::at(&dir.path().join("control.sock"));
        let mut child = spawn(host, dir.path());
        let pid = i32::try_from(child.id()).expect("a pid");
        let main = Process::of(pid).expect("the host just started");
        let up = wait_for(START, || {
            let exited = child.try_wait().expect("wait").is_some();
            (exited || control.ready()).then_some(exited)
        });
        let mut server = Self {
            host: host.clone(),
            log,
            control,
            child,
            main,
            first_router: None,
            dir,
            ip: next_ip(),
            addrs: BTreeMap::new(),
            config: Config::default(),
            baseline: None,
            expected: Vec::new(),
            new_workers: false,
            lost: 0,
            stop: STOP,
            finished: false,
        };
        assert_eq!(up, Some(false), "{} did not start", host.exe.display());
        server.first_router = host.is_unit().then(|| server.router());
        server
    }

    /// A directory of this server that applications may read and write.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory of this server.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The address of its listeners, where nobody else listens.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// The main process.
    pub fn main(&self) -> Process {
        self.main
    }

    /// Puts a configuration, and reports what the host says to it.
    pub fn put(&mut self, config: &Config) -> Reply {
        for listener in config.listeners() {
            if !self.addrs.contains_key(&listener) {
                self.addrs.insert(listener, free_addr(self.ip));
            }
        }
        let json = config.json(&self.host, &cache(), &self.addrs);
        let reply = self.control.put("/config", &json).expect("PUT /config");
        if reply.success() {
            self.config = config.clone();
        }
        reply
    }

    /// Puts a configuration that must be accepted.
    #[track_caller]
    pub fn apply(&mut self, config: &Config) {
        let mut reply = self.put(config);
        // Another process may have the port.
        for _ in 0..3 {
            if reply.success() || !self.log.text().contains("Address already in use") {
                break;
            }
            self.expect_log("Address already in use");
            self.addrs.clear();
            reply = self.put(config);
        }
        assert!(reply.success(), "configuration refused: {reply:?}");
    }

    /// The JSON of `config` for this server.
    pub fn json(&self, config: &Config) -> serde_json::Value {
        config.json(&self.host, &cache(), &self.addrs)
    }

    /// Tells the host to restart an application.
    pub fn restart(&self, app: &str) -> Reply {
        let path = format!("/control/applications/{app}/restart");
        self.control.get(&path).expect("restart")
    }

    /// The listener of the first application, or the first of the file.
    pub fn addr(&self) -> SocketAddr {
        self.addr_of(&self.config.listeners()[0])
    }

    /// The listener of an application; of a configuration from a file, the one
    /// that is called so there, such as `*:8080`.
    pub fn addr_of(&self, listener: &str) -> SocketAddr {
        self.addrs[listener]
    }

    /// A connection to the first application.
    pub fn connect(&self) -> Conn {
        Conn::open(self.addr())
    }

    /// One request to the first application.
    pub fn fetch(&self, request: &Request) -> Result<Response, Error> {
        http::fetch(self.addr(), request)
    }

    /// One request that must get a complete response of any status.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Response {
        match self.fetch(request) {
            Ok(response) => response,
            Err(error) => panic!("{error} ({request:?})"),
        }
    }

    /// One request with a chunked body to the first application.
    ///
    /// Unit answers 400 with a page of its own when a read from the client ends
    /// where a chunk ends: 1.35 with any chunk that takes several reads, 1.36
    /// with that one. No application hears of it, and another attempt arrives
    /// in other pieces.
    #[track_caller]
    pub fn send_chunked(&self, request: &Request) -> Response {
        for _ in 0..4 {
            let response = self.send(request);
            let own = response.text().starts_with("<!DOCTYPE html>");
            if !(self.host.is_unit() && response.status() == 400 && own) {
                return response;
            }
        }
        self.send(request)
    }

    /// `GET target` of the first application.
    #[track_caller]
    pub fn get(&self, target: impl AsRef<[u8]>) -> Response {
        self.send(&Request::get(target))
    }

    /// The application processes that serve `app` now.
    pub fn workers(&self, app: &str) -> Vec<Process> {
        // Both hosts title them like `unit: "NAME" application`.
        let title = format!("\"{app}\" application");
        let all = self.processes().into_iter();
        let mut found: Vec<Process> = all
            .filter(|process| process.command().contains(&title))
            .collect();
        found.sort();
        found
    }

    /// The one application process of `app`.
    #[track_caller]
    pub fn worker(&self, app: &str) -> Process {
        let workers = self.workers(app);
        assert_eq!(workers.len(), 1, "one process expected: {workers:?}");
        workers[0]
    }

    /// The one application process of `app`, once there is one: after a
    /// restart, Unit starts it when it likes.
    #[track_caller]
    pub fn await_worker(&self, app: &str) -> Process {
        let found = wait_for(START, || match self.workers(app)[..] {
            [one] => Some(one),
            _ => None,
        });
        found.expect("one process")
    }

    /// The process that speaks to the clients.
    pub fn router(&self) -> Process {
        if self.host.is_unit() {
            let all = proc::group(self.main.pid).into_iter();
            let mut processes = all.map(|stat| stat.process);
            let router = processes.find(|process| process.command().contains("router"));
            return router.expect("a router process");
        }
        self.main
    }

    /// Every living process of this host.
    pub fn processes(&self) -> Vec<Process> {
        let all = proc::group(self.main.pid).into_iter();
        all.map(|stat| stat.process).collect()
    }

    /// Declares a part of log lines that would fail the test otherwise.
    pub fn expect_log(&mut self, part: &str) {
        self.expected.push(part.to_owned());
    }

    /// Declares that application processes will be replaced or end.
    pub fn expect_new_workers(&mut self) {
        self.new_workers = true;
    }

    /// Declares that the router has lost so many requests: it waits for their
    /// answers, with the client's connection and what else belongs to them.
    pub fn expect_lost(&mut self, requests: usize) {
        self.lost = requests;
    }

    /// Sets how long the host may take to exit.
    pub fn stop_within(&mut self, limit: Duration) {
        self.stop = limit;
    }

    /// Takes a new baseline, after a warm-up of the test's own.
    pub fn settle(&mut self) {
        self.await_processes();
        let names = self.config.apps.iter().map(|app| app.name.as_str());
        let workers = names.flat_map(|name| self.workers(name)).collect();
        self.baseline = Some(Baseline::take(self.processes(), workers));
    }

    /// Waits until Unit neither starts a process nor has yet to notice the end of
    /// one: it has descriptors for each.
    fn await_processes(&self) {
        for app in &self.config.apps {
            let path = format!("/status/applications/{}/processes", app.name);
            // Without an answer there is nothing to wait for.
            wait_for(STEADY, || {
                let reply = self.control.get(&path).ok()?;
                let number = |name| reply.json.get(name)?.as_u64();
                let running = usize::try_from(number("running")?).ok()?;
                let steady = number("starting")? == 0 && running == self.workers(&app.name).len();
                steady.then_some(())
            });
        }
    }

    /// Requests of the usual kinds from several clients at once, so that what
    /// is opened lazily is open.
    fn warm_up(&self) {
        for listener in self.config.listeners() {
            let addr = self.addr_of(&listener);
            let lab = self
                .config
                .apps
                .iter()
                .any(|app| app.lab && app.name == listener);
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(move || warm(addr, lab));
                }
            });
        }
    }

    /// Stops the host and asserts what every test has in common.
    pub fn finish(mut self) {
        let lab = self.config.apps.iter().find(|app| app.lab);
        if let Some(app) = lab {
            let addr = self.addr_of(&app.name);
            let answer = http::fetch(addr, &Request::get("/")).expect("an answer at the end");
            assert_eq!(answer.ok().text(), "lab\n");
        }
        self.check_processes();
        let status = self.terminate();
        assert!(
            status.success(),
            "{} exited with {status}",
            self.host.exe.display()
        );
        self.finish_stopped();
    }

    /// The checks that remain when a test has stopped the host itself.
    pub fn finish_stopped(mut self) {
        let pid = self.main.pid;
        let left = || proc::group(pid).into_iter().map(|stat| stat.process);
        // A process that nobody told to end finds out by itself, within some seconds.
        let gone = wait_for(Duration::from_secs(30), || {
            left().next().is_none().then_some(())
        });
        let stray: Vec<String> = left().map(|process| process.command()).collect();
        assert!(gone.is_some(), "processes left behind: {stray:?}");
        let alarms = self.log.alarms(&self.expected);
        assert!(alarms.is_empty(), "unexpected in the log: {alarms:#?}");
        let output = fs::read_to_string(self.dir.path().join("output")).unwrap_or_default();
        assert!(
            !output.contains("panicked at"),
            "panic of the host: {output}"
        );
        self.finished = true;
    }

    fn check_processes(&self) {
        let Some(baseline) = &self.baseline else {
            return;
        };
        if !self.new_workers {
            let names = self.config.apps.iter().map(|app| app.name.as_str());
            let mut now: Vec<Process> = names.flat_map(|name| self.workers(name)).collect();
            now.sort();
            assert_eq!(
                now,
                baseline.workers(),
                "application processes were replaced"
            );
        }
        // A thread for each processor accepts and serves connections.
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let router_threads = if self.host.is_unit() { threads } else { 0 };
        baseline.assert_no_leak(router_threads, self.lost);
    }

    /// Sends SIGTERM and waits for the exit.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.main.signal(libc::SIGTERM);
        let limit = self.stop;
        let mut status = None;
        eventually("exit after SIGTERM", limit, || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        status.expect("just seen")
    }
}

thread_local! {
    static ROUTER_CRASHED: Cell<bool> = const { Cell::new(false) };
}

/// Whether Unit's router has crashed in a test of this thread that failed,
/// since this was last asked.
pub fn router_crashed() -> bool {
    ROUTER_CRASHED.take()
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Some(router) = self.first_router {
            // What the test fails of may come before the main process knows.
            let line = format!("process {} exited on signal 11", router.pid);
            let crashed = || self.log.text().contains(&line).then_some(());
            ROUTER_CRASHED.set(wait_for(CRASH_IS_LOGGED, crashed).is_some());
        }
        eprintln!(
            "--- log of {} ({}) ---\n{}\n--- end of log ---",
            self.host.kind.name(),
            self.dir.path().display(),
            self.log.tail(80)
        );
        // The main process first, which would start others anew.
        let _ = self.child.kill();
        let _ = self.child.wait();
        wait_for(Duration::from_secs(5), || {
            let left = self.processes();
            left.iter()
                .for_each(|process| process.signal(libc::SIGKILL));
            left.is_empty().then_some(())
        });
        if env::var_os("E2E_KEEP").is_some() {
            self.dir.disable_cleanup(true);
        }
    }
}

fn warm(addr: SocketAddr, lab: bool) {
    let mut conn = Conn::open(addr);
    let mut requests = vec![Request::get("/")];
    if lab {
        requests.push(Request::post("/echo", vec![b'w'; 100_000]));
        requests.push(Request::get("/download?bytes=300000"));
    }
    for request in requests {
        let response = conn.exchange(&request).expect("warm-up");
        assert_eq!(response.status(), 200, "warm-up: {}", response.text());
    }
}
