//! Users, whom files belong to.

use std::fs;

/// Why a user is not known.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The list of users cannot be read.
    #[error("cannot read /etc/passwd: {0}")]
    List(#[from] std::io::Error),
    /// It is not in the list.
    #[error("there is no user {0:?} in /etc/passwd: give the number (`id -u {0}`)")]
    Unknown(String),
}

/// The number of a user, who is given by number or by name.
pub fn number(user: &str) -> Result<u32, OwnerError> {
    match user.parse() {
        Ok(number) => Ok(number),
        Err(_) => find(&fs::read_to_string("/etc/passwd")?, user)
            .ok_or_else(|| OwnerError::Unknown(user.to_owned())),
    }
}

fn find(list: &str, user: &str) -> Option<u32> {
    let mut lines = list.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| match fields.next()? == user {
        true => fields.nth(1)?.parse().ok(),
        false => None,
    })
}

/// The user that this process acts as.
pub fn current() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number() {
        let list = "root:x:0:0:root:/root:/bin/sh\nunit:x:106:110::/:/bin/false\nbad\n";
        assert_eq!(find(list, "unit"), Some(106));
        assert_eq!(find(list, "uni"), None);
        assert_eq!(find(list, "bad"), None);
        assert_eq!(number("4711").unwrap(), 4711);
        assert_eq!(number("root").unwrap(), 0);
        assert!(number("nobody-at-all").is_err());
    }
}
