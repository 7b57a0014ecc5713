//! Guests of both drafts, on one bucket.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use http::Request;
use http_body_util::BodyExt;
use nxt_wasm_runtime::keyvalue::{BucketGrant, KeyvalueGrant, Place};
use nxt_wasm_runtime::{
    Grants, GuestLog, Limits, OutputStreamKind, RequestBody, RequestContext, Runtime, Severity,
    World, artifact,
};

struct Silent;

impl GuestLog for Silent {
    fn line(&self, _: &str, _: OutputStreamKind, _: &str) {}
    fn message(&self, _: &str, _: Severity, _: &str) {}
    fn notice(&self, _: &str, _: Severity, _: &str) {}
}

/// Compiles and loads one of the test guests.
fn load(name: &str, grants: &Grants) -> Runtime {
    let path = format!("../tests/guests/{name}/{name}.wasm");
    let component = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let limits = Limits::default();
    // Outside of the test's own tokio runtime, as describing needs one.
    let compile = || {
        let bytes = artifact::compile(&component, World::Proxy, &limits).unwrap();
        // SAFETY: just compiled, under the same limits.
        let description =
            unsafe { artifact::describe(&bytes, World::Proxy, &limits, grants) }.unwrap();
        (bytes, description)
    };
    let (bytes, description) = std::thread::scope(|s| s.spawn(compile).join()).unwrap();
    let fd = rustix::fs::memfd_create("artifact", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(&bytes).unwrap();
    // SAFETY: as above, and nobody else has the file.
    unsafe { Runtime::load(&file, &description, limits.clone(), grants.clone()) }.unwrap()
}

async fn ask(runtime: &Runtime, path: &str) -> String {
    let request = Request::builder()
        .uri(format!("http://localhost{path}"))
        .body(RequestBody::empty())
        .unwrap();
    let context = RequestContext::new("r", Arc::new(Silent));
    let response = runtime.handle(request, context).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn both_drafts() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::Directory(directory.path().to_owned());
    let grants = Grants {
        keyvalue: Some(KeyvalueGrant {
            buckets: vec![BucketGrant::new("default", place)],
            ..KeyvalueGrant::default()
        }),
        ..Grants::default()
    };
    let new = load("caps-keyvalue", &grants);
    let old = load("caps-keyvalue-draft", &grants);
    assert_eq!(ask(&new, "/kv/set?key=a&size=3").await, "set\n");
    assert_eq!(ask(&old, "/kv/get?key=a").await, "xxx");
    assert_eq!(ask(&old, "/kv/increment?key=n&delta=40").await, "40\n");
    assert_eq!(ask(&new, "/kv/increment?key=n&delta=-42").await, "-2\n");
    let refused = ask(&old, "/kv/increment?key=n&delta=1").await;
    assert_eq!(refused, "error: other: the stored value is not a number\n");
    let much = ask(&old, "/kv/increment?key=m&delta=18446744073709551615").await;
    assert_eq!(much, "error: other: the number would be out of bounds\n");
    assert_eq!(ask(&old, "/kv/exists?key=m").await, "false\n");
    let many = ask(&new, "/kv/get-many?key=a&key=b&key=n").await;
    assert_eq!(many, "a=xxx\nb none\nn=-2\n");
    let many = ask(&old, "/kv/get-many?key=a&key=b&key=n").await;
    assert_eq!(many, "a=xxx\nnone\nn=-2\n");
    assert_eq!(ask(&new, "/kv/list-all").await, "1 pages\na\nn");
    assert_eq!(ask(&old, "/kv/list-all").await, "1 pages\na\nn");
    assert_eq!(ask(&old, "/kv/delete-many?key=a&key=n").await, "deleted\n");
    assert_eq!(ask(&new, "/kv/exists?key=a").await, "false\n");
    let other = ask(&new, "/kv/open?bucket=other").await;
    assert_eq!(other, "error: no-such-store\n");
}
