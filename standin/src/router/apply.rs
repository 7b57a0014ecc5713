//! Taking a configuration into effect.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::app::App;
use super::listener::{self, Listener};
use super::site::{Http, Site};
use super::{Faults, Router};
use crate::log::{Level, log};
use crate::module;
use crate::sys::shared::FAULTY;

/// The name of the kept configuration.
const KEPT: &str = "conf.json";

fn members<'a>(config: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    config
        .get(name)
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::iter)
}

/// Applies a valid configuration: all of it, or nothing.
pub async fn apply(router: &Rc<Router>, config: Value) -> Result<(), String> {
    let old = Rc::clone(&router.site.borrow());
    let mut apps = HashMap::new();
    let mut started = Vec::new();
    let mut failure = None;
    for (name, object) in members(&config, "applications") {
        if let Some(same) = old.apps.get(name).filter(|app| app.object == *object) {
            apps.insert(name.clone(), Rc::clone(same));
            continue;
        }
        match make(router, name, object) {
            Ok(app) => {
                started.push(Rc::clone(&app));
                if app.start().await {
                    apps.insert(name.clone(), app);
                } else {
                    failure = Some(format!("failed to start application \"{name}\""));
                }
            }
            Err(error) => failure = Some(format!("application \"{name}\": {error}")),
        }
        if failure.is_some() {
            break;
        }
    }
    let mut opened = HashMap::new();
    if failure.is_none() {
        match open_listeners(router, &config).await {
            Ok(listeners) => opened = listeners,
            Err(error) => failure = Some(error),
        }
    }
    if let Some(failure) = failure {
        for app in started {
            app.stop();
            router.leaving.borrow_mut().push(app);
        }
        router.forget_faults();
        return Err(failure);
    }
    take_over(
        router,
        &old,
        Site {
            http: Http::of(&config),
            config,
            apps,
        },
        opened,
    );
    Ok(())
}

fn make(router: &Router, name: &str, object: &Value) -> io::Result<Rc<App>> {
    let kind = object.get("type").and_then(Value::as_str);
    let module = module::find(&router.modules, kind.unwrap_or_default())
        .ok_or_else(|| io::Error::other("no such module"))?;
    let faults = router.fault_words(name)?;
    App::new(name, object, module.file.clone(), faults)
}

async fn open_listeners(
    router: &Rc<Router>,
    config: &Value,
) -> Result<HashMap<String, Listener>, String> {
    let mut opened = HashMap::new();
    for (name, _) in members(config, "listeners") {
        if !router.listeners.borrow().contains_key(name) {
            let listener = listener::open(router, name)
                .await
                .map_err(|error| format!("bind(\"{name}\") failed: {error}"))?;
            opened.insert(name.clone(), listener);
        }
    }
    Ok(opened)
}

fn take_over(router: &Router, old: &Site, new: Site, opened: HashMap<String, Listener>) {
    let mut listeners = router.listeners.borrow_mut();
    listeners.extend(opened);
    let wanted: Vec<_> = members(&new.config, "listeners")
        .map(|(name, _)| name)
        .collect();
    listeners.retain(|name, _| wanted.contains(&name));
    drop(listeners);
    for (name, app) in &old.apps {
        let stays = new
            .apps
            .get(name)
            .is_some_and(|other| Rc::ptr_eq(other, app));
        if !stays {
            app.remove();
            router.leaving.borrow_mut().push(Rc::clone(app));
        }
    }
    if let Some(directory) = &router.state
        && let Err(error) = keep(directory, &new.config)
    {
        log(Level::Alert, format!("configuration not kept: {error}"));
    }
    router.site.replace(Rc::new(new));
    router.forget_faults();
}

fn keep(directory: &std::path::Path, config: &Value) -> io::Result<()> {
    let next = directory.join(format!("{KEPT}.tmp"));
    fs::write(&next, config.to_string())?;
    fs::rename(next, directory.join(KEPT))
}

/// The configuration that was kept, if there is one.
pub fn kept(directory: &std::path::Path) -> Option<Value> {
    let bytes = fs::read(directory.join(KEPT)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Sets the faults of an application; an empty object ends them.
pub fn set_faults(router: &Router, name: &str, object: &Value) -> Result<(), String> {
    use std::sync::atomic::{AtomicU64, Ordering};
    let members = object.as_object().ok_or("faults must be an object")?;
    let words = router
        .fault_words(name)
        .map_err(|error| error.to_string())?;
    let number = |value: &Value, name: &str| {
        value
            .as_u64()
            .ok_or_else(|| format!("\"{name}\" must be a number, not negative"))
    };
    let limits: [(&[&str], &AtomicU64); 4] = [
        (&["shm_limit"], &words.shm_limit),
        (&["write_nb_max"], &words.write_nb_max),
        (&["quit_after_requests", "quit_after"], &words.quit_after),
        (&["kill_after_requests", "kill_after"], &words.kill_after),
    ];
    for name in members.keys() {
        let known = limits
            .iter()
            .any(|(names, _)| names.contains(&name.as_str()));
        if name != "fail" && name != "block" && !known {
            return Err(format!("unknown fault \"{name}\""));
        }
    }
    // Everything is checked before anything is set.
    let mut settings = Vec::new();
    for (names, word) in limits {
        let mut value = 0;
        for name in names {
            if let Some(given) = members.get(*name) {
                value = number(given, name)?.saturating_add(1);
            }
        }
        settings.push((word, value));
    }
    let none = Map::new();
    let functions = |member: &str| -> Result<&Map<String, Value>, String> {
        let object = match members.get(member) {
            None => &none,
            Some(value) => value
                .as_object()
                .ok_or_else(|| format!("\"{member}\" must be an object"))?,
        };
        match object.keys().find(|name| !FAULTY.contains(&name.as_str())) {
            Some(name) => Err(format!("\"{member}\": unknown function \"{name}\"")),
            None => Ok(object),
        }
    };
    let (fail, block) = (functions("fail")?, functions("block")?);
    for (name, word) in FAULTY.iter().zip(&words.fail) {
        let (mut nth, mut every) = (0, 0);
        match fail.get(*name) {
            None => {}
            Some(Value::Object(members)) => {
                for (member, value) in members {
                    match member.as_str() {
                        "nth" => nth = number(value, "nth")?,
                        "every" => every = number(value, "every")?,
                        _ => return Err(format!("\"{name}\": unknown member \"{member}\"")),
                    }
                }
            }
            Some(value) => nth = number(value, name)?,
        }
        settings.push((&word.nth, nth));
        settings.push((&word.every, every));
        let seconds = match block.get(*name) {
            None => 0,
            Some(value) => number(value, name)?,
        };
        settings.push((&word.block, seconds));
    }
    for (word, value) in settings {
        word.store(value, Ordering::Relaxed);
    }
    words.epoch.fetch_add(1, Ordering::Release);
    let known = Faults {
        object: object.clone(),
        words: Rc::clone(&words),
    };
    router.faults.borrow_mut().insert(name.to_owned(), known);
    let site = Rc::clone(&router.site.borrow());
    if let Some(app) = site.apps.get(name) {
        app.window_changed();
    }
    router.forget_faults();
    Ok(())
}
