//! What a deployer asks for, and the settings that it comes to.

use nxt_wasm_store::AppSettings;
use serde_json::{Map, Value};

use crate::unit::{probe, route};

/// Keys of the environment that are settings.
const PREFIX: &str = "UNIT_WASM_";
/// Set by deployments themselves.
const SHA256: &str = "UNIT_WASM_SHA256";
/// Members of an application that deployments set themselves.
const OWN: [&str; 3] = ["type", "component", "module"];
/// Processes of an application, at most.
const MOST_PROCESSES: u32 = 1024;

/// Settings as they are asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Patterns of paths.
    pub routes: Vec<String>,
    /// There is to be no route.
    pub no_route: bool,
    /// The host of the route.
    pub host: Option<String>,
    /// The listener that is to be there.
    pub listener: Option<String>,
    /// Processes.
    pub processes: Option<u32>,
    /// What the guest sees.
    pub environment: Vec<(String, String)>,
    /// Limits and grants.
    pub limits: Vec<(String, String)>,
    /// An application object to begin with.
    pub base: Map<String, Value>,
    /// Begin with what is deployed now.
    pub keep: bool,
}

/// `KEY=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is needed")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Wish {
    /// The settings of the application `name`, of which `current` are deployed.
    pub fn settings(
        &self,
        name: &str,
        current: Option<&AppSettings>,
    ) -> Result<AppSettings, String> {
        let mut settings = match current.filter(|_| self.keep) {
            Some(current) => current.clone(),
            None => AppSettings {
                routes: vec![format!("/{name}/*")],
                ..AppSettings::default()
            },
        };
        self.take_base(&mut settings)?;
        if !self.routes.is_empty() {
            settings.routes.clone_from(&self.routes);
        }
        if self.no_route {
            settings.routes.clear();
            settings.host = None;
        }
        settings.host = self.host.clone().or(settings.host);
        settings.listener = self.listener.clone().or(settings.listener);
        settings.processes = self.processes.or(settings.processes);
        for (key, value) in &self.environment {
            if key.starts_with(PREFIX) {
                return Err(format!(
                    "{key} is a setting, not part of the environment: --set"
                ));
            }
            settings.environment.insert(key.clone(), value.clone());
        }
        for (key, value) in &self.limits {
            if !key.starts_with(PREFIX) {
                return Err(format!(
                    "{key} is no setting, which begin with {PREFIX}: --env"
                ));
            }
            settings.limits.insert(key.clone(), value.clone());
        }
        check(&settings)?;
        Ok(settings)
    }

    fn take_base(&self, settings: &mut AppSettings) -> Result<(), String> {
        for (member, value) in &self.base {
            if OWN.contains(&member.as_str()) {
                return Err(format!(
                    "the base has \"{member}\", which a deployment sets itself"
                ));
            }
            if member != "environment" {
                settings.members.insert(member.clone(), value.clone());
                continue;
            }
            let text =
                |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
            let pairs = value
                .as_object()
                .and_then(|all| all.iter().map(text).collect());
            let pairs: Vec<_> = pairs.ok_or("the base's environment is no object of strings")?;
            for (key, value) in pairs {
                match key.starts_with(PREFIX) {
                    true => settings.limits.insert(key, value),
                    false => settings.environment.insert(key, value),
                };
            }
        }
        Ok(())
    }
}

fn check(settings: &AppSettings) -> Result<(), String> {
    settings
        .routes
        .iter()
        .try_for_each(|r| route::check_pattern(r))?;
    if let Some(host) = &settings.host {
        let good = |b: u8| b.is_ascii_alphanumeric() || b".-*:[]_".contains(&b);
        if host.is_empty() || !host.bytes().all(good) {
            return Err(format!(
                "host {host:?}: a name is needed: www.example.com, *.example.com"
            ));
        }
        if settings.routes.is_empty() {
            return Err("a host without a route".to_owned());
        }
    }
    if let Some(listener) = &settings.listener {
        probe::check_listener(listener)?;
    }
    if settings
        .processes
        .is_some_and(|n| !(1..=MOST_PROCESSES).contains(&n))
    {
        return Err(format!("processes: 1 to {MOST_PROCESSES} are possible"));
    }
    let wrong = |key: &&String| key.is_empty() || key.contains(['=', '\0']);
    if let Some(key) = settings.environment.keys().find(wrong) {
        return Err(format!("{key:?} cannot be the name of a variable"));
    }
    if settings.limits.contains_key(SHA256) {
        return Err(format!("{SHA256} is set by the deployment itself"));
    }
    let isolation = settings.members.get("isolation");
    if isolation.is_some_and(|isolation| isolation.get("rootfs").is_some()) {
        return Err("with isolation.rootfs, the store would not be found".to_owned());
    }
    settings.check_size()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pairs(all: &[&str]) -> Vec<(String, String)> {
        all.iter().map(|text| pair(text).unwrap()).collect()
    }

    #[test]
    fn a_plain_wish_gets_a_route_of_its_name() {
        let settings = Wish::default().settings("shop", None).unwrap();
        assert_eq!(settings.routes, ["/shop/*"]);
        let wish = Wish {
            no_route: true,
            ..Wish::default()
        };
        assert!(wish.settings("shop", None).unwrap().routes.is_empty());
    }

    #[test]
    fn what_is_kept_is_changed_where_it_is_asked_for() {
        let base = json!({ "user": "web", "environment": { "A": "1", "UNIT_WASM_FUEL": "5" } });
        let first = Wish {
            routes: vec!["/a/*".to_owned()],
            environment: pairs(&["B=2", "C=x=y"]),
            limits: pairs(&["UNIT_WASM_MEMORY=64MiB"]),
            processes: Some(2),
            base: base.as_object().unwrap().clone(),
            ..Wish::default()
        };
        let one = first.settings("shop", None).unwrap();
        assert_eq!(one.environment["A"], "1");
        assert_eq!(one.environment["C"], "x=y");
        assert_eq!(one.limits["UNIT_WASM_FUEL"], "5");
        assert_eq!(one.members["user"], "web");
        let second = Wish {
            environment: pairs(&["B=3"]),
            keep: true,
            ..Wish::default()
        };
        let two = second.settings("shop", Some(&one)).unwrap();
        let mut expected = one.clone();
        expected.environment.insert("B".to_owned(), "3".to_owned());
        assert_eq!(two, expected);
        // Not kept unless that is asked for.
        let plain = Wish::default().settings("shop", Some(&one)).unwrap();
        assert!(plain.environment.is_empty() && plain.members.is_empty());
    }

    #[test]
    fn bad_wishes_are_refused() {
        let wish = |change: &dyn Fn(&mut Wish)| {
            let mut wish = Wish::default();
            change(&mut wish);
            wish.settings("shop", None).unwrap_err()
        };
        let base = |value: Value| wish(&|w| w.base = value.as_object().unwrap().clone());
        for (error, problem) in [
            (
                wish(&|w| w.routes = vec!["shop".into()]),
                "a path is needed",
            ),
            (wish(&|w| w.host = Some("~x".into())), "a name is needed"),
            (
                wish(&|w| w.listener = Some("8080".into())),
                "an address is needed",
            ),
            (wish(&|w| w.processes = Some(0)), "processes"),
            (
                wish(&|w| w.environment = pairs(&["UNIT_WASM_FUEL=1"])),
                "--set",
            ),
            (
                wish(&|w| w.environment = pairs(&["=1"])),
                "name of a variable",
            ),
            (wish(&|w| w.limits = pairs(&["FUEL=1"])), "--env"),
            (
                wish(&|w| w.limits = pairs(&["UNIT_WASM_SHA256=1"])),
                "by the deployment itself",
            ),
            (
                wish(&|w| w.environment = vec![("A".into(), "x".repeat(300_000))]),
                "262144 are possible",
            ),
            (base(json!({ "component": "/x" })), "sets itself"),
            (
                base(json!({ "environment": { "A": 1 } })),
                "object of strings",
            ),
            (base(json!({ "isolation": { "rootfs": "/" } })), "rootfs"),
            (
                base(json!({ "environment": { "UNIT_WASM_SHA256": "x" } })),
                "itself",
            ),
        ] {
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }
}
