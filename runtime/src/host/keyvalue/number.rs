//! Counters: whole numbers, stored as decimal digits.

use super::problem::Problem;

/// Which numbers an interface can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// -2^63 to 2^63 - 1.
    Signed,
    /// 0 to 2^63 - 1: what `u64` and Redis have in common.
    Unsigned,
}

/// Bytes of the longest number.
pub(super) const LONGEST: usize = 20;

/// The number that `stored` stands for; none is 0.
///
/// Takes what Redis takes, so that a counter is one wherever it is kept:
/// digits with an optional minus, no other sign, no space, no leading zero.
pub(super) fn read(stored: Option<&[u8]>) -> Result<i64, Problem> {
    let Some(stored) = stored else { return Ok(0) };
    let text = std::str::from_utf8(stored).map_err(|_| Problem::NotANumber)?;
    let number: i64 = text.parse().map_err(|_| Problem::NotANumber)?;
    if number.to_string() == text {
        Ok(number)
    } else {
        Err(Problem::NotANumber)
    }
}

/// `stored` and `delta` together, if the sum is in `range`.
pub(super) fn add(stored: Option<&[u8]>, delta: i64, range: Range) -> Result<i64, Problem> {
    let number = read(stored)?;
    if range == Range::Unsigned && number < 0 {
        return Err(Problem::NotANumber);
    }
    number.checked_add(delta).ok_or(Problem::Overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let add = |stored: &str, delta, range| add(Some(stored.as_bytes()), delta, range);
        assert_eq!(add("41", 1, Range::Signed), Ok(42));
        assert_eq!(add("-5", 3, Range::Signed), Ok(-2));
        assert_eq!(add("5", -8, Range::Signed), Ok(-3));
        assert_eq!(super::add(None, 7, Range::Unsigned), Ok(7));
        assert_eq!(add("-5", 8, Range::Unsigned), Err(Problem::NotANumber));
        let most = i64::MAX.to_string();
        assert_eq!(add(&most, 1, Range::Signed), Err(Problem::Overflow));
        assert_eq!(add(&most, -1, Range::Signed), Ok(i64::MAX - 1));
        let least = i64::MIN.to_string();
        assert_eq!(add(&least, -1, Range::Signed), Err(Problem::Overflow));
        assert!(least.len() <= LONGEST);
        for bad in [
            "",
            " 1",
            "1 ",
            "+1",
            "01",
            "-0",
            "1.0",
            "abc",
            "9223372036854775808",
        ] {
            assert_eq!(
                add(bad, 1, Range::Signed),
                Err(Problem::NotANumber),
                "{bad}"
            );
        }
        assert_eq!(read(Some(b"\xff")), Err(Problem::NotANumber));
    }
}
