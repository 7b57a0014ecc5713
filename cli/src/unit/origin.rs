//! What of a configuration comes from a module store.

use std::collections::BTreeSet;
use std::path::Path;

use nxt_wasm_store::{Digest, Name, Store};
use serde_json::{Map, Value};

/// Whether a deployment from `store` has made this application: its component is the
/// store's own file, pinned by its digest.
pub fn is_from(app: &Value, store: &Store) -> bool {
    let path = app.get("component").and_then(Value::as_str).map(Path::new);
    let Some(digest) = path.and_then(|path| digest(path.to_str()?)) else {
        return false;
    };
    pinned(app) == Some(digest.as_str()) && store.component_path(&digest).as_deref() == path
}

/// The digest that an application pins its component by.
pub fn pinned(app: &Value) -> Option<&str> {
    app.pointer("/environment/UNIT_WASM_SHA256")
        .and_then(Value::as_str)
}

/// The applications of `config` that deployments from `store` have made.
pub fn names(config: &Value, store: &Store) -> Vec<Name> {
    let apps = config.get("applications").and_then(Value::as_object);
    let apps = apps.into_iter().flat_map(Map::iter);
    let ours = apps.filter(|(_, app)| is_from(app, store));
    ours.filter_map(|(name, _)| name.parse().ok()).collect()
}

/// Components that a configuration names, wherever that is: by a file or an object that
/// is called by its digest, or by the digest alone.
pub fn digests(config: &Value) -> BTreeSet<Digest> {
    let mut all = BTreeSet::new();
    collect(config, &mut all);
    all
}

fn collect(value: &Value, all: &mut BTreeSet<Digest>) {
    match value {
        Value::String(text) => all.extend(digest(text)),
        Value::Array(values) => values.iter().for_each(|value| collect(value, all)),
        Value::Object(members) => members.values().for_each(|value| collect(value, all)),
        _ => {}
    }
}

/// The digest that a text ends with.
fn digest(text: &str) -> Option<Digest> {
    let path = text.split('?').next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    name.strip_suffix(".wasm").unwrap_or(name).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nxt_wasm_store::Access;
    use serde_json::json;

    #[test]
    fn applications_of_a_store_are_told_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let access = Access {
            create: true,
            ..Access::default()
        };
        let open = |name: &str| {
            let path = dir.path().join(name);
            Store::open(path.to_str().unwrap(), &access).unwrap()
        };
        let (store, other) = (open("store"), open("other"));
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let app = |path: &Path, pinned: &str| json!({ "component": path, "environment": { "UNIT_WASM_SHA256": pinned } });
        let path = store.component_path(&one).unwrap();
        let ours = app(&path, one.as_str());
        assert!(is_from(&ours, &store));
        assert!(!is_from(&ours, &other));
        assert!(!is_from(&app(&path, two.as_str()), &store));
        assert!(!is_from(&json!({ "component": path }), &store));
        assert!(!is_from(&app(Path::new("/srv/a.wasm"), "any"), &store));
        let config = json!({ "applications": { "a": ours, "b": { "type": "php" } } });
        let names = names(&config, &store);
        assert_eq!(names, ["a".parse::<Name>().unwrap()]);
    }

    #[test]
    fn components_that_are_named_are_found() {
        let all: Vec<Digest> = (0..4_u8).map(|n| Digest::of(&[n])).collect();
        let config = json!({ "applications": {
            "a": { "component": format!("/var/lib/nxt-wasm/components/{}.wasm", all[0]) },
            "b": { "component": format!("s3://b/components/{}.wasm?region=r", all[1]) },
            "c": { "component": "/srv/c.wasm", "environment": { "UNIT_WASM_SHA256": all[2] } },
            "d": { "type": "wasm", "module": format!("{}.wasm", all[3]), "processes": 1 },
        }});
        assert_eq!(digests(&config), all.into_iter().collect());
    }
}
