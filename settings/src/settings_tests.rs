use nxt_wasm_runtime::keyvalue::KeyvalueLimits;

use super::*;

const COMPONENT: &str = "component";

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
    Settings::read(&application(members), COMPONENT)
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
    assert!(!settings.watch);
}

#[test]
fn a_file_is_watched_or_its_digest_is_given() {
    assert!(with_environment("UNIT_WASM_WATCH", "on").unwrap().watch);
    assert!(!with_environment("UNIT_WASM_WATCH", "off").unwrap().watch);
    let environment = |watch| {
        object(&[
            ("UNIT_WASM_WATCH", string(watch)),
            ("UNIT_WASM_SHA256", string(&"a0".repeat(32))),
        ])
    };
    let error = read(&[("environment", environment("on"))]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("UNIT_WASM_WATCH: bad value \"on\": UNIT_WASM_SHA256 allows"),
        "{text}"
    );
    assert!(read(&[("environment", environment("off"))]).is_ok());
}

#[test]
fn every_key_is_applied() {
    let environment = object(&[
        ("UNIT_WASM_MEMORY", string("268KiB")),
        ("UNIT_WASM_FUEL", string("100000000")),
        ("UNIT_WASM_CPU_TIME", string("1s")),
        ("UNIT_WASM_TIMEOUT", string("1500ms")),
        ("UNIT_WASM_IDLE_TIMEOUT", string("2m")),
        ("UNIT_WASM_RESPONSE_TIMEOUT", string("10m")),
        ("UNIT_WASM_STACK", string("1MiB")),
        ("UNIT_WASM_OUTPUT", string("64KiB")),
        ("UNIT_WASM_CONCURRENCY", string("1000")),
        ("UNIT_WASM_REUSE", string("1000")),
        ("UNIT_WASM_REUSE_CONCURRENT", string("16")),
        ("UNIT_WASM_THREADS", string("2")),
        ("UNIT_WASM_DRAIN_TIMEOUT", string("3s")),
        ("UNIT_WASM_QUEUE_TIMEOUT", string("4s")),
        ("UNIT_WASM_WATCHDOG", string("90s")),
        ("UNIT_WASM_CACHE", string("off")),
        ("UNIT_WASM_CACHE_SIZE", string("64MiB")),
        ("UNIT_WASM_SHA256", string(&"aB".repeat(32))),
        ("UNIT_WASM_KEYVALUE", string("a=memory:,b=fs:/srv/b")),
        ("UNIT_WASM_KEYVALUE_OPEN", string("2")),
        ("UNIT_WASM_KEYVALUE_OPERATIONS", string("10")),
        ("UNIT_WASM_KEYVALUE_BYTES_READ", string("1MiB")),
        ("UNIT_WASM_KEYVALUE_BYTES_WRITTEN", string("2MiB")),
        ("UNIT_WASM_KEYVALUE_TIMEOUT", string("500ms")),
        ("UNIT_WASM_KEYVALUE_MEMORY", string("3MiB")),
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
    assert_eq!((limits.reuse.requests, limits.reuse.concurrent), (1000, 16));
    assert_eq!(settings.idle_timeout, Duration::from_secs(120));
    assert_eq!(settings.response_timeout, Some(Duration::from_secs(600)));
    assert_eq!(settings.drain_timeout, Duration::from_secs(3));
    assert_eq!(settings.queue_timeout, Duration::from_secs(4));
    assert_eq!(settings.watchdog, Duration::from_secs(90));
    assert_eq!(settings.threads, 2);
    assert_eq!(settings.cache, Cache::Off);
    assert_eq!(settings.cache_size, 64 << 20);
    assert_eq!(settings.sha256, Some("ab".repeat(32)));
    let keyvalue = settings.grants.keyvalue.unwrap();
    let names: Vec<&str> = keyvalue.buckets.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let expected = KeyvalueLimits {
        opened: 2,
        operations: 10,
        bytes_read: 1 << 20,
        bytes_written: 2 << 20,
        timeout: Duration::from_millis(500),
        memory: 3 << 20,
    };
    assert_eq!(keyvalue.limits, expected);
    // Settings never reach the guest.
    let guest = [("SHIFT".to_owned(), "7".to_owned())];
    assert_eq!(settings.grants.environment, guest);
}

#[test]
fn several_requests_at_once_take_reuse() {
    let error = with_environment("UNIT_WASM_REUSE_CONCURRENT", "4").unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("UNIT_WASM_REUSE_CONCURRENT: bad value \"4\": it takes UNIT_WASM_REUSE,"),
        "{text}"
    );
    assert!(with_environment("UNIT_WASM_REUSE_CONCURRENT", "1").is_ok());
    assert!(with_environment("UNIT_WASM_REUSE", "0").is_err());
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
        ("UNIT_WASM_WATCH", "yes"),
        ("UNIT_WASM_KEYVALUE_OPEN", "0"),
        ("UNIT_WASM_KEYVALUE_OPERATIONS", "1000001"),
        ("UNIT_WASM_KEYVALUE_BYTES_READ", "much"),
        ("UNIT_WASM_KEYVALUE_BYTES_WRITTEN", "-1"),
        ("UNIT_WASM_KEYVALUE_TIMEOUT", "0"),
        ("UNIT_WASM_KEYVALUE_MEMORY", "1.5GiB"),
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
    let error = Settings::read(&application, COMPONENT).unwrap_err();
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

#[test]
fn outbound_http_is_granted_by_its_list() {
    let environment = object(&[
        (
            "UNIT_WASM_ALLOW_HTTP",
            string("https://api.example.com, *.example.com:8443\n[fd00::/8]:*"),
        ),
        ("UNIT_WASM_HTTP_CA", string("/etc/ca.pem")),
        ("UNIT_WASM_HTTP_CONNECT_TIMEOUT", string("1s")),
        ("UNIT_WASM_HTTP_FIRST_BYTE_TIMEOUT", string("2s")),
        ("UNIT_WASM_HTTP_BETWEEN_BYTES_TIMEOUT", string("3s")),
        ("UNIT_WASM_HTTP_KEEP_ALIVE", string("off")),
        ("UNIT_WASM_HTTP_REQUESTS", string("5")),
        ("UNIT_WASM_HTTP_CONCURRENCY", string("6")),
        ("UNIT_WASM_DNS_SERVER", string("[fd00::53]")),
    ]);
    let settings = read(&[("environment", environment)]).unwrap();
    let http = settings.grants.http.unwrap();
    let rules: Vec<String> = http.rules.iter().map(ToString::to_string).collect();
    let expected = [
        "https://api.example.com",
        "*.example.com:8443",
        "[fd00::/8]:*",
    ];
    assert_eq!(rules, expected);
    assert_eq!(http.connect_timeout, Duration::from_secs(1));
    assert_eq!(http.first_byte_timeout, Duration::from_secs(2));
    assert_eq!(http.between_bytes_timeout, Duration::from_secs(3));
    assert_eq!(http.keep_alive, Duration::ZERO);
    assert_eq!((http.requests, http.concurrency), (5, 6));
    assert_eq!(settings.files.http_ca, Some("/etc/ca.pem".into()));
    let server = |value| {
        let settings = with_environment("UNIT_WASM_DNS_SERVER", value).unwrap();
        settings.files.dns_server.unwrap().to_string()
    };
    assert_eq!(settings.files.dns_server.unwrap().port(), 53);
    assert_eq!(server("10.0.0.53"), "10.0.0.53:53");
    assert_eq!(server("127.0.0.1:5353"), "127.0.0.1:5353");
    assert_eq!(server("[fd00::53]:54"), "[fd00::53]:54");
    assert_eq!(server("fd00::53"), "[fd00::53]:53");
}

#[test]
fn outbound_http_without_hosts_is_not_granted() {
    let settings = with_environment("UNIT_WASM_HTTP_REQUESTS", "5").unwrap();
    assert_eq!(settings.grants.http, None);
    let settings = with_environment("UNIT_WASM_ALLOW_HTTP", " ").unwrap();
    assert_eq!(settings.grants.http, None);
}

#[test]
fn bad_settings_of_outbound_http_are_named() {
    let error = with_environment("UNIT_WASM_ALLOW_HTTP", "a.example, https://b.example/x, c");
    assert_eq!(
        error.unwrap_err().to_string(),
        "UNIT_WASM_ALLOW_HTTP: bad value \"a.example, https://b.example/x, c\": entry \
         \"https://b.example/x\": it has a path: only whole hosts can be \
         granted, as https://api.example.com"
    );
    for (key, value) in [
        ("UNIT_WASM_HTTP_CA", "ca.pem"),
        ("UNIT_WASM_HTTP_CONNECT_TIMEOUT", "0s"),
        ("UNIT_WASM_HTTP_FIRST_BYTE_TIMEOUT", "soon"),
        ("UNIT_WASM_HTTP_BETWEEN_BYTES_TIMEOUT", "-1s"),
        ("UNIT_WASM_HTTP_KEEP_ALIVE", "0s"),
        ("UNIT_WASM_HTTP_REQUESTS", "0"),
        ("UNIT_WASM_HTTP_CONCURRENCY", "x"),
        ("UNIT_WASM_DNS_SERVER", "dns.example.com"),
        ("UNIT_WASM_DNS_SERVER", "10.0.0.53:0"),
    ] {
        let error = with_environment(key, value).unwrap_err();
        assert!(
            matches!(error, SettingsError::Value { .. }),
            "{key}={value}"
        );
    }
}

#[test]
fn buckets_are_granted_by_their_list() {
    let settings = with_environment("UNIT_WASM_KEYVALUE_OPEN", "3").unwrap();
    assert_eq!(settings.grants.keyvalue, None);
    let settings = with_environment("UNIT_WASM_KEYVALUE", "memory:").unwrap();
    let keyvalue = settings.grants.keyvalue.unwrap();
    assert_eq!(keyvalue.limits, KeyvalueLimits::default());
    let error = with_environment("UNIT_WASM_KEYVALUE", "a=memory: b=redi://h/0").unwrap_err();
    assert_eq!(
        error.to_string(),
        "UNIT_WASM_KEYVALUE: bad value \"a=memory: b=redi://h/0\": bucket \"b\": there is no \
         scheme \"redi\": the nearest one is redis:"
    );
}

#[test]
fn errors_show_no_passwords_of_urls() {
    let value = "a=redis://user:hunter2@h:1/x b=memory:";
    for key in [
        "UNIT_WASM_KEYVALUE",
        "UNIT_WASM_KEYVALEU",
        "UNIT_WASM_KEYVALUE_OPEN",
        "UNIT_WASM_ALLOW_HTTP",
    ] {
        let text = with_environment(key, value).unwrap_err().to_string();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("a=redis://...@h:1/x b=memory:"), "{text}");
    }
    assert_eq!(
        without_passwords("https://h x://p@ss@h y"),
        "https://...@h y"
    );
    assert_eq!(
        without_passwords("redis://:correct horse@h/0"),
        "redis://...@h/0"
    );
    assert_eq!(without_passwords(""), "");
}
