//! The application's configuration, copied out of unitd's memory.

use std::ffi::CStr;
use std::path::PathBuf;
use std::{ptr, slice};

use nxt_unit_sys as sys;
use nxt_wasm_settings::{Application, Value};

/// Deeper values are cut off as `null`; Unit's own parser allows 32 levels.
const DEPTH: u32 = 64;

/// Copies a value of unitd.
///
/// # Safety
///
/// `value` must be null or point to a live configuration value.
unsafe fn copy_value(value: *mut sys::nxt_conf_value_t, depth: u32) -> Value {
    if value.is_null() || depth == 0 {
        return Value::Null;
    }
    // SAFETY: not null, and live by the contract of this function.
    let kind = unsafe { sys::nxt_conf_type(value) };
    match kind {
        sys::NXT_CONF_BOOLEAN => {
            // SAFETY: the value is live and a boolean.
            Value::Boolean(unsafe { sys::nxt_conf_get_boolean(value) } != 0)
        }
        sys::NXT_CONF_INTEGER | sys::NXT_CONF_NUMBER => {
            // SAFETY: the value is live and a number.
            Value::Number(unsafe { sys::nxt_conf_get_number(value) })
        }
        sys::NXT_CONF_STRING => {
            let mut string = sys::nxt_str_t {
                length: 0,
                start: ptr::null_mut(),
            };
            // SAFETY: the value is live and a string; `string` is ours.
            unsafe { sys::nxt_conf_get_string(value, &raw mut string) };
            // SAFETY: unitd has just pointed `string` into the value.
            Value::String(unsafe { text(&string) })
        }
        sys::NXT_CONF_ARRAY => {
            // SAFETY: the value is live and an array.
            let count = unsafe { sys::nxt_conf_array_elements_count(value) };
            Value::Array(
                (0..count)
                    .map(|i| {
                        // SAFETY: `i` is below the number of elements.
                        let element = unsafe { sys::nxt_conf_get_array_element(value, i) };
                        // SAFETY: elements live as long as their array.
                        unsafe { copy_value(element, depth - 1) }
                    })
                    .collect(),
            )
        }
        sys::NXT_CONF_OBJECT => {
            let mut members = Vec::new();
            let mut next = 0;
            loop {
                let mut name = sys::nxt_str_t {
                    length: 0,
                    start: ptr::null_mut(),
                };
                // SAFETY: the value is live and an object; `name` and
                // `next` are ours. Null follows the last member.
                let member = unsafe {
                    sys::nxt_conf_next_object_member(value, &raw mut name, &raw mut next)
                };
                if member.is_null() {
                    break;
                }
                // SAFETY: `name` was set with the member.
                let name = unsafe { text(&name) };
                // SAFETY: members live as long as their object.
                members.push((name, unsafe { copy_value(member, depth - 1) }));
            }
            Value::Object(members)
        }
        _ => Value::Null,
    }
}

/// Copies the description of an application.
///
/// # Safety
///
/// `conf` must point to a live application configuration of unitd.
pub(super) unsafe fn copy_application(conf: *const sys::nxt_common_app_conf_t) -> Application {
    // SAFETY: live by the contract of this function; only read.
    let conf = unsafe { &*conf };
    let directory = conf.working_directory;
    // SAFETY: the configuration's own JSON object, live with it.
    let object = unsafe { copy_value(conf.self_, DEPTH) };
    let some = |s: &sys::nxt_str_t| {
        // SAFETY: strings of a live configuration.
        Some(unsafe { text(s) }).filter(|s| !s.is_empty())
    };
    Application {
        // SAFETY: a string of a live configuration.
        name: unsafe { text(&conf.name) },
        user: some(&conf.user),
        group: some(&conf.group),
        object,
        working_directory: (!directory.is_null())
            .then(|| {
                // SAFETY: not null, and a C string where Unit sets it.
                let path = unsafe { CStr::from_ptr(directory) };
                path.to_string_lossy().into_owned()
            })
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
    }
}

/// Copies a string of unitd. JSON strings are UTF-8; whatever is not, is
/// replaced.
///
/// # Safety
///
/// `string` must be empty or point to as many bytes as it says.
unsafe fn text(string: &sys::nxt_str_t) -> String {
    if string.start.is_null() || string.length == 0 {
        return String::new();
    }
    // SAFETY: not null, and as long as it says by the contract.
    let bytes = unsafe { slice::from_raw_parts(string.start, string.length) };
    String::from_utf8_lossy(bytes).into_owned()
}
