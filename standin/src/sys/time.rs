//! Times as logs and headers show them.

use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

fn now() -> libc::time_t {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| passed.as_secs());
    libc::time_t::try_from(seconds).unwrap_or(0)
}

/// `YYYY/MM/DD HH:MM:SS`, local time.
pub fn log_stamp() -> String {
    let seconds = now();
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call.
    unsafe { libc::localtime_r(&seconds, parts.as_mut_ptr()) };
    // SAFETY: all-zero is a valid `tm`, whatever localtime_r did.
    let tm = unsafe { parts.assume_init() };
    format!(
        "{:04}/{:02}/{:02} {:02}:{:02}:{:02}",
        tm.tm_year + 1900,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec
    )
}

/// The value of a `Date` header.
pub fn http_date() -> String {
    date_of(now())
}

fn date_of(seconds: libc::time_t) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call.
    unsafe { libc::gmtime_r(&seconds, parts.as_mut_ptr()) };
    // SAFETY: all-zero is a valid `tm`, whatever gmtime_r did.
    let tm = unsafe { parts.assume_init() };
    let name = |names: &[&'static str], index: i32| {
        usize::try_from(index)
            .ok()
            .and_then(|index| names.get(index).copied())
            .unwrap_or("")
    };
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        name(&DAYS, tm.tm_wday),
        tm.tm_mday,
        name(&MONTHS, tm.tm_mon),
        tm.tm_year + 1900,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_in_the_form_of_http() {
        assert_eq!(super::date_of(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
