//! Sizes and durations as people write them.

use std::time::Duration;

/// Bytes: a number with an optional unit, binary (`KiB`, `MiB`, `GiB`) or
/// decimal (`KB`, `MB`, `GB`), in any case and with or without a space.
pub fn size(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    usize::try_from(number.checked_mul(factor)?).ok()
}

/// A duration of more than nothing and at most a day: a number with a unit
/// (`ms`, `s`, `m`, `h`), or of seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let duration = Duration::from_millis(number.checked_mul(factor)?);
    (!duration.is_zero() && duration <= Duration::from_secs(86_400)).then_some(duration)
}

/// The digits that `text` begins with, and what follows.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("268435456"), Some(256 << 20));
        assert_eq!(size("256MiB"), Some(256 << 20));
        assert_eq!(size(" 4 gib "), Some(4 << 30));
        assert_eq!(size("1kb"), Some(1000));
        assert_eq!(size("268KiB"), Some(268 * 1024));
        for bad in ["", "lots", "-1", "1.5MiB", "MiB", "1TiB", "99999999999GiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("10"), Some(Duration::from_secs(10)));
        assert_eq!(duration("2 m"), Some(Duration::from_secs(120)));
        for bad in [
            "",
            "0s",
            "soon",
            "-5s",
            "25h",
            "1d",
            "18446744073709551615h",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
