//! The module descriptor, and the two functions that unitd calls through it.

use std::marker::PhantomData;
use std::ptr;

use nxt_unit_sys as sys;

use nxt_wasm_settings::Application;

use super::conf;
use super::guard::guard;
use super::log::{self, Level};

/// The type that applications name in their configuration. Only types of
/// Unit's own list are accepted.
#[cfg(not(feature = "type-wasm"))]
const TYPE: &str = "wasm-wasi-component";
#[cfg(feature = "type-wasm")]
const TYPE: &str = "wasm";

/// Of modules of one type, Unit takes the highest version: this one is higher
/// than that of any module Unit comes with, and says which Wasmtime is inside.
const VERSION: &std::ffi::CStr = match std::ffi::CStr::from_bytes_with_nul(
    concat!(env!("NXT_WASMTIME_VERSION"), "\0").as_bytes(),
) {
    Ok(version) => version,
    Err(_) => c"48",
};

/// Unit loads a module only if these equal its own.
static COMPAT: [u32; 2] = [sys::NXT_VERNUM, sys::NXT_DEBUG];

/// The descriptor, in a form that can be a static.
#[repr(transparent)]
pub struct Descriptor(sys::nxt_app_module_t);

// SAFETY: its pointers are to constants, and nobody writes it.
unsafe impl Sync for Descriptor {}

/// What unitd finds under the name `nxt_app_module`.
pub const fn descriptor() -> Descriptor {
    Descriptor(sys::nxt_app_module_t {
        compat_length: size_of_val(&COMPAT),
        compat: (&raw const COMPAT).cast::<u32>().cast_mut(),
        type_: sys::nxt_str_t {
            length: TYPE.len(),
            start: TYPE.as_ptr().cast_mut(),
        },
        version: VERSION.as_ptr(),
        mounts: ptr::null(),
        nmounts: 0,
        setup: Some(setup),
        start: Some(start),
    })
}

/// The application that unitd wants set up or started. Lives as long as the
/// call.
pub struct Task<'a> {
    task: *mut sys::nxt_task_t,
    conf: *mut sys::nxt_common_app_conf_t,
    _call: PhantomData<&'a ()>,
}

impl Task<'_> {
    /// What the application is.
    pub fn application(&self) -> Application {
        // SAFETY: unitd keeps it during the call that this value is bound to.
        unsafe { conf::copy_application(self.conf) }
    }

    /// Writes to Unit's log by unitd's own logger, which works before libunit
    /// is initialised and in the prototype process too.
    pub fn log(&self, level: Level, text: &str) {
        // SAFETY: unitd keeps the task and its log during the call.
        let log = unsafe { (*self.task).log };
        if log.is_null() {
            return;
        }
        // SAFETY: not null, and live like the task.
        let Some(handler) = (unsafe { (*log).handler }) else {
            return;
        };
        for record in log::records("", text) {
            // SAFETY: unitd's `%*s` takes a size_t and a pointer to as many
            // bytes.
            unsafe {
                handler(
                    level.number(),
                    log,
                    c"%*s".as_ptr(),
                    record.len(),
                    record.as_ptr(),
                );
            }
        }
    }

    pub(super) fn task(&self) -> *mut sys::nxt_task_t {
        self.task
    }

    pub(super) fn conf(&self) -> *mut sys::nxt_common_app_conf_t {
        self.conf
    }
}

/// unitd calls this in the application's prototype process.
unsafe extern "C" fn setup(
    task: *mut sys::nxt_task_t,
    _process: *mut sys::nxt_process_t,
    conf: *mut sys::nxt_common_app_conf_t,
) -> sys::nxt_int_t {
    guard("setup", (), || {
        crate::module::setup(&Task {
            task,
            conf,
            _call: PhantomData,
        });
    });
    // Never an error: a prototype that fails leaves Unit with an application
    // that hangs for ever. What went wrong is reported by start().
    OK
}

/// unitd calls this in each application process, and does not expect it back.
unsafe extern "C" fn start(
    task: *mut sys::nxt_task_t,
    data: *mut sys::nxt_process_data_t,
) -> sys::nxt_int_t {
    let started = guard("start", false, || {
        // SAFETY: unitd passes the data of an application process, whose
        // member is `app`.
        let conf = unsafe { (*data).app };
        crate::module::start(&Task {
            task,
            conf,
            _call: PhantomData,
        })
    });
    if started {
        // As Unit's own modules do: returning would enter unitd's event loop.
        std::process::exit(0);
    }
    ERROR
}

/// Unit's results, in its own integer type.
pub(super) const OK: sys::nxt_int_t = sys::NXT_OK as sys::nxt_int_t;
const ERROR: sys::nxt_int_t = sys::NXT_ERROR as sys::nxt_int_t;
