//! The prototype of an application: runs setup(), then forks the application
//! processes. It has one thread and no event loop but poll().

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::exit;
use std::ptr;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use serde_json::{Value, json};

use crate::conf_api::as_conf;
use crate::ffi::{
    self, nxt_common_app_conf_s__bindgen_ty_1 as Union, nxt_common_app_conf_t, nxt_log_t,
    nxt_process_data_t, nxt_str_t, nxt_task_t, nxt_uint_t, nxt_wasm_app_conf_t,
    nxt_wasm_wc_app_conf_t,
};
use crate::libunit::{self, Birth};
use crate::log::{Level, log, write_line};
use crate::module::{self, Loaded};
use crate::sys::net::{Wait, stream_pair};
use crate::sys::process::{self, Forked};
use crate::sys::shared::{FaultWords, QueueWords, Shared};
use crate::wire::{self, Header, Kind, Reader};

unsafe extern "C" {
    fn standin_log_handler(
        level: nxt_uint_t,
        log: *mut nxt_log_t,
        format: *const std::ffi::c_char,
        ...
    );
}

/// What a module logged through its task.
///
/// # Safety
/// `text` has `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_task_log(level: nxt_uint_t, text: *const u8, length: usize) {
    if length != 0 {
        // SAFETY: the caller's promise.
        let text = unsafe { std::slice::from_raw_parts(text, length) };
        write_line(Level::from_number(level), "", text);
    }
}

/// The configuration that the main process sends.
pub struct Plan {
    /// Name of the application.
    pub name: String,
    /// The module's file.
    pub file: String,
    /// The application object.
    pub object: Value,
    /// Chunks of each process's window.
    pub window: u64,
    /// `limits.requests`.
    pub requests: u32,
    /// Process id of the router.
    pub router_pid: i32,
}

impl Plan {
    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        json!({
            "name": self.name,
            "file": self.file,
            "object": self.object,
            "window": self.window,
            "requests": self.requests,
            "router_pid": self.router_pid,
        })
        .to_string()
        .into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let number = |name| value.get(name).and_then(Value::as_u64);
        let text = |name| value.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            name: text("name")?,
            file: text("file")?,
            object: value.get("object")?.clone(),
            window: number("window")?,
            requests: u32::try_from(number("requests")?).ok()?,
            router_pid: i32::try_from(number("router_pid")?).ok()?,
        })
    }
}

/// Runs until the main process says that it is enough.
pub fn run(stream: OwnedFd) -> io::Result<()> {
    process::die_with_parent();
    process::block_signals();
    let mut reader = Reader::new(stream);
    let Some(frame) = reader.next()? else {
        return Ok(());
    };
    let lost = || io::Error::other("unreadable configuration");
    let plan = Plan::decode(&frame.payload).ok_or_else(lost)?;
    let [shared_data, shared_notify, queue, faults] =
        <[OwnedFd; 4]>::try_from(frame.fds).map_err(|_| lost())?;
    apply_environment(&plan.object);
    let name = plan.name.clone();
    let application = Application::load(plan)?;
    process::set_title(&format!("nxt-standin: \"{name}\" prototype"));
    application.setup()?;
    log(Level::Info, format!("\"{name}\" prototype started"));
    wire::send(
        reader.stream(),
        Header::new(Kind::Prepared, 0),
        &[],
        &[],
        Wait::AsDescriptor,
    )?;
    Prototype {
        application,
        reader,
        shared_data,
        shared_notify,
        queue: Shared::open(queue)?,
        faults: Shared::open(faults)?,
        children: Vec::new(),
    }
    .serve()
}

fn apply_environment(object: &Value) {
    let Some(members) = object.get("environment").and_then(Value::as_object) else {
        return;
    };
    for (name, value) in members {
        if let Some(value) = value.as_str() {
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

/// The application, in the form that modules get.
struct Application {
    plan: &'static Plan,
    loaded: Loaded,
    task: *mut nxt_task_t,
    conf: *mut nxt_common_app_conf_t,
}

/// A C string that is never freed.
fn c_text(value: Option<&Value>) -> *mut std::ffi::c_char {
    value
        .and_then(Value::as_str)
        .and_then(|text| CString::new(text).ok())
        .map_or(ptr::null_mut(), CString::into_raw)
}

impl Application {
    fn load(plan: Plan) -> io::Result<Self> {
        let plan: &'static Plan = Box::leak(Box::new(plan));
        let loaded = module::load(Path::new(&plan.file))?;
        let log = Box::leak(Box::new(nxt_log_t {
            handler: Some(standin_log_handler),
        }));
        let task = Box::leak(Box::new(nxt_task_t { log }));
        let object = &plan.object;
        let conf = |name: &str| object.get(name).map_or(ptr::null_mut(), as_conf);
        let text = |text: &'static str| nxt_str_t {
            length: text.len(),
            start: text.as_ptr().cast_mut(),
        };
        let string = |name: &str| object.get(name).and_then(Value::as_str);
        let kind = string("type");
        let union = if loaded.module.kind == "wasm" {
            Union {
                wasm: nxt_wasm_app_conf_t {
                    module: c_text(object.get("module")),
                    access: conf("access"),
                },
            }
        } else {
            Union {
                wasm_wc: nxt_wasm_wc_app_conf_t {
                    component: c_text(object.get("component")),
                    access: conf("access"),
                },
            }
        };
        let conf = Box::leak(Box::new(nxt_common_app_conf_t {
            name: text(&plan.name),
            type_: text(kind.unwrap_or_default()),
            user: text(string("user").unwrap_or("nobody")),
            group: text(string("group").unwrap_or_default()),
            working_directory: c_text(object.get("working_directory")),
            environment: conf("environment"),
            isolation: conf("isolation"),
            limits: conf("limits"),
            self_: as_conf(object),
            u: union,
        }));
        Ok(Self {
            plan,
            loaded,
            task,
            conf,
        })
    }

    fn setup(&self) -> io::Result<()> {
        let Some(setup) = self.loaded.exported.setup else {
            return Ok(());
        };
        // SAFETY: the module's function, with structures that live for ever;
        // what a process structure is, modules do not know.
        let result = unsafe { setup(self.task, ptr::null_mut(), self.conf) };
        if result == ffi::NXT_OK as ffi::nxt_int_t {
            Ok(())
        } else {
            let name = &self.plan.name;
            Err(io::Error::other(format!("\"{name}\": setup failed")))
        }
    }

    /// The life of an application process.
    fn start(&self) -> i32 {
        let name = &self.plan.name;
        process::set_title(&format!("nxt-standin: \"{name}\" application"));
        if let Err(error) = self.enter() {
            log(Level::Alert, format!("\"{name}\" application: {error}"));
            return 1;
        }
        process::die_with_parent();
        log(Level::Info, format!("\"{name}\" application started"));
        let mut data = nxt_process_data_t { app: self.conf };
        let result = match self.loaded.exported.start {
            // SAFETY: the module's function, with structures that outlive it.
            Some(start) => unsafe { start(self.task, &mut data) },
            None => ffi::NXT_ERROR as ffi::nxt_int_t,
        };
        i32::from(result != ffi::NXT_OK as ffi::nxt_int_t)
    }

    /// Goes to the working directory, as the application's user.
    fn enter(&self) -> io::Result<()> {
        let member = |name| self.plan.object.get(name).and_then(Value::as_str);
        if let Some(directory) = member("working_directory").filter(|name| !name.is_empty()) {
            std::env::set_current_dir(directory)
                .map_err(|error| io::Error::other(format!("chdir({directory}): {error}")))?;
        }
        if process::is_root() {
            process::change_user(member("user").unwrap_or("nobody"), member("group"))?;
        }
        Ok(())
    }
}

struct Prototype {
    application: Application,
    reader: Reader,
    shared_data: OwnedFd,
    shared_notify: OwnedFd,
    queue: Shared<QueueWords>,
    faults: Shared<FaultWords>,
    children: Vec<(Pid, OwnedFd)>,
}

impl Prototype {
    fn serve(mut self) -> io::Result<()> {
        let mut quitting = false;
        loop {
            self.reap()?;
            while let Some(frame) = self.reader.buffered()? {
                match frame.header.kind {
                    Kind::Spawn => self.spawn()?,
                    Kind::Quit => quitting = true,
                    _ => log(Level::Alert, "prototype: unexpected frame"),
                }
            }
            if quitting && self.children.is_empty() {
                return Ok(());
            }
            if self.wait()? && !self.reader.fill()? {
                // The main process is gone: the kernel ends the children
                // together with this process.
                return Ok(());
            }
        }
    }

    /// Waits for the main process or the end of a child; true if the former.
    fn wait(&self) -> io::Result<bool> {
        let mut watched = vec![PollFd::new(self.reader.stream(), PollFlags::IN)];
        for (_, child) in &self.children {
            watched.push(PollFd::new(child, PollFlags::IN));
        }
        match poll(&mut watched, None) {
            Ok(_) => Ok(watched
                .first()
                .is_some_and(|stream| !stream.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn tell(&self, kind: Kind, pid: Pid, fds: &[rustix::fd::BorrowedFd<'_>]) -> io::Result<()> {
        let number = pid.as_raw_nonzero().get().unsigned_abs();
        let header = Header::new(kind, number);
        wire::send(self.reader.stream(), header, &[], fds, Wait::AsDescriptor)
    }

    fn reap(&mut self) -> io::Result<()> {
        let mut gone = Vec::new();
        self.children.retain(|(pid, _)| {
            match waitpid(Some(*pid), WaitOptions::NOHANG) {
                Ok(None) => return true,
                Ok(Some((_, status))) => report(*pid, status),
                Err(_) => {}
            }
            gone.push(*pid);
            false
        });
        for pid in gone {
            self.tell(Kind::Exited, pid, &[])?;
        }
        Ok(())
    }

    fn spawn(&mut self) -> io::Result<()> {
        let (near, far) = stream_pair()?;
        match process::fork()? {
            Forked::Child => {
                drop(near);
                exit(self.become_application(far));
            }
            Forked::Parent(pid) => {
                self.children
                    .push((pid, pidfd_open(pid, PidfdFlags::empty())?));
                self.tell(Kind::Spawned, pid, &[near.as_fd()])
            }
        }
    }

    fn become_application(&mut self, router: OwnedFd) -> i32 {
        let born = || -> io::Result<Birth> {
            Ok(Birth {
                router,
                router_pid: self.application.plan.router_pid,
                shared_data: self.shared_data.try_clone()?,
                shared_notify: self.shared_notify.try_clone()?,
                queue: Shared::open(self.queue.as_fd().try_clone_to_owned()?)?,
                faults: Shared::open(self.faults.as_fd().try_clone_to_owned()?)?,
                window: self.application.plan.window,
                requests: self.application.plan.requests,
            })
        };
        match born() {
            Ok(birth) => {
                libunit::set_birth(birth);
                self.application.start()
            }
            Err(error) => {
                log(Level::Alert, format!("application process: {error}"));
                1
            }
        }
    }
}

fn report(pid: Pid, status: rustix::process::WaitStatus) {
    let pid = pid.as_raw_nonzero();
    if let Some(signal) = status.terminating_signal() {
        log(
            Level::Alert,
            format!("app process {pid} exited on signal {signal}"),
        );
    } else {
        let code = status.exit_status().unwrap_or_default();
        log(
            Level::Notice,
            format!("app process {pid} exited with code {code}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_travel_in_order() {
        let plan = Plan {
            name: "a \"b\"".into(),
            file: "/x.unit.so".into(),
            object: serde_json::from_str(r#"{"z":{"b":"1","a":"2"}}"#).unwrap(),
            window: 640,
            requests: 3,
            router_pid: 42,
        };
        let back = Plan::decode(&plan.encode()).unwrap();
        assert_eq!(back.name, plan.name);
        assert_eq!(back.object.to_string(), plan.object.to_string());
        assert_eq!((back.window, back.requests), (640, 3));
    }
}
