//! Components from other machines.

use std::fs;
use std::path::{Path, PathBuf};

use harness::peers::s3::{BUCKET, KEY, S3Server, SECRET};
use harness::peers::{Ca, HttpPeer};
use harness::{App, Host, Server, guests};
use sha2::{Digest, Sha256};

use crate::startup::assert_refused;
use crate::{Case, cases, secrets};

pub fn cases() -> Vec<Case> {
    cases!["remote", All:
        a_component_is_fetched_once,
        what_the_application_starts_from_is_not_swept,
        an_artifact_is_enough_to_start,
        another_component_than_the_one_asked_for,
        nothing_runs_that_was_not_named,
        what_cannot_be_fetched_is_refused,
        a_component_in_an_object_store,
    ]
}

const CACHE: &str = "UNIT_WASM_CACHE";
const SHA256: &str = "UNIT_WASM_SHA256";

fn digest(path: &Path) -> String {
    let digest = Sha256::digest(fs::read(path).expect("the component"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server that has the component of the example, and an authority for it.
struct Elsewhere {
    peer: HttpPeer,
    authority: PathBuf,
    dir: tempfile::TempDir,
}

impl Elsewhere {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        harness::launch::open_to_all(dir.path());
        let ca = Ca::new("Authority of the tests");
        let peer = HttpPeer::tls_at(
            [127, 0, 0, 1].into(),
            ca.server(&["127.0.0.1"], &["http/1.1"]),
        );
        Self {
            authority: ca.write(dir.path()),
            peer,
            dir,
        }
    }

    /// The example from there, with a cache of its own.
    fn app(&self) -> App {
        let url = self.peer.url("/component?name=hello");
        // A private cache has to be private.
        let cache = self.cache();
        App::new("hello", Path::new(&url))
            .env("UNIT_WASM_HTTP_CA", self.authority.to_str().expect("UTF-8"))
            .env(CACHE, cache.to_str().expect("UTF-8"))
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// What is kept: whether it is the component itself, and its file.
    fn kept(&self) -> Vec<(bool, PathBuf)> {
        let component = format!("{}-{:016x}.", digest(&guests::hello()), 0);
        let entries = fs::read_dir(self.cache()).expect("the cache");
        let mut kept: Vec<(bool, PathBuf)> = entries
            .map(|entry| entry.expect("an entry").path())
            .map(|path| (path.to_str().expect("UTF-8").contains(&component), path))
            .collect();
        kept.sort();
        kept
    }

    /// The file of the component in the cache.
    #[track_caller]
    fn kept_component(&self) -> PathBuf {
        let kept = self.kept();
        let mut components = kept.iter().filter(|(is_component, _)| *is_component);
        let (_, path) = components.next().expect("the component in the cache");
        path.clone()
    }
}

#[track_caller]
fn assert_serves(server: &Server) {
    let text = server.get("/hello").ok().text();
    assert!(text.contains("REQUEST_PATH = /hello"), "{text}");
}

fn a_component_is_fetched_once(host: &Host) {
    let elsewhere = Elsewhere::start();
    let sha256 = digest(&guests::hello());
    let app = elsewhere.app().env(SHA256, &sha256);
    let mut server = Server::start(host, app.clone());
    assert_serves(&server);
    assert_eq!(elsewhere.peer.requests_for("/component"), 1);
    let line = server
        .log
        .expect(&["component https://127.0.0.1:", &sha256]);
    assert!(line.contains("compiled"), "{line}");
    server.expect_new_workers();
    // A new generation, and other settings.
    server.apply(&app.clone().env("UNIT_WASM_FUEL", "1000000000").into());
    assert_serves(&server);
    assert_eq!(elsewhere.peer.requests_for("/component"), 1);
    server.finish();
    // And when it is there no more.
    let Elsewhere { peer, dir, .. } = elsewhere;
    drop(peer);
    let server = Server::start(host, app);
    assert_serves(&server);
    server.log.expect(&[&sha256, "artifact found in the cache"]);
    server.finish();
    drop(dir);
}

fn what_the_application_starts_from_is_not_swept(host: &Host) {
    let elsewhere = Elsewhere::start();
    let app = elsewhere.app().env(SHA256, &digest(&guests::hello()));
    // There is room for nothing.
    let app = app.env("UNIT_WASM_CACHE_SIZE", "1");
    let server = Server::start(host, app.clone());
    assert_serves(&server);
    server.finish();
    let kept: Vec<bool> = elsewhere.kept().iter().map(|(is, _)| *is).collect();
    assert_eq!(kept, [false, true], "the artifact, and the component");
    let server = Server::start(host, app);
    assert_serves(&server);
    server.log.expect(&["artifact found in the cache"]);
    server.finish();
    assert_eq!(elsewhere.kept().len(), 2);
    assert_eq!(elsewhere.peer.requests_for("/component"), 1);
}

fn an_artifact_is_enough_to_start(host: &Host) {
    let elsewhere = Elsewhere::start();
    let sha256 = digest(&guests::hello());
    let app = elsewhere.app().env(SHA256, &sha256);
    let server = Server::start(host, app.clone());
    assert_serves(&server);
    server.finish();
    // A damaged component is not believed, and said to be.
    let component = elsewhere.kept_component();
    fs::write(&component, b"\0asm").expect("another component");
    let server = Server::start(host, app.clone());
    assert_serves(&server);
    let line = server.log.expect(&["[warn]", "not loaded", "is damaged"]);
    assert!(line.contains(component.to_str().unwrap()), "{line}");
    server.log.expect(&[&sha256, "artifact found in the cache"]);
    server.finish();
    assert_eq!(elsewhere.peer.requests_for("/component"), 1);
    // It has been removed, and there is nothing to fetch any more.
    let artifact = match &elsewhere.kept()[..] {
        [(false, artifact)] => artifact.clone(),
        kept => panic!("not one artifact: {kept:?}"),
    };
    // Nothing else than that artifact will do.
    let fuel = app.clone().env("UNIT_WASM_FUEL", "1000000000");
    let server = Server::start(host, fuel);
    assert_serves(&server);
    server.log.expect(&[&sha256, "compiled in"]);
    server.finish();
    assert_eq!(elsewhere.peer.requests_for("/component"), 2);
    fs::remove_file(elsewhere.kept_component()).expect("no component again");
    let Elsewhere { peer, dir, .. } = elsewhere;
    drop(peer);
    assert!(artifact.exists());
    let server = Server::start(host, app);
    assert_serves(&server);
    server.log.expect(&[&sha256, "artifact found in the cache"]);
    server.finish();
    drop(dir);
}

fn another_component_than_the_one_asked_for(host: &Host) {
    let elsewhere = Elsewhere::start();
    let wanted = digest(&guests::lab());
    let app = elsewhere.app().env(SHA256, &wanted);
    assert_refused(host, &app, &[&wanted, &digest(&guests::hello()), SHA256]);
}

fn nothing_runs_that_was_not_named(host: &Host) {
    let elsewhere = Elsewhere::start();
    assert_refused(host, &elsewhere.app(), &["another machine", SHA256]);
    assert_eq!(elsewhere.peer.requests(), 0);
    // Unless that is wanted.
    let server = Server::start(host, elsewhere.app().env(SHA256, "any"));
    assert_serves(&server);
    server.finish();
    // There is no file to watch.
    let app = elsewhere
        .app()
        .env(SHA256, "any")
        .env("UNIT_WASM_WATCH", "on");
    assert_refused(host, &app, &["UNIT_WASM_WATCH"]);
}

fn what_cannot_be_fetched_is_refused(host: &Host) {
    let elsewhere = Elsewhere::start();
    let from = |url: String| {
        let mut app = elsewhere.app().env(SHA256, &digest(&guests::hello()));
        app.component = url.into();
        app
    };
    let missing = elsewhere.peer.url("/no-such-route");
    assert_refused(
        host,
        &from(missing.clone()),
        &[&missing, "nothing of that name"],
    );
    let plain = missing.replace("https:", "http:");
    assert_refused(host, &from(plain), &["http: is not taken"]);
    let mut exposed = elsewhere.app().env(SHA256, "any");
    exposed.component = format!("s3://{BUCKET}/a.wasm?endpoint=http://192.0.2.1:9000").into();
    assert_refused(host, &exposed, &["on the way", "use https:", SHA256]);
    // Nobody has vouched for this one.
    let other = HttpPeer::tls(Ca::new("Another one").server(&["127.0.0.1"], &["http/1.1"]));
    let stranger = other.url("/component?name=hello");
    assert_refused(host, &from(stranger.clone()), &[&other.url("/")]);
    assert_eq!(other.requests(), 0);
}

fn a_component_in_an_object_store(host: &Host) {
    let store = S3Server::start();
    let bytes = fs::read(guests::hello()).expect("the component");
    let key = "components/hello.wasm".to_owned();
    store.objects.lock().unwrap().insert(key, bytes.into());
    let app = |server: &Server, credentials: &str| {
        let path = server.dir().join("secrets");
        let text = format!("door = {KEY}:{SECRET}\nwrong = {KEY}:{SECRET}x\n");
        secrets::write_private(&path, &text);
        let url = format!(
            "s3://{BUCKET}/components/hello.wasm?endpoint=http://{}&region=us-east-1\
             &credentials={credentials}",
            store.address
        );
        App::new("hello", Path::new(&url))
            .env("UNIT_WASM_SECRETS", path.to_str().expect("UTF-8"))
            .env(SHA256, &digest(&guests::hello()))
            .env(CACHE, "off")
    };
    let server = Server::start_with(host, |server| app(server, "door").into());
    assert_serves(&server);
    assert!(!server.log.text().contains(SECRET));
    server.finish();

    let mut server = Server::bare(host);
    server.expect_log("cannot start");
    server.expect_log("failed to start");
    server.expect_log("failed to apply new conf");
    let app = app(&server, "wrong");
    server.put(&app.into());
    let line = server.log.expect(&["cannot start: component s3://"]);
    assert!(!line.contains(SECRET), "{line}");
    server.terminate();
    server.finish_stopped();
}
