//! `nxt_conf_*`: a module's view of the configuration. A `nxt_conf_value_t`
//! is a `serde_json::Value` that lives as long as the prototype.

use std::ptr;

use serde_json::Value;

use crate::ffi::{self, nxt_conf_value_t, nxt_str_t, nxt_uint_t};

/// The value as modules see it.
pub fn as_conf(value: &Value) -> *mut nxt_conf_value_t {
    ptr::from_ref(value).cast_mut().cast()
}

/// # Safety
/// `value` is null or came from [`as_conf`] and its value still lives.
unsafe fn from_conf<'a>(value: *const nxt_conf_value_t) -> Option<&'a Value> {
    // SAFETY: the caller's promise; values are never changed.
    unsafe { value.cast::<Value>().as_ref() }
}

fn as_str(text: &str) -> nxt_str_t {
    nxt_str_t {
        length: text.len(),
        start: text.as_ptr().cast_mut(),
    }
}

/// The type of a value, one of `NXT_CONF_*`.
///
/// # Safety
/// `value` is a value of the configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_conf_type(value: *const nxt_conf_value_t) -> nxt_uint_t {
    // SAFETY: the caller's promise.
    let kind = match unsafe { from_conf(value) } {
        None | Some(Value::Null) => ffi::NXT_CONF_NULL,
        Some(Value::Bool(_)) => ffi::NXT_CONF_BOOLEAN,
        Some(Value::Number(number)) if number.is_f64() => ffi::NXT_CONF_NUMBER,
        Some(Value::Number(_)) => ffi::NXT_CONF_INTEGER,
        Some(Value::String(_)) => ffi::NXT_CONF_STRING,
        Some(Value::Array(_)) => ffi::NXT_CONF_ARRAY,
        Some(Value::Object(_)) => ffi::NXT_CONF_OBJECT,
    };
    kind as nxt_uint_t
}

/// The bytes of a string value; they live as long as the value.
///
/// # Safety
/// `value` is a value of the configuration, `text` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_conf_get_string(value: *const nxt_conf_value_t, text: *mut nxt_str_t) {
    // SAFETY: the caller's promise.
    let found = match unsafe { from_conf(value) } {
        Some(Value::String(found)) => found.as_str(),
        _ => "",
    };
    // SAFETY: the caller's promise.
    unsafe { text.write(as_str(found)) };
}

/// The value of a number.
///
/// # Safety
/// `value` is a value of the configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_conf_get_number(value: *mut nxt_conf_value_t) -> f64 {
    // SAFETY: the caller's promise.
    unsafe { from_conf(value) }
        .and_then(Value::as_f64)
        .unwrap_or(0.0)
}

/// The value of a boolean.
///
/// # Safety
/// `value` is a value of the configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_conf_get_boolean(value: *mut nxt_conf_value_t) -> u8 {
    // SAFETY: the caller's promise.
    let found = unsafe { from_conf(value) }.and_then(Value::as_bool);
    u8::from(found.unwrap_or(false))
}

/// The member of that name, or null.
///
/// # Safety
/// `value` is a value of the configuration, `name` a string, `index` null or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_conf_get_object_member(
    value: *const nxt_conf_value_t,
    name: *const nxt_str_t,
    index: *mut u32,
) -> *mut nxt_conf_value_t {
    // SAFETY: the caller's promise.
    let Some(Value::Object(members)) = (unsafe { from_conf(value) }) else {
        return ptr::null_mut();
    };
    // SAFETY: the caller's promise.
    let Some(name) = (unsafe { name.as_ref() }) else {
        return ptr::null_mut();
    };
    let wanted = if name.length == 0 {
        &[]
    } else {
        // SAFETY: a string of the module: `length` bytes from `start`.
        unsafe { std::slice::from_raw_parts(name.start, name.length) }
    };
    for (position, (name, member)) in members.iter().enumerate() {
        if name.as_bytes() == wanted {
            if !index.is_null() {
                // SAFETY: the caller's promise; not null.
                unsafe { index.write(position as u32) };
            }
            return as_conf(member);
        }
    }
    ptr::null_mut()
}

/// How many members an object has.
///
/// # Safety
/// `value` is a value of the configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_conf_object_members_count(
    value: *const nxt_conf_value_t,
) -> nxt_uint_t {
    // SAFETY: the caller's promise.
    let found = unsafe { from_conf(value) }.and_then(Value::as_object);
    found.map_or(0, |members| {
        u32::try_from(members.len()).unwrap_or(u32::MAX)
    })
}

/// The member at `*next`, which moves on; null past the last one.
///
/// # Safety
/// `value` is a value of the configuration; `name` and `next` are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_conf_next_object_member(
    value: *const nxt_conf_value_t,
    name: *mut nxt_str_t,
    next: *mut u32,
) -> *mut nxt_conf_value_t {
    // SAFETY: the caller's promise.
    let Some(Value::Object(members)) = (unsafe { from_conf(value) }) else {
        return ptr::null_mut();
    };
    // SAFETY: the caller's promise.
    let position = unsafe { next.read() };
    let Some((found, member)) = members.iter().nth(position as usize) else {
        return ptr::null_mut();
    };
    // SAFETY: the caller's promise.
    unsafe { name.write(as_str(found)) };
    // SAFETY: the caller's promise.
    unsafe { next.write(position + 1) };
    as_conf(member)
}

/// How many elements an array has.
///
/// # Safety
/// `value` is a value of the configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_conf_array_elements_count(
    value: *const nxt_conf_value_t,
) -> nxt_uint_t {
    // SAFETY: the caller's promise.
    let found = unsafe { from_conf(value) }.and_then(Value::as_array);
    found.map_or(0, |elements| {
        u32::try_from(elements.len()).unwrap_or(u32::MAX)
    })
}

/// The element at that position, or null.
///
/// # Safety
/// `value` is a value of the configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nxt_conf_get_array_element(
    value: *const nxt_conf_value_t,
    index: u32,
) -> *mut nxt_conf_value_t {
    // SAFETY: the caller's promise.
    unsafe { from_conf(value) }
        .and_then(Value::as_array)
        .and_then(|elements| elements.get(index as usize))
        .map_or(ptr::null_mut(), as_conf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_come_in_their_order() {
        let value = json!({"z": 1, "a": "text", "m": [true, 1.5]});
        let conf = as_conf(&value);
        let mut next = 0;
        let mut seen = Vec::new();
        loop {
            let mut name = as_str("");
            // SAFETY: `value` lives; both pointers are writable.
            let member = unsafe { nxt_conf_next_object_member(conf, &mut name, &mut next) };
            if member.is_null() {
                break;
            }
            // SAFETY: a name of a member of `value`.
            let name = unsafe { std::slice::from_raw_parts(name.start, name.length) };
            // SAFETY: a member of `value`.
            seen.push((name.to_vec(), unsafe { nxt_conf_type(member) }));
        }
        assert_eq!(
            seen,
            [
                (b"z".to_vec(), ffi::NXT_CONF_INTEGER as nxt_uint_t),
                (b"a".to_vec(), ffi::NXT_CONF_STRING as nxt_uint_t),
                (b"m".to_vec(), ffi::NXT_CONF_ARRAY as nxt_uint_t),
            ]
        );
    }

    #[test]
    fn members_are_found_by_name() {
        let value = json!({"a": 1, "b": [10, 20]});
        let conf = as_conf(&value);
        let mut index = 9;
        // SAFETY: `value` lives; the name is a string, the index writable.
        let found = unsafe { nxt_conf_get_object_member(conf, &as_str("b"), &mut index) };
        assert_eq!(index, 1);
        // SAFETY: a member of `value`.
        assert_eq!(unsafe { nxt_conf_array_elements_count(found) }, 2);
        // SAFETY: as above.
        let second = unsafe { nxt_conf_get_array_element(found, 1) };
        // SAFETY: as above.
        assert_eq!(unsafe { nxt_conf_get_number(second) }, 20.0);
        // SAFETY: as above.
        assert!(unsafe { nxt_conf_get_array_element(found, 2) }.is_null());
        // SAFETY: as above.
        let none = unsafe { nxt_conf_get_object_member(conf, &as_str("c"), ptr::null_mut()) };
        assert!(none.is_null());
    }
}
