use super::*;

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn object(members: &[(&str, Value)]) -> Value {
    let own = |(name, value): &(&str, Value)| ((*name).to_owned(), value.clone());
    Value::Object(members.iter().map(own).collect())
}

fn application(members: &[(&str, Value)]) -> Application {
    let mut all = vec![(COMPONENT, string("/srv/app.wasm"))];
    all.extend_from_slice(members);
    Application {
        name: "app".into(),
        object: object(&all),
        user: None,
        group: None,
        working_directory: None,
    }
}

fn read(members: &[(&str, Value)]) -> Result<Settings, SettingsError> {
    Settings::read(&application(members))
}

fn with_environment(key: &str, value: &str) -> Result<Settings, SettingsError> {
    read(&[("environment", object(&[(key, string(value))]))])
}

#[test]
fn defaults_grant_nothing() {
    let settings = read(&[]).unwrap();
    assert_eq!(settings.component, PathBuf::from("/srv/app.wasm"));
    assert_eq!(settings.limits, Limits::default());
    assert_eq!(settings.grants, Grants::default());
    assert_eq!(settings.cache.directory(false), None);
    assert_eq!(settings.cache_size, 1 << 30);
    assert_eq!(
        settings.cache.directory(true),
        Some(PathBuf::from(DEFAULT_CACHE))
    );
    assert!(!settings.shares_queue);
}

#[test]
fn every_key_is_applied() {
    let environment = object(&[
        ("UNIT_WASM_MEMORY", string("268KiB")),
        ("UNIT_WASM_FUEL", string("100000000")),
        ("UNIT_WASM_CPU_TIME", string("1s")),
        ("UNIT_WASM_TIMEOUT", string("1500ms")),
        ("UNIT_WASM_IDLE_TIMEOUT", string("2m")),
        ("UNIT_WASM_STACK", string("1MiB")),
        ("UNIT_WASM_OUTPUT", string("64KiB")),
        ("UNIT_WASM_CONCURRENCY", string("1000")),
        ("UNIT_WASM_THREADS", string("2")),
        ("UNIT_WASM_DRAIN_TIMEOUT", string("3s")),
        ("UNIT_WASM_QUEUE_TIMEOUT", string("4s")),
        ("UNIT_WASM_WATCHDOG", string("90s")),
        ("UNIT_WASM_CACHE", string("off")),
        ("UNIT_WASM_CACHE_SIZE", string("64MiB")),
        ("UNIT_WASM_SHA256", string(&"aB".repeat(32))),
        ("SHIFT", string("7")),
    ]);
    let settings = read(&[("environment", environment)]).unwrap();
    let limits = &settings.limits;
    assert_eq!(limits.memory, 268 * 1024);
    assert_eq!(limits.fuel, Some(100_000_000));
    assert_eq!(limits.cpu_time, Duration::from_secs(1));
    assert_eq!(limits.timeout, Duration::from_millis(1500));
    assert_eq!(limits.stack, 1 << 20);
    assert_eq!(limits.output, 64 << 10);
    assert_eq!(limits.concurrency, 1000);
    assert_eq!(settings.idle_timeout, Duration::from_secs(120));
    assert_eq!(settings.drain_timeout, Duration::from_secs(3));
    assert_eq!(settings.queue_timeout, Duration::from_secs(4));
    assert_eq!(settings.watchdog, Duration::from_secs(90));
    assert_eq!(settings.threads, 2);
    assert_eq!(settings.cache, Cache::Off);
    assert_eq!(settings.cache_size, 64 << 20);
    assert_eq!(settings.sha256, Some("ab".repeat(32)));
    // Settings never reach the guest.
    let guest = [("SHIFT".to_owned(), "7".to_owned())];
    assert_eq!(settings.grants.environment, guest);
}

#[test]
fn unknown_keys_name_the_nearest() {
    let error = with_environment("UNIT_WASM_MEMROY", "64MiB").unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown setting UNIT_WASM_MEMROY = \"64MiB\": the nearest known one is UNIT_WASM_MEMORY"
    );
}

#[test]
fn bad_values_name_key_value_and_form() {
    let text = with_environment("UNIT_WASM_MEMORY", "lots")
        .unwrap_err()
        .to_string();
    for part in ["UNIT_WASM_MEMORY", "\"lots\"", "64MiB"] {
        assert!(text.contains(part), "{text}");
    }
    for (key, value) in [
        ("UNIT_WASM_MEMORY", "5GiB"),
        ("UNIT_WASM_MEMORY", "1KiB"),
        ("UNIT_WASM_FUEL", "0"),
        ("UNIT_WASM_FUEL", "-1"),
        ("UNIT_WASM_CPU_TIME", "0s"),
        ("UNIT_WASM_CONCURRENCY", "0"),
        ("UNIT_WASM_THREADS", "many"),
        ("UNIT_WASM_CACHE", "relative/path"),
        ("UNIT_WASM_CACHE_SIZE", "huge"),
        ("UNIT_WASM_SHA256", "abc"),
    ] {
        let error = with_environment(key, value).unwrap_err();
        assert!(
            matches!(error, SettingsError::Value { .. }),
            "{key}={value}"
        );
    }
}

#[test]
fn directories_as_strings_and_objects() {
    let list = Value::Array(vec![
        string("/srv/data"),
        object(&[("host", string("/srv/ro"))]),
        object(&[
            ("host", string("/srv/rw")),
            ("guest", string("/rw")),
            ("mode", string("rw")),
        ]),
    ]);
    let settings = read(&[("access", object(&[("filesystem", list)]))]).unwrap();
    let found: Vec<(String, String, Access)> = settings
        .grants
        .directories
        .into_iter()
        .map(|d| (d.host.display().to_string(), d.guest, d.access))
        .collect();
    let expected = |h: &str, g: &str, a| (h.to_owned(), g.to_owned(), a);
    assert_eq!(
        found,
        [
            expected("/srv/data", "/srv/data", Access::ReadWrite),
            expected("/srv/ro", "/srv/ro", Access::ReadOnly),
            expected("/srv/rw", "/rw", Access::ReadWrite),
        ]
    );
}

#[test]
fn an_empty_access_object_is_fine_and_a_wrong_one_is_named() {
    assert!(read(&[("access", object(&[]))]).is_ok());
    let filesystem = |value| [("access", object(&[("filesystem", value)]))];
    for (value, at) in [
        (Value::Number(1.0), "access/filesystem"),
        (Value::Array(vec![Value::Null]), "access/filesystem/0"),
        (
            Value::Array(vec![object(&[("guest", string("/x"))])]),
            "access/filesystem/0/host",
        ),
        (
            Value::Array(vec![object(&[
                ("host", string("/x")),
                ("mode", string("w")),
            ])]),
            "access/filesystem/0/mode",
        ),
        (
            Value::Array(vec![object(&[
                ("host", string("/x")),
                ("hots", string("y")),
            ])]),
            "access/filesystem/0/hots",
        ),
    ] {
        match read(&filesystem(value)) {
            Err(SettingsError::Member { member, .. }) => assert_eq!(member, at),
            other => panic!("{at}: {other:?}"),
        }
    }
}

#[test]
fn the_component_is_needed() {
    let application = Application {
        object: object(&[("type", string("x"))]),
        ..application(&[])
    };
    let error = Settings::read(&application).unwrap_err();
    assert!(error.to_string().contains(COMPONENT));
}

#[test]
fn processes_that_share_a_queue() {
    let processes = |v| read(&[("processes", v)]).unwrap().shares_queue;
    assert!(!processes(Value::Number(1.0)));
    assert!(processes(Value::Number(2.0)));
    assert!(processes(object(&[("max", Value::Number(4.0))])));
    assert!(!processes(object(&[("spare", Value::Number(0.0))])));
}
