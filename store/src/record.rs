//! What is known of the deployments of an application.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;

/// Deployments of an application that are remembered.
pub const HISTORY: usize = 10;
/// Bytes of the longest record.
pub(crate) const MAX_RECORD: u64 = 4 << 20;
/// Bytes of the settings of one deployment, so that a record has room for all of them.
const MAX_SETTINGS: usize = 256 << 10;
/// The form that records have.
const FORMAT: u32 = 1;

/// The name of an application: what Unit calls it, and what its record is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A text that is no [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name of an application has 1 to 64 letters, digits, '.', '_' and '-', and begins with a \
     letter or digit"
)]
pub struct NameError;

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let first = text.bytes().next();
        let begins = first.is_some_and(|b| b.is_ascii_alphanumeric());
        if begins && text.len() <= 64 && text.bytes().all(good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError)
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// What an application is configured as, beside its component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AppSettings {
    /// Patterns of paths that are passed to it; none if it has no route.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// The host that its route is for, if it is for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The listener that is to be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Processes that serve it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// What the guest sees.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// `UNIT_WASM_` keys: limits and grants.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
    /// Other members of the application object.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub members: Map<String, Value>,
}

impl AppSettings {
    /// Whether a record can keep them.
    ///
    /// # Errors
    ///
    /// If they are too long for that.
    pub fn check_size(&self) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| e.to_string())?;
        match text.len() <= MAX_SETTINGS {
            true => Ok(()),
            false => Err(format!(
                "all settings together have {} bytes as JSON, and {MAX_SETTINGS} are possible",
                text.len()
            )),
        }
    }
}

/// How to find out whether an application answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// With the beginning of its route.
    #[default]
    Route,
    /// With this path.
    Path(String),
    /// Not at all.
    Nothing,
}

impl Ask {
    fn is_route(&self) -> bool {
        *self == Self::Route
    }
}

/// One deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Counts up from 1. [`Record::push`] sets it.
    pub number: u64,
    /// The component.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// When, as RFC 3339 has it.
    pub time: String,
    /// The number of the deployment that this one has brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
    /// How it is found out whether it answers.
    #[serde(default, skip_serializing_if = "Ask::is_route")]
    pub probe: Ask,
    /// What the application was configured as.
    pub settings: AppSettings,
}

impl Deployment {
    /// One of now.
    pub fn new(digest: Digest, size: u64, settings: AppSettings) -> Self {
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second());
        Self {
            number: 0,
            digest,
            size,
            time: now.unwrap_or_default().to_string(),
            restores: None,
            probe: Ask::Route,
            settings,
        }
    }

    /// The same once more, now.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            restores: Some(self.original()),
            probe: self.probe.clone(),
            ..Self::new(self.digest.clone(), self.size, self.settings.clone())
        }
    }

    /// The number of the deployment that this is, or that it has brought back.
    fn original(&self) -> u64 {
        self.restores.unwrap_or(self.number)
    }
}

/// The deployments of an application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// The application's name.
    pub name: Name,
    /// The component that is deployed, for people and their scripts.
    current: Digest,
    /// The newest first.
    history: Vec<Deployment>,
}

impl Record {
    /// The record of a first deployment.
    pub fn first(name: Name, deployment: Deployment) -> Self {
        let mut record = Self {
            format: FORMAT,
            name,
            current: deployment.digest.clone(),
            history: Vec::new(),
        };
        record.push(deployment);
        record
    }

    /// Makes `deployment` the current one. The oldest is forgotten when there are
    /// more than [`HISTORY`].
    pub fn push(&mut self, mut deployment: Deployment) {
        deployment.number = self.history.first().map_or(0, |newest| newest.number) + 1;
        self.current = deployment.digest.clone();
        self.history.insert(0, deployment);
        self.history.truncate(HISTORY);
    }

    /// What is deployed.
    pub fn current(&self) -> Option<&Deployment> {
        self.history.first()
    }

    /// All deployments that are remembered, the newest first.
    pub fn history(&self) -> &[Deployment] {
        &self.history
    }

    /// What was deployed before what is deployed now: going back twice goes back
    /// by two.
    pub fn previous(&self) -> Option<&Deployment> {
        let now = self.current()?.original();
        let mut older = self.history.iter();
        older.find(|other| other.number < now)
    }

    /// The newest deployment of a component, which is given by the beginning of
    /// its digest.
    pub fn of_digest(&self, beginning: &str) -> Option<&Deployment> {
        let mut all = self.history.iter();
        all.find(|other| other.digest.as_str().starts_with(beginning))
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, String> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| e.to_string())?;
        text.push(b'\n');
        // A longer one could not be read again.
        match text.len() as u64 <= MAX_RECORD {
            true => Ok(text),
            false => Err(format!("it would have more than {MAX_RECORD} bytes")),
        }
    }

    pub(crate) fn from_json(name: &Name, text: &[u8]) -> Result<Self, String> {
        // Told by itself: the rest may be anything then.
        let any: Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        match any.get("format").and_then(Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(other) => return Err(format!("it has format {other}, and {FORMAT} is known")),
            None => return Err("it has no format".to_owned()),
        }
        let record: Self = serde_json::from_value(any).map_err(|e| e.to_string())?;
        if record.name != *name {
            return Err(format!("it is of \"{}\"", record.name));
        }
        match record.history.first() {
            None => Err("its history is empty".to_owned()),
            Some(newest) if newest.digest != record.current => {
                Err("its current component is not the newest of its history".to_owned())
            }
            Some(_) => Ok(record),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(text: &str) -> Deployment {
        let settings = AppSettings {
            routes: vec![format!("/{text}/*")],
            environment: BTreeMap::from([("VERSION".to_owned(), text.to_owned())]),
            ..AppSettings::default()
        };
        Deployment::new(Digest::of(text.as_bytes()), text.len() as u64, settings)
    }

    fn record(versions: &[&str]) -> Record {
        let (first, rest) = versions.split_first().unwrap();
        let mut record = Record::first("shop".parse().unwrap(), deployment(first));
        rest.iter()
            .for_each(|version| record.push(deployment(version)));
        record
    }

    #[test]
    fn names() {
        for good in ["a", "Shop-2.api_v1", "0"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        let long = "a".repeat(65);
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", "a\n", &long] {
            assert_eq!(bad.parse::<Name>(), Err(NameError), "{bad}");
        }
    }

    #[test]
    fn a_record_survives_the_way_through_json() {
        let record = record(&["a", "b"]);
        let text = record.to_json().unwrap();
        assert_eq!(Record::from_json(&record.name, &text), Ok(record.clone()));
        let json: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["current"], Digest::of(b"b").as_str());
        assert_eq!(
            json["history"][1]["settings"]["environment"]["VERSION"],
            "a"
        );
        assert_eq!(json["history"][0]["number"], 2);
    }

    #[test]
    fn how_it_is_asked_is_remembered() {
        let mut record = record(&["a", "b"]);
        for (probe, text) in [
            (Ask::Route, None),
            (Ask::Nothing, Some("\"probe\": \"nothing\"")),
            (Ask::Path("/x".to_owned()), Some("\"path\": \"/x\"")),
        ] {
            record.history[0].probe = probe.clone();
            let json = record.to_json().unwrap();
            assert_eq!(Record::from_json(&record.name, &json), Ok(record.clone()));
            let json = String::from_utf8(json).unwrap();
            // What is asked by its route has the form of older records.
            assert_eq!(json.contains("probe"), text.is_some(), "{json}");
            assert!(text.is_none_or(|text| json.contains(text)), "{json}");
            assert_eq!(record.current().unwrap().again().probe, probe);
        }
    }

    #[test]
    fn what_is_no_record_is_told_as_such() {
        let good = record(&["a"]);
        let text = String::from_utf8(good.to_json().unwrap()).unwrap();
        let digest = Digest::of(b"a");
        for (from, to, problem) in [
            ("\"format\": 1", "\"format\": 2", "it has format 2"),
            ("\"format\": 1,", "", "it has no format"),
            ("\"shop\"", "\"shop2\"", "it is of \"shop2\""),
            (digest.as_str(), "../../etc/passwd", "SHA-256"),
            ("{", "[", "at line 2"),
        ] {
            let error = Record::from_json(&good.name, text.replacen(from, to, 1).as_bytes());
            let error = error.unwrap_err();
            assert!(error.contains(problem), "{from}: {error}");
        }
        let other = text.replacen(digest.as_str(), Digest::of(b"b").as_str(), 1);
        assert!(Record::from_json(&good.name, other.as_bytes()).is_err());
    }

    #[test]
    fn the_last_ten_are_remembered() {
        let versions: Vec<String> = (1..=13).map(|n| n.to_string()).collect();
        let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
        let record = record(&versions);
        let numbers: Vec<u64> = record.history().iter().map(|d| d.number).collect();
        assert_eq!(numbers, [13, 12, 11, 10, 9, 8, 7, 6, 5, 4]);
        assert_eq!(record.current().unwrap().digest, Digest::of(b"13"));
    }

    #[test]
    fn going_back_twice_goes_back_by_two() {
        let mut record = record(&["a", "b", "c"]);
        let mut seen = Vec::new();
        while let Some(previous) = record.previous() {
            let again = previous.again();
            record.push(again);
            let now = record.current().unwrap();
            seen.push((now.number, now.restores.unwrap(), now.digest.clone()));
        }
        let expected = [(4, 2, Digest::of(b"b")), (5, 1, Digest::of(b"a"))];
        assert_eq!(seen, expected);
        // A new one after that is what comes before the next.
        record.push(deployment("d"));
        record.push(deployment("e"));
        assert_eq!(record.previous().unwrap().digest, Digest::of(b"d"));
        let digest = Digest::of(b"c");
        assert_eq!(record.of_digest(digest.short()).unwrap().number, 3);
        assert!(record.of_digest("0123").is_none());
    }

    #[test]
    fn what_a_rollback_has_brought_back_is_gone_back_to() {
        let mut record = record(&["a", "b"]);
        record.push(record.previous().unwrap().again());
        record.push(deployment("c"));
        // That is `a`, which ran before `c`, and not `b`.
        let previous = record.previous().unwrap().again();
        assert_eq!(
            (previous.digest.clone(), previous.restores),
            (Digest::of(b"a"), Some(1))
        );
        record.push(previous);
        assert_eq!(record.previous(), None);
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let with = |length: usize| {
            let mut deployment = deployment("a");
            let value = "x".repeat(length);
            deployment.settings.environment.insert("A".into(), value);
            deployment
        };
        let large = with(MAX_SETTINGS);
        let error = large.settings.check_size().unwrap_err();
        assert!(error.contains("262144 are possible"), "{error}");
        let possible = with(MAX_SETTINGS - 200);
        assert_eq!(possible.settings.check_size(), Ok(()));
        let mut record = Record::first("shop".parse().unwrap(), possible.clone());
        for _ in 0..HISTORY {
            record.push(possible.clone());
        }
        assert!(record.to_json().is_ok());
        let mut record = Record::first("shop".parse().unwrap(), with(3 << 20));
        record.push(with(3 << 20));
        let error = record.to_json().unwrap_err();
        assert!(error.contains("more than 4194304 bytes"), "{error}");
    }
}
