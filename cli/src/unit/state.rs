//! What there is of an application in a configuration, or is to be.

use nxt_wasm_store::AppSettings;
use serde_json::{Map, Value};

use super::control::segment;
use super::plan::{Change, PlanError, member, next, steps};
use super::route;

/// What is to be there of an application, or was.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The application object.
    pub app: Option<Value>,
    /// Its step of `routes`.
    pub step: Option<Value>,
    /// Where the step was, among those of others.
    pub at: Option<usize>,
    /// Whether the step is somebody else's business.
    pub leaves_step: bool,
    /// The listener that is to be there.
    pub listener: Option<String>,
}

impl State {
    /// What a deployment is to have.
    pub fn of(name: &str, app: Value, settings: &AppSettings) -> Self {
        let step = (!settings.routes.is_empty())
            .then(|| route::step(name, &settings.routes, settings.host.as_deref()));
        Self {
            app: Some(app),
            step,
            at: None,
            leaves_step: false,
            listener: settings.listener.clone(),
        }
    }

    /// Nothing.
    pub fn none() -> Self {
        Self {
            app: None,
            step: None,
            at: None,
            leaves_step: false,
            listener: None,
        }
    }

    /// What there is of an application now.
    pub fn now(config: &Value, name: &str) -> Self {
        let steps = steps(config).unwrap_or_default();
        let at = route::own(steps, name);
        Self {
            app: member(config, "applications", name).cloned(),
            step: at.and_then(|at| steps.get(at)).cloned(),
            at,
            leaves_step: false,
            listener: None,
        }
    }
}

/// Groups of a configuration, in the order in which Unit lets them go.
const GROUPS: [&str; 3] = ["listeners", "routes", "applications"];

/// What there was of an application, and how to come back to it.
#[derive(Clone, Debug)]
pub struct Before {
    state: State,
    /// The listener that was not there.
    new_listener: Option<String>,
    /// Groups that were not there.
    new_groups: Vec<&'static str>,
}

impl Before {
    /// What is in `config`, which is about to become `wanted`.
    pub fn of(config: &Value, name: &str, wanted: &State) -> Self {
        let is_new = |at: &&String| member(config, "listeners", at).is_none();
        Self {
            state: State {
                leaves_step: wanted.leaves_step,
                ..State::now(config, name)
            },
            new_listener: wanted.listener.as_ref().filter(is_new).cloned(),
            new_groups: GROUPS
                .into_iter()
                .filter(|group| config.get(group).is_none())
                .collect(),
        }
    }

    /// Whether there was no application.
    pub fn had_nothing(&self) -> bool {
        self.state.app.is_none()
    }

    /// The next change on the way back from `config`. None, if it is as it was.
    pub fn next(&self, config: &Value, name: &str) -> Result<Option<Change>, PlanError> {
        let there = |at: &&String| member(config, "listeners", at).is_some();
        if let Some(at) = self.new_listener.as_ref().filter(there) {
            let path = format!("/config/listeners/{}", segment(at));
            return Ok(Some(Change::delete(path)));
        }
        if let Some(change) = next(config, name, &self.state)? {
            return Ok(Some(change));
        }
        let mut groups = self.new_groups.iter();
        let left = groups.find(|group| is_left(config, group));
        Ok(left.map(|group| Change::delete(format!("/config/{group}"))))
    }
}

/// Whether a group is empty, and nothing needs it.
fn is_left(config: &Value, group: &str) -> bool {
    let is_empty = match config.get(group) {
        Some(Value::Object(members)) => members.is_empty(),
        Some(Value::Array(steps)) => steps.is_empty(),
        _ => false,
    };
    let listeners = config.get("listeners").and_then(Value::as_object);
    let mut listeners = listeners.into_iter().flat_map(Map::values);
    let needed = |listener: &Value| listener.get("pass").and_then(Value::as_str) == Some(group);
    is_empty && !listeners.any(needed)
}
