//! Which of the two generations of `wasi:http` a component is made for.

use std::fmt;
use std::str::FromStr;

use wasmparser::{Parser, Payload};

use crate::error::LoadError;

/// A world of components that answer HTTP requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum World {
    /// `wasi:http/proxy` of WASI 0.2: exports `wasi:http/incoming-handler`.
    Proxy,
    /// `wasi:http/service` of WASI 0.3: exports `wasi:http/handler`. Its
    /// functions are asynchronous.
    Service,
}

impl World {
    /// The world of `component`, told from the names of its exports; of one that
    /// is of both, the newer one.
    ///
    /// # Errors
    ///
    /// [`LoadError::NoHandler`] if it is of neither. Nothing else is checked: of
    /// what is no valid component this says so, or anything at all.
    pub fn of(component: &[u8]) -> Result<Self, LoadError> {
        let exports = exports(component).map_err(|e| LoadError::Compile(e.to_string()))?;
        [Self::Service, Self::Proxy]
            .into_iter()
            .find(|world| exports.iter().any(|name| world.is_handler(name)))
            .ok_or_else(|| LoadError::no_handler(&exports))
    }

    /// Whether an export of this name is what handles requests.
    pub(crate) fn is_handler(self, name: &str) -> bool {
        let rest = match self {
            Self::Proxy => name.strip_prefix("wasi:http/incoming-handler@0.2."),
            Self::Service => name.strip_prefix("wasi:http/handler@0.3."),
        };
        // Release candidates are other interfaces under the same name.
        rest.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proxy => "wasi:http/proxy@0.2",
            Self::Service => "wasi:http/service@0.3",
        })
    }
}

impl FromStr for World {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Proxy, Self::Service]
            .into_iter()
            .find(|world| world.to_string() == text)
            .ok_or(())
    }
}

/// Names of what a component exports itself, not the components in it.
fn exports(component: &[u8]) -> wasmparser::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut inside = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => inside += 1,
            Payload::End(_) => inside = inside.saturating_sub(1),
            Payload::ComponentExportSection(section) if inside == 0 => {
                for export in section {
                    names.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_exports(names: &[&str]) -> Vec<u8> {
        let exports: String = names
            .iter()
            .map(|name| format!("(export \"{name}\" (instance $i))"))
            .collect();
        wat::parse_str(format!(
            "(component
                (core module (func (export \"wasi:http/handler@0.3.0\")))
                (component (instance $i) (export \"wasi:http/handler@0.3.0\" (instance $i)))
                (instance $i) {exports})"
        ))
        .unwrap()
    }

    #[test]
    fn told_by_the_name_of_the_handler() {
        for (names, world) in [
            (&["wasi:http/incoming-handler@0.2.0"][..], World::Proxy),
            (&["a:b/c", "wasi:http/handler@0.3.0"], World::Service),
            (
                &[
                    "wasi:http/incoming-handler@0.2.4",
                    "wasi:http/handler@0.3.0",
                ],
                World::Service,
            ),
        ] {
            assert_eq!(World::of(&with_exports(names)).unwrap(), world, "{names:?}");
            assert_eq!(world.to_string().parse(), Ok(world));
        }
    }

    #[test]
    fn what_is_inside_a_component_does_not_count() {
        let error = World::of(&with_exports(&["a:b/c"])).unwrap_err();
        assert!(
            error.to_string().ends_with("(it exports: a:b/c)"),
            "{error}"
        );
    }

    #[test]
    fn a_release_candidate_is_told_as_such() {
        let error = World::of(&with_exports(&["wasi:http/handler@0.3.0-rc-2026-01-06"]));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("release candidate"), "{text}");
    }
}
