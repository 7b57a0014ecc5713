//! An application as Unit's configuration describes it.

use std::path::PathBuf;

/// A JSON value of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean(bool),
    /// Any number.
    Number(f64),
    /// A string.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// An object, members in the order of the configuration.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The member `name` of an object.
    pub fn member(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Object(members) => members.iter().find(|(n, _)| n == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// What kind of value this is, for error messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// What Unit tells a module about its application.
#[derive(Clone, Debug, PartialEq)]
pub struct Application {
    /// The name under `applications`.
    pub name: String,
    /// The whole application object.
    pub object: Value,
    /// The user that application processes run as, which unitd fills in if it
    /// was not configured.
    pub user: Option<String>,
    /// Their group, if it was configured.
    pub group: Option<String>,
    /// Where application processes run, if it was configured.
    pub working_directory: Option<PathBuf>,
}
