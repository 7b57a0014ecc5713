//! What is asked for in a URL.

use nxt_wasm_store::{Ask, Digest};
use serde_json::{Map, Value};

use crate::deploy::path;
use crate::wish::Wish;

/// Settings that whoever may deploy may ask for: limits of what is deployed. Others
/// reach for files, secrets and servers, so that the operator has to name them.
const LIMITS: [&str; 14] = [
    "UNIT_WASM_MEMORY",
    "UNIT_WASM_FUEL",
    "UNIT_WASM_CPU_TIME",
    "UNIT_WASM_TIMEOUT",
    "UNIT_WASM_IDLE_TIMEOUT",
    "UNIT_WASM_RESPONSE_TIMEOUT",
    "UNIT_WASM_STACK",
    "UNIT_WASM_OUTPUT",
    "UNIT_WASM_CONCURRENCY",
    "UNIT_WASM_QUEUE_TIMEOUT",
    "UNIT_WASM_REUSE",
    "UNIT_WASM_REUSE_CONCURRENT",
    "UNIT_WASM_DRAIN_TIMEOUT",
    "UNIT_WASM_LOG_LEVEL",
];

/// Names and values after the `?` of a URL.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes them.
    pub fn parse(query: &str) -> Result<Self, String> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Self(decoded.collect::<Result<_, String>>()?))
    }

    /// The settings of a deployment. `allowed` may be asked for beside limits.
    pub fn deployment(
        self,
        allowed: &[String],
        listener: Option<&str>,
        base: &Map<String, Value>,
    ) -> Result<(Wish, Option<Ask>, Option<Digest>), String> {
        let mut wish = Wish {
            listener: listener.map(str::to_owned),
            base: base.clone(),
            ..Wish::default()
        };
        let (mut ask, mut sha256) = (None, None);
        let limit = |key: &str, value: String| {
            if !LIMITS.contains(&key) && !allowed.iter().any(|allowed| allowed == key) {
                return Err(format!(
                    "{key} may not be set from here: deployd --allow-set {key}"
                ));
            }
            Ok((key.to_owned(), value))
        };
        for (name, value) in self.0 {
            match name.as_str() {
                "route" => wish.routes.push(value),
                "no-route" => wish.no_route = flag(&name, &value)?,
                "host" => wish.host = Some(value),
                "processes" => {
                    let number = value.parse();
                    wish.processes = Some(number.map_err(|_| "processes: a number is needed")?);
                }
                "keep" => wish.keep = flag(&name, &value)?,
                "probe" => ask = Some(Ask::Path(path(&value)?)),
                "no-probe" => ask = Some(no_probe(&value)?),
                "sha256" => sha256 = Some(value.parse()?),
                "memory" => wish.limits.push(limit("UNIT_WASM_MEMORY", value)?),
                "cpu-time" => wish.limits.push(limit("UNIT_WASM_CPU_TIME", value)?),
                "fuel" => wish.limits.push(limit("UNIT_WASM_FUEL", value)?),
                "timeout" => wish.limits.push(limit("UNIT_WASM_TIMEOUT", value)?),
                other => match other.split_once('.') {
                    Some(("env", key)) => wish.environment.push((key.to_owned(), value)),
                    Some(("set", key)) => wish.limits.push(limit(key, value)?),
                    _ => return Err(unknown(other)),
                },
            }
        }
        Ok((wish, ask, sha256))
    }

    /// What to go back to.
    pub fn rollback(self) -> Result<(Option<String>, Option<Ask>), String> {
        let (mut to, mut ask) = (None, None);
        for (name, value) in self.0 {
            match name.as_str() {
                "to" => to = Some(value),
                "probe" => ask = Some(Ask::Path(path(&value)?)),
                "no-probe" => ask = Some(no_probe(&value)?),
                other => return Err(unknown(other)),
            }
        }
        Ok((to, ask))
    }
}

/// Whether it is not to be asked, or as usual.
fn no_probe(value: &str) -> Result<Ask, String> {
    Ok(match flag("no-probe", value)? {
        true => Ask::Nothing,
        false => Ask::Route,
    })
}

fn unknown(name: &str) -> String {
    format!("there is no parameter {name:?}")
}

fn flag(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("{name}: 1 or 0 is needed")),
    }
}

/// Undoes `%XX`, and `+` for a space.
fn decode(text: &str) -> Result<String, String> {
    let wrong = || "the query is not encoded as it has to be".to_owned();
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit(), digit());
                let value = high.zip(low).map(|(high, low)| high * 16 + low);
                value.and_then(|v| u8::try_from(v).ok()).ok_or_else(wrong)?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(query: &str) -> Result<(Wish, Option<Ask>, Option<Digest>), String> {
        let allowed = ["UNIT_WASM_ALLOW_HTTP".to_owned()];
        Query::parse(query)?.deployment(&allowed, None, &Map::new())
    }

    #[test]
    fn parameters() {
        let query = "route=%2Fshop%2F*&route=/a&env.A+B=x%3Dy&set.UNIT_WASM_FUEL=5&memory=64MiB\
            &processes=2&keep&probe=/shop/health&set.UNIT_WASM_ALLOW_HTTP=https://a";
        let (wish, ask, sha256) = deployment(query).unwrap();
        assert_eq!(wish.routes, ["/shop/*", "/a"]);
        assert_eq!(wish.environment, [("A B".to_owned(), "x=y".to_owned())]);
        let keys: Vec<&str> = wish.limits.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            ["UNIT_WASM_FUEL", "UNIT_WASM_MEMORY", "UNIT_WASM_ALLOW_HTTP"]
        );
        assert_eq!((wish.processes, wish.keep, sha256), (Some(2), true, None));
        assert_eq!(ask, Some(Ask::Path("/shop/health".to_owned())));
        assert_eq!(deployment("no-probe=1").unwrap().1, Some(Ask::Nothing));
    }

    #[test]
    fn what_reaches_for_more_than_limits_has_to_be_allowed() {
        for key in [
            "UNIT_WASM_SECRETS",
            "UNIT_WASM_AUDIT_LOG",
            "UNIT_WASM_CACHE",
            "UNIT_WASM_KEYVALUE",
            "UNIT_WASM_ALLOW_TCP",
            "UNIT_WASM_HTTP_CA",
        ] {
            let error = deployment(&format!("set.{key}=x")).unwrap_err();
            assert!(error.contains(&format!("--allow-set {key}")), "{error}");
        }
        for (bad, problem) in [
            ("listener=*:80", "no parameter \"listener\""),
            ("base=x", "no parameter"),
            ("processes=x", "a number"),
            ("keep=maybe", "1 or 0"),
            ("probe=x", "a path"),
            ("sha256=x", "64 digits"),
            ("a=%4", "encoded"),
            ("a=%ff", "encoded"),
        ] {
            let error = deployment(bad).unwrap_err();
            assert!(error.contains(problem), "{bad}: {error}");
        }
        assert!(Query::parse("to=x&memory=1").unwrap().rollback().is_err());
    }
}
