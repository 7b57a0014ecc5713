//! Reaching into the configuration by the path of a URI.

use serde_json::{Map, Value};

/// Why a change is not possible.
#[derive(Debug, PartialEq, Eq)]
pub enum NoChange {
    /// Something on the way does not exist.
    NotFound,
    /// Not with this method.
    NotAllowed,
}

/// The decoded segments of a path.
pub fn segments(path: &str) -> Option<Vec<String>> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| String::from_utf8(crate::http::target::decode(segment.as_bytes())?).ok())
        .collect()
}

fn step<'a>(value: &'a Value, segment: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => members.get(segment),
        Value::Array(elements) => elements.get(segment.parse::<usize>().ok()?),
        _ => None,
    }
}

fn step_mut<'a>(value: &'a mut Value, segment: &str) -> Option<&'a mut Value> {
    match value {
        Value::Object(members) => members.get_mut(segment),
        Value::Array(elements) => elements.get_mut(segment.parse::<usize>().ok()?),
        _ => None,
    }
}

/// The value at a path.
pub fn get<'a>(root: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter()
        .try_fold(root, |value, segment| step(value, segment))
}

fn parent<'a, 'p>(
    root: &'a mut Value,
    path: &'p [String],
) -> Result<(&'a mut Value, &'p str), NoChange> {
    let (last, way) = path.split_last().ok_or(NoChange::NotAllowed)?;
    let parent = way
        .iter()
        .try_fold(root, |value, segment| step_mut(value, segment))
        .ok_or(NoChange::NotFound)?;
    Ok((parent, last))
}

/// Puts a value; the parent must exist.
pub fn put(root: &mut Value, path: &[String], new: Value) -> Result<(), NoChange> {
    if path.is_empty() {
        *root = new;
        return Ok(());
    }
    let (parent, last) = parent(root, path)?;
    match parent {
        Value::Object(members) => drop(members.insert(last.to_owned(), new)),
        Value::Array(_) => *step_mut(parent, last).ok_or(NoChange::NotFound)? = new,
        _ => return Err(NoChange::NotFound),
    }
    Ok(())
}

/// Appends to an array.
pub fn post(root: &mut Value, path: &[String], new: Value) -> Result<(), NoChange> {
    let at = path
        .iter()
        .try_fold(root, |value, segment| step_mut(value, segment))
        .ok_or(NoChange::NotFound)?;
    let elements = at.as_array_mut().ok_or(NoChange::NotAllowed)?;
    elements.push(new);
    Ok(())
}

/// Removes a value.
pub fn delete(root: &mut Value, path: &[String]) -> Result<(), NoChange> {
    if path.is_empty() {
        *root = Value::Object(Map::new());
        return Ok(());
    }
    let (parent, last) = parent(root, path)?;
    let found = match parent {
        Value::Object(members) => members.shift_remove(last).is_some(),
        Value::Array(elements) => match last.parse::<usize>() {
            Ok(index) if index < elements.len() => {
                elements.remove(index);
                true
            }
            _ => false,
        },
        _ => false,
    };
    found.then_some(()).ok_or(NoChange::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn path(text: &str) -> Vec<String> {
        segments(text).unwrap()
    }

    #[test]
    fn paths_lead_through_objects_and_arrays() {
        let mut root = json!({"a": {"*:80": [1, 2]}});
        assert_eq!(get(&root, &path("/a/*:80/1")), Some(&json!(2)));
        assert_eq!(get(&root, &path("/a/%2A%3A80/0/")), Some(&json!(1)));
        assert_eq!(get(&root, &path("/a/b")), None);
        assert_eq!(put(&mut root, &path("/a/b"), json!("x")), Ok(()));
        assert_eq!(put(&mut root, &path("/a/*:80/0"), json!(7)), Ok(()));
        assert_eq!(
            put(&mut root, &path("/n/b"), json!(0)),
            Err(NoChange::NotFound)
        );
        assert_eq!(post(&mut root, &path("/a/*:80"), json!(8)), Ok(()));
        assert_eq!(
            post(&mut root, &path("/a"), json!(8)),
            Err(NoChange::NotAllowed)
        );
        assert_eq!(delete(&mut root, &path("/a/*:80/1")), Ok(()));
        assert_eq!(delete(&mut root, &path("/a/c")), Err(NoChange::NotFound));
        assert_eq!(root, json!({"a": {"*:80": [7, 8], "b": "x"}}));
        assert_eq!(delete(&mut root, &[]), Ok(()));
        assert_eq!(root, json!({}));
    }
}
