//! What has to change in a configuration for a deployment, and in which order.
//!
//! Only what belongs to the application is touched: itself, its step of `routes`, and
//! a listener if one is asked for that is not there.

use serde_json::{Map, Value, json};

use super::control::{Control, ControlError, segment};
use super::route;
use super::state::State;

/// Why an application cannot be deployed into this configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There are named routes.
    #[error(
        "the configuration has named routes, among which none can be chosen: add a step that \
         passes to applications/{0} by hand, and deploy with --no-route"
    )]
    NamedRoutes(String),
    /// The listener is there for something else.
    #[error("the listener {at} passes to {pass:?}, and is left alone: choose another --listener")]
    Listener {
        /// Its address.
        at: String,
        /// What it passes to.
        pass: String,
    },
    /// Others pass to the application.
    #[error("applications/{name} is still used by {}: change that first", .by.join(", "))]
    InUse {
        /// Its name.
        name: String,
        /// Where.
        by: Vec<String>,
    },
    /// The name has another application already.
    #[error(
        "there is an application \"{0}\" of another type, which was not deployed by nxt-wasm: \
         choose another --name"
    )]
    Foreign(String),
    /// The name has an application of our type that others have made.
    #[error(
        "there is an application \"{0}\" that this store did not put there and has no record of: \
         deploying would replace all of it, with its user, access and environment. Choose another \
         --name, or take it over: `nxt-wasm deploy --take-over`"
    )]
    NotOurs(String),
}

/// A change of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where.
    pub path: String,
    /// What is to be there; nothing if it is to go.
    pub value: Option<Value>,
}

impl Change {
    fn put(path: String, value: Value) -> Self {
        let value = Some(value);
        Self { path, value }
    }

    pub(super) fn delete(path: String) -> Self {
        Self { path, value: None }
    }

    /// Whether it puts or takes away more than what is the application's own, if what
    /// is at its path is not what was read.
    pub fn is_risky(&self) -> bool {
        let path = self.path.strip_prefix("/config/").unwrap_or_default();
        !path.contains('/') || path.starts_with("routes/")
    }

    /// What `routes` of `config` is after it, if that is what it changes.
    pub fn routes(&self, config: &Value) -> Option<Value> {
        let at = self.path.strip_prefix("/config/routes")?;
        let Some(index) = at.strip_prefix('/') else {
            return self.value.clone();
        };
        let index: usize = index.parse().ok()?;
        let mut steps = steps(config)?.to_vec();
        match &self.value {
            Some(step) => *steps.get_mut(index)? = step.clone(),
            None => drop((index < steps.len()).then(|| steps.remove(index))?),
        }
        Some(Value::Array(steps))
    }

    /// Has Unit do it.
    pub fn apply(&self, control: &Control) -> Result<(), ControlError> {
        match &self.value {
            Some(value) => control.put(&self.path, value),
            None => control.delete(&self.path),
        }
    }
}

/// A member of a group of a configuration.
pub fn member<'a>(config: &'a Value, group: &str, name: &str) -> Option<&'a Value> {
    config.get(group)?.get(name)
}

/// The steps of `routes`, if it has no names.
pub(super) fn steps(config: &Value) -> Option<&[Value]> {
    match config.get("routes") {
        None => Some(&[]),
        Some(Value::Array(steps)) => Some(steps),
        Some(_) => None,
    }
}

/// Sets a member of a group that may not be there yet.
fn put_member(config: &Value, group: &str, name: &str, value: Value) -> Change {
    match config.get(group) {
        Some(Value::Object(_)) => Change::put(format!("/config/{group}/{}", segment(name)), value),
        _ => {
            let members = Map::from_iter([(name.to_owned(), value)]);
            Change::put(format!("/config/{group}"), Value::Object(members))
        }
    }
}

/// Whether an application of this name is none of ours.
pub fn check_type(config: &Value, name: &str) -> Result<(), PlanError> {
    let app = member(config, "applications", name);
    let kind = app.and_then(|app| app.get("type")?.as_str()?.split(' ').next());
    match kind {
        None | Some("wasm-wasi-component") => Ok(()),
        Some(_) => Err(PlanError::Foreign(name.to_owned())),
    }
}

/// The first of [`changes`].
pub fn next(config: &Value, name: &str, wanted: &State) -> Result<Option<Change>, PlanError> {
    Ok(changes(config, name, wanted)?.into_iter().next())
}

/// What brings the application from where it is in `config` to `wanted`, in an order in
/// which Unit takes it. Nothing, if it is there.
pub fn changes(config: &Value, name: &str, wanted: &State) -> Result<Vec<Change>, PlanError> {
    let mut changes = Vec::new();
    let now = State::now(config, name);
    if let Some(app) = wanted
        .app
        .as_ref()
        .filter(|app| now.app.as_ref() != Some(app))
    {
        changes.push(put_member(config, "applications", name, app.clone()));
    }
    if !wanted.leaves_step {
        changes.extend(step_change(config, name, wanted)?);
    }
    if let Some(at) = &wanted.listener {
        match member(config, "listeners", at) {
            None => {
                // Unit takes no listener that passes to what is not there.
                let has_step = wanted.step.is_some() && !wanted.leaves_step;
                if config.get("routes").is_none() && !has_step {
                    changes.push(Change::put("/config/routes".to_owned(), json!([])));
                }
                let listener = json!({ "pass": "routes" });
                changes.push(put_member(config, "listeners", at, listener));
            }
            Some(listener) => {
                let pass = listener.get("pass").and_then(Value::as_str);
                let own = format!("applications/{name}");
                if pass != Some("routes") && pass != Some(&own) {
                    return Err(PlanError::Listener {
                        at: at.clone(),
                        pass: pass.unwrap_or_default().to_owned(),
                    });
                }
            }
        }
    }
    if wanted.app.is_none() && now.app.is_some() {
        let path = format!("/config/applications/{}", segment(name));
        changes.push(Change::delete(path));
    }
    Ok(changes)
}

fn step_change(config: &Value, name: &str, wanted: &State) -> Result<Option<Change>, PlanError> {
    let Some(steps) = steps(config) else {
        return match wanted.step {
            Some(_) => Err(PlanError::NamedRoutes(name.to_owned())),
            None => Ok(None),
        };
    };
    let own = route::own(steps, name);
    Ok(match (own, &wanted.step) {
        (None, None) => None,
        (Some(at), Some(step)) if steps.get(at) == Some(step) => None,
        (Some(at), Some(step)) => Some(Change::put(format!("/config/routes/{at}"), step.clone())),
        (Some(at), None) => Some(Change::delete(format!("/config/routes/{at}"))),
        (None, Some(step)) => {
            let was = wanted.at.filter(|at| *at <= steps.len());
            let place = was.unwrap_or_else(|| route::place(steps, step));
            let mut steps = steps.to_vec();
            steps.insert(place, step.clone());
            Some(Change::put(
                "/config/routes".to_owned(),
                Value::Array(steps),
            ))
        }
    })
}

/// Who else passes to an application.
pub fn check_unused(config: &Value, name: &str) -> Result<(), PlanError> {
    let mut by = Vec::new();
    let own = steps(config).and_then(|steps| route::own(steps, name));
    let own = own.map(|at| format!("routes/{at}"));
    let target = format!("applications/{name}");
    for (group, value) in config.as_object().into_iter().flatten() {
        if group != "applications" {
            find(value, &target, group, own.as_deref(), &mut by);
        }
    }
    match by.is_empty() {
        true => Ok(()),
        false => Err(PlanError::InUse {
            name: name.to_owned(),
            by,
        }),
    }
}

/// Paths of strings that are `target`, or lead into it, but for those under `except`.
fn find(value: &Value, target: &str, at: &str, except: Option<&str>, found: &mut Vec<String>) {
    if except == Some(at) {
        return;
    }
    match value {
        Value::String(text) => {
            let rest = text.strip_prefix(target);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                found.push(at.to_owned());
            }
        }
        Value::Array(all) => {
            for (index, one) in all.iter().enumerate() {
                find(one, target, &format!("{at}/{index}"), except, found);
            }
        }
        Value::Object(all) => {
            for (name, one) in all {
                find(one, target, &format!("{at}/{name}"), except, found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Before;
    use super::*;
    use nxt_wasm_store::AppSettings;

    fn settings(listener: Option<&str>) -> AppSettings {
        AppSettings {
            routes: vec!["/shop/*".to_owned()],
            listener: listener.map(str::to_owned),
            ..AppSettings::default()
        }
    }

    fn wanted(version: u32, listener: Option<&str>) -> State {
        let app = json!({ "type": "wasm-wasi-component", "component": version });
        State::of("shop", app, &settings(listener))
    }

    /// What Unit makes of changes.
    fn apply(config: &Value, changes: &[Change]) -> Value {
        let mut config = config.clone();
        for change in changes {
            let path = change.path.strip_prefix("/config").unwrap();
            let path = path.replace("%2A", "*").replace("%3A", ":");
            let (parent, last) = path.rsplit_once('/').unwrap();
            let parent = config
                .pointer_mut(parent)
                .expect("the parent has to be there");
            match (parent, &change.value) {
                (Value::Object(members), Some(value)) => {
                    members.insert(last.to_owned(), value.clone());
                }
                (Value::Object(members), None) => drop(members.remove(last).unwrap()),
                (Value::Array(all), Some(value)) => {
                    all[last.parse::<usize>().unwrap()] = value.clone();
                }
                (Value::Array(all), None) => drop(all.remove(last.parse().unwrap())),
                _ => panic!("no parent of {path}"),
            }
        }
        config
    }

    #[test]
    fn a_first_deployment_adds_what_is_not_there() {
        let step = route::step("shop", &["/shop/*".to_owned()], None);
        for before in [
            json!({}),
            json!({ "listeners": {}, "routes": [], "applications": {} }),
        ] {
            let wanted = wanted(1, Some("*:8080"));
            let changes = changes(&before, "shop", &wanted).unwrap();
            let after = apply(&before, &changes);
            assert_eq!(
                after["listeners"],
                json!({ "*:8080": { "pass": "routes" } })
            );
            assert_eq!(after["routes"], json!([step]));
            assert_eq!(after["applications"]["shop"]["component"], 1);
            // And a second time, there is nothing to do.
            assert_eq!(super::changes(&after, "shop", &wanted), Ok(Vec::new()));
        }
    }

    #[test]
    fn nothing_of_others_is_touched_and_it_comes_back() {
        let before = json!({
            "settings": { "http": { "max_body_size": 1 } },
            "listeners": { "*:80": { "pass": "routes" } },
            "routes": [{ "match": { "uri": "/old/*" }, "action": { "return": 410 } }],
            "applications": { "php": { "type": "php" } },
        });
        let first = changes(&before, "shop", &wanted(1, Some("*:80"))).unwrap();
        let one = apply(&before, &first);
        let second = changes(&one, "shop", &wanted(2, None)).unwrap();
        let paths: Vec<&str> = second.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["/config/applications/shop"]);
        let two = apply(&one, &second);
        assert_eq!(two["routes"][1], before["routes"][0]);
        let back = changes(&two, "shop", &State::now(&one, "shop")).unwrap();
        assert_eq!(apply(&two, &back), one);
        let gone = changes(&two, "shop", &State::none()).unwrap();
        assert_eq!(apply(&two, &gone), before);
        // The step goes before what it passes to.
        assert!(gone[0].path.starts_with("/config/routes/"));
    }

    #[test]
    fn what_was_there_comes_back_where_it_was() {
        let step = route::step("shop", &["/shop/*".to_owned()], None);
        let other = |path: &str| json!({ "match": { "uri": path }, "action": { "return": 410 } });
        for before in [
            json!({}),
            json!({ "listeners": { "*:80": { "pass": "routes" } }, "routes": [] }),
            json!({
                "routes": [other("/a"), other("/b"), step, other("/c")],
                "applications": { "shop": { "type": "wasm-wasi-component", "component": 1 } },
            }),
        ] {
            let mut there = wanted(2, Some("*:8080"));
            for step in [there.step.clone(), None] {
                there.step = step;
                let back = Before::of(&before, "shop", &there);
                let changes = changes(&before, "shop", &there).unwrap();
                let mut config = apply(&before, &changes);
                assert_ne!(config, before);
                for _ in 0..9 {
                    let change = back.next(&config, "shop").unwrap();
                    config = apply(&config, &Vec::from_iter(change));
                }
                assert_eq!(config, before);
            }
        }
    }

    #[test]
    fn what_a_change_makes_of_routes() {
        let config = json!({ "routes": [1, 2, 3] });
        let at = |path: &str, value: Option<Value>| Change {
            path: format!("/config/{path}"),
            value,
        };
        for (change, routes) in [
            (at("routes", Some(json!([4]))), Some(json!([4]))),
            (at("routes/1", Some(json!(4))), Some(json!([1, 4, 3]))),
            (at("routes/1", None), Some(json!([1, 3]))),
            (at("routes/3", None), None),
            (at("applications", Some(json!({}))), None),
        ] {
            assert_eq!(change.routes(&config), routes, "{change:?}");
            assert!(change.is_risky(), "{change:?}");
        }
        assert!(!at("applications/a", None).is_risky());
        assert!(!at("listeners/a", None).is_risky());
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let named = json!({ "routes": { "main": [] } });
        let error = changes(&named, "shop", &wanted(1, None)).unwrap_err();
        assert_eq!(error, PlanError::NamedRoutes("shop".to_owned()));
        let other = json!({ "listeners": { "*:80": { "pass": "applications/php" } } });
        let error = changes(&other, "shop", &wanted(1, Some("*:80"))).unwrap_err();
        assert!(matches!(error, PlanError::Listener { .. }));
        let php = json!({ "applications": { "shop": { "type": "php" } } });
        assert!(check_type(&php, "shop").is_err());
        assert!(check_type(&php, "shop2").is_ok());
    }

    #[test]
    fn who_uses_an_application_is_found() {
        let step = route::step("shop", &["/shop/*".to_owned()], None);
        let mut config = json!({
            "routes": [step],
            "listeners": { "*:80": { "pass": "routes" } },
            "applications": { "shop": { "x": "applications/shop" } },
        });
        assert_eq!(check_unused(&config, "shop"), Ok(()));
        config["listeners"]["*:81"] = json!({ "pass": "applications/shop" });
        config["listeners"]["*:82"] = json!({ "pass": "applications/shop2" });
        let error = check_unused(&config, "shop").unwrap_err().to_string();
        assert!(error.contains("used by listeners/*:81/pass:"), "{error}");
    }
}
