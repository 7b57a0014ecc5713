//! What one request may write to files.

use std::fs;
use std::path::Path;

use harness::{App, Host, Request, Server};
use serde_json::json;

use crate::access::make_directory;
use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases!["quota", All:
        every_way_of_writing_is_counted,
        it_is_for_each_request,
        what_is_written_again_counts_again,
        files_without_end_have_one,
        the_default_is_enough_for_most,
        a_read_only_directory_takes_nothing,
    ]
}

const QUOTA: u64 = 100_000;

/// What a new file counts.
const ENTRY: u64 = 4096;

/// The guest with a directory `/data`, and a quota if one is given.
fn start(host: &Host, mode: &str, quota: Option<&str>) -> Server {
    Server::start_with(host, |server| {
        let directory = server.data().join("in");
        make_directory(&directory);
        let list = json!([{ "host": directory, "guest": "/data", "mode": mode }]);
        let app = App::caps("net").filesystem(list);
        match quota {
            Some(quota) => app.env("UNIT_WASM_WRITE_QUOTA", quota).into(),
            None => app.into(),
        }
    })
}

/// Writes to `name`: how many bytes the guest could write, and the error.
fn write(server: &Server, name: &str, how: &str, bytes: u64) -> (u64, String) {
    let target = format!("/write?path=/data/{name}&how={how}&bytes={bytes}");
    let text = server.get(target).ok().text();
    let (written, error) = text.split_once('\n').expect("a line");
    let written = written.strip_prefix("written=").expect("a number");
    (written.parse().unwrap(), error.trim().to_owned())
}

fn size(server: &Server, name: &str) -> u64 {
    fs::metadata(server.data().join("in").join(name))
        .unwrap()
        .len()
}

fn every_way_of_writing_is_counted(host: &Host) {
    let server = start(host, "rw", Some("100000"));
    for how in ["stream", "append", "pwrite", "write_zeroes", "truncate"] {
        let (written, error) = write(&server, how, how, QUOTA - ENTRY);
        assert_eq!((written, error.as_str()), (QUOTA - ENTRY, ""), "{how}");
        assert_eq!(size(&server, how), QUOTA - ENTRY, "{how}");
        let over = format!("{how}-over");
        let (written, error) = write(&server, &over, how, 10 * QUOTA);
        assert_eq!(error, "error: quota", "{how}");
        assert!(written < QUOTA, "{how}: {written}");
        assert!(size(&server, &over) < QUOTA, "{how}");
    }
    // Copying within the host is writing too.
    fs::write(server.data().join("in/large"), vec![b'x'; 1_000_000]).unwrap();
    let (written, error) = write(&server, "copy", "splice&from=/data/large", 0);
    assert_eq!(error, "error: quota", "splice: {written}");
    assert!(size(&server, "copy") < QUOTA, "splice");
    server
        .log
        .expect(&["[warn]", "request=", "UNIT_WASM_WRITE_QUOTA"]);
    server.finish();
}

fn it_is_for_each_request(host: &Host) {
    let server = start(host, "rw", Some("100000"));
    for number in 0..5 {
        let name = format!("file-{number}");
        let (written, error) = write(&server, &name, "stream", 80_000);
        assert_eq!((written, error.as_str()), (80_000, ""), "{name}");
    }
    let request = Request::get("/write?path=/data/over&how=stream&bytes=1000000");
    server.send(&request.header("x-request-id", "over")).ok();
    let lines = server
        .log
        .matching(|line| line.contains("UNIT_WASM_WRITE_QUOTA"));
    assert_eq!(lines.len(), 1, "told once: {lines:?}");
    assert!(lines[0].contains("request=over "), "{lines:?}");
    server.finish();
}

fn what_is_written_again_counts_again(host: &Host) {
    let server = start(host, "rw", Some("100000"));
    let (written, error) = write(&server, "same", "pwrite", 90_000);
    assert_eq!((written, error.as_str()), (90_000, ""));
    // To shrink a file costs nothing, to let it grow again does.
    let (_, error) = write(&server, "same", "truncate", 10);
    assert_eq!(error, "");
    assert_eq!(size(&server, "same"), 10);
    let (_, error) = write(&server, "same", "truncate", 200_000);
    assert_eq!(error, "error: quota");
    assert_eq!(size(&server, "same"), 10);
    server.finish();
}

fn files_without_end_have_one(host: &Host) {
    let server = start(host, "rw", Some("100000"));
    let text = server.get("/many-files?dir=/data&n=1000000").ok().text();
    let made = QUOTA / ENTRY;
    assert_eq!(text, format!("{made}\nerror: quota\n"));
    let there = fs::read_dir(server.data().join("in")).unwrap().count();
    assert_eq!(there as u64, made);
    server.finish();
}

fn the_default_is_enough_for_most(host: &Host) {
    let server = start(host, "rw", None);
    let (written, error) = write(&server, "large", "stream", 20_000_000);
    assert_eq!((written, error.as_str()), (20_000_000, ""));
    // It is there, and larger than anybody wants to write in a test.
    let (_, error) = write(&server, "larger", "truncate", 300 << 20);
    assert_eq!(error, "error: quota");
    server.finish();
}

fn a_read_only_directory_takes_nothing(host: &Host) {
    let server = start(host, "ro", Some("1GiB"));
    for how in ["stream", "append", "pwrite", "write_zeroes", "truncate"] {
        let (written, error) = write(&server, how, how, 10);
        assert_eq!(written, 0, "{how}");
        assert!(error.starts_with("error: open "), "{how}: {error}");
    }
    let inside: &Path = &server.data().join("in");
    assert_eq!(fs::read_dir(inside).unwrap().count(), 0);
    server.finish();
}
