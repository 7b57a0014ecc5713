//! Steps of Unit's `routes` that pass to an application.

use serde_json::{Map, Value, json};

/// Whether Unit takes `pattern` for a path here: one that begins with a slash, which
/// is no regular expression and no negation.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let good = pattern.starts_with('/')
        && !pattern.contains("**")
        && !pattern.contains(|c: char| c.is_whitespace() || c.is_control() || "%?#".contains(c));
    match good {
        true => Ok(()),
        false => Err(format!(
            "route {pattern:?}: a path is needed, with * for any part of it: /shop/*"
        )),
    }
}

/// The step that passes to `name` what has these paths, and this host.
pub fn step(name: &str, patterns: &[String], host: Option<&str>) -> Value {
    let mut conditions = Map::new();
    let uri = match patterns {
        [one] => json!(one),
        many => json!(many),
    };
    conditions.insert("uri".to_owned(), uri);
    if let Some(host) = host {
        conditions.insert("host".to_owned(), json!(host));
    }
    json!({ "match": conditions, "action": { "pass": format!("applications/{name}") } })
}

/// Where the step is that a deployment of `name` has put there: it does nothing but
/// pass to it, by path and host. Others are somebody else's.
pub fn own(steps: &[Value], name: &str) -> Option<usize> {
    let action = json!({ "pass": format!("applications/{name}") });
    steps.iter().position(|step| {
        let conditions = step.get("match").and_then(Value::as_object);
        let ours = |conditions: &Map<String, Value>| {
            let known = |key: &String| ["uri", "host"].contains(&key.as_str());
            conditions.contains_key("uri") && conditions.keys().all(known)
        };
        step.get("action") == Some(&action) && conditions.is_some_and(ours)
    })
}

/// Where a new step belongs: at the front, but behind steps for a part of what it is
/// for, which it would hide.
pub fn place(steps: &[Value], new: &Value) -> usize {
    let mut place = 0;
    for (index, step) in steps.iter().enumerate() {
        match relation(step, new) {
            Relation::Narrower => place = index + 1,
            Relation::Apart => {}
            Relation::Other => break,
        }
    }
    place
}

/// What a step has to do with another one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// It takes a part of what the other takes.
    Narrower,
    /// No request is for both.
    Apart,
    /// Anything else.
    Other,
}

fn relation(step: &Value, new: &Value) -> Relation {
    let (Some(theirs), Some(ours)) = (prefixes(step), prefixes(new)) else {
        return Relation::Other;
    };
    let apart = |their: &String, our: &String| {
        !their.starts_with(our.as_str()) && !our.starts_with(their.as_str())
    };
    if theirs
        .iter()
        .all(|their| ours.iter().all(|our| apart(their, our)))
    {
        return Relation::Apart;
    }
    let has_host = |step: &Value| step.get("match").is_some_and(|m| m.get("host").is_some());
    let by_host = has_host(step) && !has_host(new);
    let narrower = |their: &String| {
        let covers =
            |our: &String| their.starts_with(our.as_str()) && (their.len() > our.len() || by_host);
        ours.iter().any(covers)
    };
    match theirs.iter().all(narrower) {
        true => Relation::Narrower,
        false => Relation::Other,
    }
}

/// What the paths of a step begin with. `None` if that cannot be told.
fn prefixes(step: &Value) -> Option<Vec<String>> {
    let uri = step.get("match")?.get("uri")?;
    let patterns: Vec<&str> = match uri {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    let simple = |pattern: &&str| pattern.starts_with('/');
    if patterns.is_empty() || !patterns.iter().all(simple) {
        return None;
    }
    Some(patterns.into_iter().map(prefix).collect())
}

/// Whether a pattern is for a path. One that Unit would decode or clean up first is taken
/// to be any.
pub fn takes(pattern: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    if path.contains('%') || path.contains("//") || path.contains("/.") {
        return true;
    }
    let Some((begin, rest)) = pattern.split_once('*') else {
        return pattern == path;
    };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let inner = path.strip_prefix(begin).and_then(|p| p.strip_suffix(end));
    let parts = middle.split('*');
    let mut found = inner;
    for part in parts {
        found = found
            .and_then(|left| left.split_once(part))
            .map(|(_, left)| left);
    }
    found.is_some()
}

/// A path that a pattern is for, and as short as can be.
pub fn example(pattern: &str) -> String {
    pattern.trim_end_matches('*').replace('*', "probe")
}

/// What the paths of a pattern begin with.
fn prefix(pattern: &str) -> String {
    pattern.split('*').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, patterns: &[&str]) -> Value {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        step(name, &patterns, None)
    }

    #[test]
    fn patterns() {
        for good in ["/", "/*", "/shop/*", "/a*b", "/shop"] {
            assert_eq!(check_pattern(good), Ok(()), "{good}");
        }
        for bad in ["", "shop", "!/shop", "~^/a", "*", "/a b", "/a?b", "/**"] {
            assert!(check_pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn examples() {
        for (pattern, path) in [
            ("/", "/"),
            ("/*", "/"),
            ("/shop/*", "/shop/"),
            ("/shop", "/shop"),
            ("/api/*/x", "/api/probe/x"),
            ("/a*b*", "/aprobeb"),
        ] {
            assert_eq!(example(pattern), path);
        }
    }

    #[test]
    fn paths_are_those_of_a_pattern() {
        for (pattern, path, taken) in [
            ("/*", "/", true),
            ("/*", "/x?y", true),
            ("/shop", "/shop", true),
            ("/shop", "/shop?/x", true),
            ("/shop", "/shop/", false),
            ("/shop/*", "/shop/health", true),
            ("/shop/*", "/shop", false),
            ("/shop/*", "/health", false),
            ("/shop/*", "/?/shop/", false),
            ("/*.php", "/a.php", true),
            ("/*.php", "/a.phps", false),
            ("/a*a", "/a", false),
            ("/a*a", "/aa", true),
            ("/api/*/x/*/y", "/api/1/x/2/y", true),
            ("/api/*/x/*/y", "/api/1/2/y", false),
            // Who knows what it is.
            ("/shop/*", "/%73hop/x", true),
            ("/shop/*", "//shop/x", true),
            ("/shop/*", "/a/../shop/x", true),
        ] {
            assert_eq!(takes(pattern, path), taken, "{path} for {pattern}");
        }
    }

    #[test]
    fn own_steps_are_told_from_those_of_others() {
        let others = [
            json!({"match": {"uri": "/x"}, "action": {"share": "/www"}}),
            json!({"action": {"pass": "applications/shop"}}),
            json!({"match": {"uri": "/x", "method": "GET"}, "action": {"pass": "applications/shop"}}),
            json!({"match": {"uri": "/x"}, "action": {"pass": "applications/shop", "rewrite": "/"}}),
            of("shop2", &["/shop/*"]),
        ];
        assert_eq!(own(&others, "shop"), None);
        let mut steps = others.to_vec();
        steps.push(of("shop", &["/a", "/b"]));
        assert_eq!(own(&steps, "shop"), Some(5));
        let hosted = step("api", &["/*".to_owned()], Some("api.example.com"));
        assert_eq!(own(&[hosted], "api"), Some(0));
    }

    #[test]
    fn a_new_step_hides_no_narrower_one() {
        let shop = of("shop", &["/shop/*"]);
        let blog = of("blog", &["/blog/*"]);
        let all = of("all", &["/*"]);
        let static_files = json!({"match": {"uri": "!/api"}, "action": {"share": "/www"}});
        let host = step("h", &["/*".to_owned()], Some("a.example.com"));
        for (steps, new, at) in [
            (vec![], &all, 0),
            (vec![shop.clone(), blog.clone()], &all, 2),
            (vec![all.clone()], &shop, 0),
            (vec![blog.clone(), shop.clone()], &of("x", &["/s*"]), 2),
            (vec![static_files, shop.clone()], &all, 0),
            (
                vec![blog.clone(), all.clone(), shop.clone()],
                &of("x", &["/s*"]),
                0,
            ),
            (vec![shop.clone()], &shop, 0),
            (vec![host.clone()], &all, 1),
            (vec![all.clone()], &host, 0),
            (vec![json!({"action": {"return": 404}})], &shop, 0),
        ] {
            assert_eq!(place(&steps, new), at, "{new} among {steps:?}");
        }
    }
}
