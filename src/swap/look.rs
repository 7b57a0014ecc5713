//! What tells a file from what was there before, without reading it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a look at the file has found. Those of the same file, unchanged, are
/// equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Its device and number, its size, and when it and what is known of it were
    /// changed: the last changes when it is renamed, or may be read again.
    File(u64, u64, u64, (i64, i64), (i64, i64)),
    /// There is none, or it cannot be looked at.
    Nothing(String),
}

impl Look {
    /// Looks at `path`, symbolic links being followed.
    pub fn at(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(found) => Self::File(
                found.dev(),
                found.ino(),
                found.size(),
                (found.mtime(), found.mtime_nsec()),
                (found.ctime(), found.ctime_nsec()),
            ),
            Err(error) => Self::nothing(&error),
        }
    }

    fn nothing(error: &io::Error) -> Self {
        Self::Nothing(error.to_string())
    }
}

/// Tells when a file has changed, and has come to rest.
#[derive(Default)]
pub struct Looks {
    last: Option<Look>,
    told: Option<Look>,
}

impl Looks {
    /// Takes a look. The answer is what is new about the file since the last
    /// answer, once two looks in a row have found the same: one that is being
    /// written has time to be complete. The first answer is always news.
    pub fn news(&mut self, look: Look) -> Option<Look> {
        let rests = self.last.as_ref() == Some(&look);
        self.last = Some(look.clone());
        if !rests || self.told.as_ref() == Some(&look) {
            return None;
        }
        self.told = Some(look.clone());
        Some(look)
    }

    /// Nothing has come of the last answer: what is there is news again.
    pub fn forget(&mut self) {
        self.told = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> Look {
        Look::File(1, 2, size, (3, 4), (5, 6))
    }

    #[test]
    fn a_change_is_news_once_and_when_it_rests() {
        let mut looks = Looks::default();
        assert_eq!(looks.news(file(1)), None);
        assert_eq!(looks.news(file(1)), Some(file(1)));
        assert_eq!(looks.news(file(1)), None);
        // Growing.
        for size in 2..5 {
            assert_eq!(looks.news(file(size)), None);
        }
        assert_eq!(looks.news(file(4)), Some(file(4)));
        assert_eq!(looks.news(file(4)), None);
        // As it was told, in the end.
        assert_eq!(looks.news(file(5)), None);
        assert_eq!(looks.news(file(4)), None);
        assert_eq!(looks.news(file(4)), None);
    }

    #[test]
    fn a_file_that_goes_and_comes_back_is_news_twice() {
        let gone = || Look::Nothing("gone".into());
        let mut looks = Looks::default();
        let all = [file(1), file(1), gone(), gone(), gone(), file(1), file(1)];
        let news: Vec<Look> = all.into_iter().filter_map(|l| looks.news(l)).collect();
        assert_eq!(news, [file(1), gone(), file(1)]);
    }

    #[test]
    fn what_was_forgotten_is_news_again() {
        let mut looks = Looks::default();
        assert_eq!(looks.news(file(1)), None);
        assert_eq!(looks.news(file(1)), Some(file(1)));
        looks.forget();
        // Gone for a moment, say, and back.
        assert_eq!(looks.news(file(1)), Some(file(1)));
        assert_eq!(looks.news(file(1)), None);
    }

    #[test]
    fn what_is_not_there_is_nothing() {
        let Look::Nothing(error) = Look::at(Path::new("/no/such/file")) else {
            panic!("it is there");
        };
        assert!(error.contains("No such file"), "{error}");
        assert_eq!(Look::at(Path::new("/")), Look::at(Path::new("/")));
    }
}
