//! Secrets: which guests can ask for, and which nobody is to read in a log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::output::shown_text;

/// The shortest text that is blanked out: replacing shorter ones would garble
/// innocent text and tell what they are.
const SHORTEST: usize = 6;

/// What an output line ends with that was too long.
pub(crate) const CUT: &str = "...[cut]";

/// Named values that one application may have.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(Arc<BTreeMap<String, String>>);

// Names are no secrets; values must not get into a log by `{:?}`.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// The secrets in `values`, by name.
    pub fn new(values: BTreeMap<String, String>) -> Self {
        Self(Arc::new(values))
    }

    /// The value of the secret `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Blanks values out of text that is to be logged.
///
/// It guards against accidents, such as a guest that prints its configuration.
/// A guest that wants its secret in the log can always get it there, in pieces
/// or encoded.
#[derive(Clone, Default)]
pub struct Redactor(Arc<[Pattern]>);

// What is blanked out is not to be seen by `{:?}` either.
impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blanks = self.0.iter().map(|pattern| &pattern.blank);
        f.debug_list().entries(blanks).finish()
    }
}

struct Pattern {
    text: String,
    blank: String,
}

impl Redactor {
    /// Blanks out the values of `secrets`. Of values with several lines, each
    /// line is blanked out by itself, as guests print line by line; and also as the
    /// log has it, with control characters escaped.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut patterns: Vec<Pattern> = secrets
            .into_iter()
            .flat_map(|(name, value)| value.lines().map(move |line| (name, line.trim())))
            .filter(|(_, text)| text.len() >= SHORTEST)
            .flat_map(|(name, text)| {
                let escaped = shown_text(text.as_bytes(), text.len(), false);
                let escaped = (escaped != text).then_some(escaped);
                let texts = std::iter::once(text.to_owned()).chain(escaped);
                texts.map(move |text| Pattern {
                    text,
                    blank: format!("[secret {name}]"),
                })
            })
            .collect();
        // One may be a part of another.
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.text.len()));
        Self(patterns.into())
    }

    /// `text` without the secrets.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        // First, as what is cut off can begin with a shorter secret.
        let mut text = match self.before_half_a_secret(text) {
            Some(shown) => Cow::Owned(format!("{shown}[secret]{CUT}")),
            None => Cow::Borrowed(text),
        };
        for Pattern { text: value, blank } in self.0.iter() {
            if text.contains(value.as_str()) {
                text = Cow::Owned(text.replace(value.as_str(), blank));
            }
        }
        text
    }

    /// What comes before the beginning of a secret whose rest was cut off.
    fn before_half_a_secret<'a>(&self, text: &'a str) -> Option<&'a str> {
        let shown = text.strip_suffix(CUT)?;
        let beginnings = self.0.iter().flat_map(|pattern| {
            let lengths = 1..pattern.text.len();
            lengths.rev().filter_map(|n| pattern.text.get(..n))
        });
        beginnings
            .filter_map(|beginning| shown.strip_suffix(beginning))
            .min_by_key(|before| before.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor() -> Redactor {
        Redactor::new([
            ("token", "hunter2hunter2"),
            ("short", "abc"),
            ("part", "hunter2"),
            ("key", "-----BEGIN-----\nMIIEvQ\n-----END-----\n"),
        ])
    }

    #[test]
    fn values_are_blanked_out_wherever_they_are() {
        let redactor = redactor();
        for (text, expected) in [
            ("nothing here", "nothing here"),
            ("hunter2hunter2", "[secret token]"),
            (
                "a=hunter2hunter2&b=hunter2",
                "a=[secret token]&b=[secret part]",
            ),
            ("line MIIEvQ", "line [secret key]"),
            // Too short to be told from ordinary text.
            ("abc", "abc"),
        ] {
            assert_eq!(redactor.redact(text), expected);
        }
    }

    #[test]
    fn a_secret_that_is_cut_off_is_blanked_out_too() {
        let redactor = redactor();
        assert_eq!(
            redactor.redact("hunter2 x=hunter2hunt...[cut]"),
            "[secret part] x=[secret]...[cut]"
        );
        assert_eq!(redactor.redact("x=hunt...[cut]"), "x=[secret]...[cut]");
        assert_eq!(redactor.redact("plain...[cut]"), "plain...[cut]");
    }

    #[test]
    fn control_characters_in_a_value_are_found_as_they_are_and_as_the_log_has_them() {
        let value = "a\u{1b}[31mred\u{85}\rend\ttab";
        let redactor = Redactor::new([("red", value)]);
        assert_eq!(redactor.redact(value), "[secret red]");
        let text = format!("x={value}.");
        let logged = shown_text(text.as_bytes(), text.len(), false);
        assert_eq!(redactor.redact(&logged), "x=[secret red].");
        // The line is cut off after the first control character.
        let logged = shown_text(text.as_bytes(), 6, true);
        assert_eq!(redactor.redact(&logged), "x=[secret]...[cut]");
    }

    #[test]
    fn values_are_not_in_debug_output() {
        let secrets = Secrets::new(BTreeMap::from([("a".into(), "hunter2".into())]));
        assert_eq!(format!("{secrets:?}"), r#"{"a"}"#);
    }
}
