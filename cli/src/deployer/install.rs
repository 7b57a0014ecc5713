//! How an application gets into Unit, and back out of it.

use std::path::Path;
use std::time::Duration;

use nxt_wasm_store::{AppSettings, Ask, Deployment, Digest, Name, Record, StoreError};
use serde_json::{Map, Value, json};

use super::{DeployError, Deployer};
use crate::unit::client::Address;
use crate::unit::plan::{self, Change, PlanError};
use crate::unit::probe::{self, Answered, Probe};
use crate::unit::route;
use crate::unit::state::{Before, State};

/// Attempts at bringing back what was there, and the time between them.
const UNDO_ATTEMPTS: u32 = 4;
const UNDO_PAUSE: Duration = Duration::from_millis(500);
/// Changes of the configuration for one deployment, with those that are made again as
/// others have changed it at the same time.
const MOST_CHANGES: u32 = 32;

/// What something is put into Unit for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// It has yet to show that it answers.
    New,
    /// It was deployed before.
    BringUp,
}

/// What was changed in Unit for a deployment.
pub(super) struct Installed {
    pub changed: bool,
    pub answered: Option<Answered>,
    pub before: Before,
    pub notes: Vec<String>,
}

/// How Unit was brought to where it is to be.
#[derive(Default)]
pub(super) struct Brought {
    changed: bool,
    /// Whether somebody else has changed `routes` at the same moment.
    disturbed: bool,
}

impl Deployer {
    /// Makes one change after the other, until `next` has none. The configuration is
    /// read anew for each, as others change it, too.
    pub(super) fn bring(
        &self,
        next: impl Fn(&Value) -> Result<Option<Change>, PlanError>,
    ) -> Result<Brought, DeployError> {
        let mut brought = Brought::default();
        let mut config = self.control.config()?;
        for _ in 0..MOST_CHANGES {
            let Some(change) = next(&config)? else {
                return Ok(brought);
            };
            if change.is_risky() {
                // What Unit is at, as others have asked for it, was not to be seen.
                self.control.wait_for_others()?;
                let now = self.control.config()?;
                if now != config {
                    config = now;
                    continue;
                }
            }
            let routes = change.routes(&config);
            change.apply(&self.control)?;
            brought.changed = true;
            config = self.control.config()?;
            brought.disturbed |= routes.is_some() && routes.as_ref() != config.get("routes");
        }
        Err(DeployError::Busy(
            "Unit's configuration is being changed by others all the time",
        ))
    }

    /// Changes Unit's configuration, and waits for an answer. After an error, it is
    /// what it was, but for [`DeployError::Silent`].
    pub(super) fn install(
        &self,
        name: &Name,
        deployment: &Deployment,
        record: Option<&Record>,
        ask: &Ask,
        occasion: Occasion,
    ) -> Result<Installed, DeployError> {
        let config = self.control.config()?;
        plan::check_type(&config, name.as_str())?;
        let settings = &deployment.settings;
        let app = self.application(&deployment.digest, settings)?;
        let mut wanted = State::of(name.as_str(), app, settings);
        let current = record.and_then(Record::current);
        // One that is there was put there by hand then.
        wanted.leaves_step =
            wanted.step.is_none() && current.is_none_or(|c| c.settings.routes.is_empty());
        // Whether it fits, before anything is changed.
        plan::changes(&config, name.as_str(), &wanted)?;
        let before = Before::of(&config, name.as_str(), &wanted);
        let mut notes = Vec::new();
        let probe = match self.probe(&config, name, settings, ask) {
            // It did answer when it was deployed.
            Err(DeployError::NoProbe(problem)) if occasion == Occasion::BringUp => {
                notes.push(format!("it was not asked whether it answers: {problem}"));
                None
            }
            Ok(None) if *ask == Ask::Route => {
                let note = "it has no route, and was not asked whether it answers: --probe";
                notes.push(note.to_owned());
                None
            }
            probe => probe?,
        };
        let brought = match self.bring(|config| plan::next(config, name.as_str(), &wanted)) {
            Ok(brought) => brought,
            Err(error) => return Err(self.undo(name, &before, error)),
        };
        if brought.disturbed {
            notes.push(
                "somebody else has changed \"routes\" at the same moment: see whether all is there"
                    .to_owned(),
            );
        }
        let answered = match probe.map(|probe| probe.ask()).transpose() {
            Ok(answered) => answered,
            // Requests fail either way, and it may only wait for something else to start.
            Err(problem) if occasion == Occasion::BringUp && before.had_nothing() => {
                return Err(DeployError::Silent(problem));
            }
            Err(problem) => {
                return Err(self.undo(name, &before, DeployError::Probe(problem)));
            }
        };
        Ok(Installed {
            changed: brought.changed,
            answered,
            before,
            notes,
        })
    }

    /// Brings back what was there, and says why.
    pub(super) fn undo(&self, name: &Name, before: &Before, why: DeployError) -> DeployError {
        for attempt in 1.. {
            match self.bring(|config| before.next(config, name.as_str())) {
                Ok(_) => {
                    return match why {
                        DeployError::Control(error) => DeployError::Undone(error),
                        other => other,
                    };
                }
                // Its router may have crashed, and is being started again.
                Err(_) if attempt < UNDO_ATTEMPTS => std::thread::sleep(UNDO_PAUSE),
                Err(second) => {
                    return DeployError::Stuck {
                        first: Box::new(why),
                        second: Box::new(second),
                    };
                }
            }
        }
        why
    }

    pub(super) fn application(
        &self,
        digest: &Digest,
        settings: &AppSettings,
    ) -> Result<Value, DeployError> {
        let path = self.local().component_path(digest);
        let path = path.ok_or_else(|| StoreError::NoComponent(digest.clone()))?;
        Ok(application(&path, Some(digest), settings))
    }

    /// How the application is to be asked in `config`, once it is there.
    fn probe(
        &self,
        config: &Value,
        name: &Name,
        settings: &AppSettings,
        ask: &Ask,
    ) -> Result<Option<Probe>, DeployError> {
        let app = format!("applications/{name}");
        let path = match (ask, settings.routes.first()) {
            (Ask::Nothing, _) => return Ok(None),
            (Ask::Path(path), _) => path.clone(),
            (Ask::Route, Some(route)) => route::example(route),
            // Who would answer is known if a listener passes to nobody else.
            (Ask::Route, None) => {
                let address = probe::listener(config, &[&app], None).ok();
                return Ok(address.map(|(address, _)| self.question(address, "/", settings)));
            }
        };
        let mut config = config.clone();
        let wanted = settings.listener.as_deref();
        let listeners = config.get_mut("listeners").and_then(Value::as_object_mut);
        match (wanted, listeners) {
            (Some(at), Some(listeners)) if !listeners.contains_key(at) => {
                listeners.insert(at.to_owned(), json!({ "pass": "routes" }));
            }
            (Some(at), None) => {
                let listeners = Map::from_iter([(at.to_owned(), json!({ "pass": "routes" }))]);
                if let Some(config) = config.as_object_mut() {
                    config.insert("listeners".to_owned(), Value::Object(listeners));
                }
            }
            _ => {}
        }
        let address = probe::listener(&config, &["routes", &app], wanted);
        let (address, pass) = address.map_err(DeployError::NoProbe)?;
        let routes = &settings.routes;
        // By a step that was made by hand, any path may lead to it.
        let is_own = routes.is_empty() || routes.iter().any(|route| route::takes(route, &path));
        if pass == "routes" && !is_own {
            return Err(DeployError::NoProbe(format!(
                "--probe {path} is no path of its routes ({}): somebody else would answer",
                routes.join(", ")
            )));
        }
        Ok(Some(self.question(address, &path, settings)))
    }

    fn question(&self, address: Address, path: &str, settings: &AppSettings) -> Probe {
        Probe {
            address,
            path: path.to_owned(),
            host: match &settings.host {
                Some(host) => host.replace('*', "probe"),
                None => "localhost".to_owned(),
            },
            timeout: self.probe_timeout,
        }
    }
}

/// The application object for a component.
pub(super) fn application(path: &Path, digest: Option<&Digest>, settings: &AppSettings) -> Value {
    let mut environment: Map<String, Value> = Map::new();
    let settings_and_variables = settings.environment.iter().chain(&settings.limits);
    for (key, value) in settings_and_variables {
        environment.insert(key.clone(), json!(value));
    }
    if let Some(digest) = digest {
        environment.insert("UNIT_WASM_SHA256".to_owned(), json!(digest));
    }
    let mut app = settings.members.clone();
    app.insert("type".to_owned(), json!("wasm-wasi-component"));
    app.insert("component".to_owned(), json!(path));
    if let Some(processes) = settings.processes {
        app.insert("processes".to_owned(), json!(processes));
    }
    app.insert("environment".to_owned(), Value::Object(environment));
    Value::Object(app)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wish::Wish;

    #[test]
    fn the_application_object() {
        let wish = Wish {
            processes: Some(2),
            environment: vec![("A".to_owned(), "b".to_owned())],
            limits: vec![("UNIT_WASM_FUEL".to_owned(), "5".to_owned())],
            base: Map::from_iter([("user".to_owned(), json!("web"))]),
            ..Wish::default()
        };
        let settings = wish.settings("shop", None).unwrap();
        let digest = Digest::of(b"x");
        let app = application(Path::new("/store/x.wasm"), Some(&digest), &settings);
        let expected = json!({
            "type": "wasm-wasi-component",
            "component": "/store/x.wasm",
            "processes": 2,
            "user": "web",
            "environment": {
                "A": "b",
                "UNIT_WASM_FUEL": "5",
                "UNIT_WASM_SHA256": digest.as_str(),
            },
        });
        assert_eq!(app, expected);
    }
}
