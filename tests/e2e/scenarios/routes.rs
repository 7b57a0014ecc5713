//! `example/routes-and-backends`: who answers which request, and what each
//! application reaches.

mod counter;
mod files;
mod objects;

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

use harness::config::Config;
use harness::host::Wasi;
use harness::http;
use harness::peers::RawPeer;
use harness::peers::raw::deserted;
use harness::proc::Process;
use harness::{Host, Request, Response, Server, eventually, guests};
use serde_json::{Value, json};

use crate::access::{make_directory, write_file};
use crate::startup::expect_refusal;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases!["scenarios::routes", All:
        methods_and_paths_decide,
        each_application_reaches_its_own,
    ];
    all.extend(cases!["scenarios::routes", Unit:
        static_files_come_first,
    ]);
    all.extend(counter::cases());
    all.extend(files::cases());
    all.extend(objects::cases());
    all
}

const EXAMPLE: &str = "example/routes-and-backends";
const LISTENER: &str = "*:8080";

/// What is not to be had, anywhere.
const HIDDEN: &str = "nobody may read this\n";

/// The example, with a server as Redis.
fn start(host: &Host, redis: SocketAddr) -> Server {
    start_with(host, redis, |name| match name {
        "pages" => guests::root().join("example/rust/rust.wasm"),
        name => guests::root().join(format!("{EXAMPLE}/{name}/{name}.wasm")),
    })
}

/// The same with other components.
fn start_with(host: &Host, redis: SocketAddr, component: impl Fn(&str) -> PathBuf) -> Server {
    let mut server = Server::start_with(host, |server| {
        prepare(&server.data());
        configuration(server, redis, component)
    });
    warm_up(&server);
    server.settle();
    server
}

/// The usual warm-up is about one target, and that is one application here. In Unit, a
/// process is given sockets for answers with its first request, and keeps them.
fn warm_up(server: &Server) {
    let addr = server.addr_of(LISTENER);
    let workers = || ["counter", "files", "objects", "pages"].map(|app| server.workers(app));
    let open = |worker: &Process| worker.descriptors().len();
    let fresh: Vec<(Process, usize)> = workers()
        .into_iter()
        .flatten()
        .map(|worker| (worker, open(&worker)))
        .collect();
    eventually("requests of each process", Duration::from_secs(30), || {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(move || {
                    for target in ["/counters/warm", "/files/hello.txt", "/objects", "/warm"] {
                        http::fetch(addr, &Request::get(target)).expect("an answer");
                    }
                });
            }
        });
        let served = |(worker, before): &(Process, usize)| open(worker) > *before;
        !server.host.is_unit() || fresh.iter().all(served)
    });
}

/// The directories of the README.
fn prepare(data: &Path) {
    for name in ["www", "www/docs", "www/counters", "www/.git"] {
        make_directory(&data.join(name));
    }
    for name in ["files", "files/sub", "objects"] {
        make_directory(&data.join(name));
    }
    for (name, text) in [
        ("secret.txt", HIDDEN),
        ("www/index.html", "<h1>Home</h1>\n"),
        ("www/style.css", "h1 { color: teal }\n"),
        ("www/docs/index.html", "<h1>Docs</h1>\n"),
        ("www/counters/shadow", HIDDEN),
        ("www/.git/config", HIDDEN),
        ("files/hello.txt", "hello\n"),
        ("files/.hidden", HIDDEN),
        ("files/empty.json", ""),
        ("files/sub/a page.html", "<p>page\n"),
    ] {
        write_file(&data.join(name), text);
    }
    for (link, target) in [
        ("files/inside", "sub/a page.html"),
        ("files/outside", "../secret.txt"),
        ("files/absolute", "/etc/passwd"),
        ("files/upwards", ".."),
    ] {
        symlink(target, data.join(link)).expect("a link");
    }
}

fn configuration(
    server: &Server,
    redis: SocketAddr,
    component: impl Fn(&str) -> PathBuf,
) -> Config {
    let text = |path: PathBuf| path.to_str().expect("a path in UTF-8").to_owned();
    let data = |name: &str| text(server.data().join(name));
    let mut replace = vec![
        ("/srv/wasm/counter.wasm", text(component("counter"))),
        ("/srv/wasm/files.wasm", text(component("files"))),
        ("/srv/wasm/objects.wasm", text(component("objects"))),
        ("/srv/wasm/rust.wasm", text(component("pages"))),
        ("/srv/files", data("files")),
        ("/srv/objects", data("objects")),
        ("127.0.0.1:6379", redis.to_string()),
    ];
    let mut file = format!("{EXAMPLE}/config.json");
    if server.host.is_unit() {
        replace.push(("/srv/www", data("www")));
    } else {
        file = text(without_static_files(&file, server.dir()));
    }
    let replace: Vec<(&str, &str)> = replace.iter().map(|(a, b)| (*a, b.as_str())).collect();
    Config::of_file(&file, &replace)
}

/// The stand-in has none: there, all that `share` could answer goes to the fallback.
fn without_static_files(file: &str, dir: &Path) -> PathBuf {
    let text = fs::read_to_string(guests::root().join(file)).expect("the configuration");
    let mut json: Value = serde_json::from_str(&text).expect("JSON");
    for step in json["routes"].as_array_mut().expect("routes") {
        let fallback = step["action"].get("fallback").cloned();
        if let Some(fallback) = fallback {
            step["action"] = fallback;
        }
    }
    let path = dir.join("config.json");
    fs::write(&path, json.to_string()).expect("a file");
    path
}

/// `curl -X PUT --data-binary VALUE http://localhost/config/PATH`
#[track_caller]
fn change(server: &Server, path: &str, value: &Value) {
    let reply = server.control.put(&format!("/config/{path}"), value);
    let reply = reply.expect("an answer");
    assert!(reply.success(), "{path}: {reply:?}");
}

/// From now on the listener passes all requests there: to an application, whatever
/// the routes say, or back to the `routes`.
#[track_caller]
fn pass_all_to(server: &Server, target: &str) {
    let listener = server.addr_of(LISTENER);
    let path = format!("listeners/{listener}/pass");
    change(server, &path, &json!(target));
}

#[track_caller]
fn ask(server: &Server, method: &str, target: &str) -> Response {
    server.send(&Request::new(method, target))
}

/// Whether an application said this: the pages of hosts are no JSON.
fn is_json(response: &Response) -> bool {
    response.head.first("content-type").as_deref() == Some("application/json")
}

#[track_caller]
fn json_of(response: &Response) -> Value {
    assert!(is_json(response), "{response:?}");
    serde_json::from_slice(&response.body).expect("JSON")
}

/// That it is `{"error": ...}` of an application, with that status.
#[track_caller]
fn assert_error(response: &Response, status: u16) {
    assert_eq!(response.status(), status, "{}", response.text());
    let said = json_of(response);
    assert!(said["error"].is_string(), "{said}");
}

/// That it is an answer of the host.
#[track_caller]
fn assert_by_host(response: &Response, status: u16) {
    assert_eq!(response.status(), status, "{}", response.text());
    assert!(!is_json(response), "{}", response.text());
}

fn methods_and_paths_decide(host: &Host) {
    let server = start(host, deserted());
    for (method, target, status) in [
        ("DELETE", "/counters/a", 405),
        ("HEAD", "/counters/shadow", 405),
        ("PUT", "/counters/a", 405),
        ("PUT", "/files/hello.txt", 405),
        ("POST", "/files/hello.txt", 405),
        ("DELETE", "/files/hello.txt", 405),
        ("OPTIONS", "/files/hello.txt", 405),
        ("POST", "/objects", 405),
        ("DELETE", "/objects/a", 405),
        ("POST", "/", 405),
        ("DELETE", "/elsewhere", 405),
        ("GET", "/.git/config", 404),
        ("GET", "/files/.hidden", 404),
        ("PUT", "/objects/.hidden", 404),
        ("GET", "/counters/.a", 404),
    ] {
        assert_by_host(&ask(&server, method, target), status);
    }

    // Redis is away.
    assert_error(&ask(&server, "GET", "/counters/a"), 503);
    assert_error(&ask(&server, "POST", "/counters/shadow"), 503);
    assert_eq!(
        ask(&server, "GET", "/files/hello.txt").ok().text(),
        "hello\n"
    );
    assert_eq!(json_of(&ask(&server, "GET", "/objects"))["keys"], json!([]));
    // The route lets it through, the application does not.
    assert_error(&ask(&server, "PUT", "/objects"), 405);
    for target in ["/elsewhere", "/files", "/objectsx", "/Files/hello.txt"] {
        let said = json_of(&ask(&server, "GET", &format!("{target}?x=1")));
        assert_eq!(said["language"], "rust", "{said}");
        assert_eq!(said["path"], target, "{said}");
    }
    // Routes see what a path means, applications see what was sent.
    assert_error(&ask(&server, "GET", "/elsewhere/../files/hello.txt"), 400);
    assert_error(&ask(&server, "GET", "/files/../counters/a"), 404);
    server.finish();
}

/// The same grants, with a guest in the place of each component that tries all.
fn each_application_reaches_its_own(host: &Host) {
    let peer = RawPeer::echo();
    let mut server = start_with(host, peer.addr(), |_| guests::lab_for(Wasi::V03));
    let reached = peer.connections();
    for (app, has_files, has_network) in [
        ("counter", false, true),
        ("files", true, false),
        ("objects", false, false),
        ("pages", false, false),
    ] {
        pass_all_to(&server, &format!("applications/{app}"));
        let ask = |target: &str| ask(&server, "GET", target).ok().text();
        assert_eq!(ask("/"), "lab\n", "{app}");
        let said = ask("/file?op=read&path=/files/hello.txt");
        assert_eq!(said == "hello\n", has_files, "{app}: {said}");
        let objects = server.data().join("objects");
        for path in ["/etc/passwd", "/objects", objects.to_str().expect("UTF-8")] {
            let said = ask(&format!("/file?op=list&path={path}"));
            assert!(said.starts_with("error: "), "{app}: {path}: {said}");
        }
        let said = ask("/file?op=write&path=/files/new.txt&data=x");
        assert!(said.starts_with("error: "), "{app}: {said}");

        let said = ask(&format!("/tcp?addr={}&send=ping", peer.addr()));
        assert_eq!(said == "ping", has_network, "{app}: {said}");
        let said = ask(&format!("/tcp?addr={}&send=ping", deserted()));
        assert!(said.contains("AccessDenied"), "{app}: {said}");
    }
    assert_eq!(peer.connections(), reached + 1);

    // One that asks for a key-value store does not even start where none is granted.
    expect_refusal(&mut server);
    server.expect_new_workers();
    let component = guests::root().join("tests/guests/caps-keyvalue/caps-keyvalue.wasm");
    for app in ["counter", "files", "pages", "objects"] {
        let path = format!("/config/applications/{app}/component");
        let reply = server.control.put(&path, &json!(component));
        let reply = reply.expect("an answer");
        assert_eq!(reply.success(), app == "objects", "{app}: {reply:?}");
    }
    server
        .log
        .expect(&["cannot start", "that takes UNIT_WASM_KEYVALUE"]);
    server.finish();
}

fn static_files_come_first(host: &Host) {
    let server = start(host, deserted());
    for (target, text, kind) in [
        ("/", "<h1>Home</h1>\n", "text/html"),
        ("/index.html", "<h1>Home</h1>\n", "text/html"),
        ("/style.css", "h1 { color: teal }\n", "text/css"),
        ("/docs/", "<h1>Docs</h1>\n", "text/html"),
    ] {
        let response = ask(&server, "GET", target).ok();
        assert_eq!(response.text(), text, "{target}");
        assert_eq!(response.head.first("content-type").as_deref(), Some(kind));
        let head = ask(&server, "HEAD", target).ok();
        let length = text.len().to_string();
        assert_eq!(head.head.first("content-length"), Some(length), "{target}");
        assert_by_host(&ask(&server, "POST", target), 405);
    }
    let moved = ask(&server, "GET", "/docs");
    assert_by_host(&moved, 301);
    // What is not there is for the fallback.
    for target in ["/none.css", "/docs/none"] {
        let said = json_of(&ask(&server, "GET", target));
        assert_eq!(said["path"], target, "{said}");
    }
    server.log.expect(&["wasm \"pages\"", "GET /docs/none"]);
    let seen = server.log.text();
    assert!(!seen.contains("GET /style.css"), "the fallback was asked");
    // A file cannot take the place of an application.
    assert_error(&ask(&server, "GET", "/counters/shadow"), 503);
    server.finish();
}
