//! Configuration and the life of processes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod host;

use std::collections::HashSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use host::{Host, receive};
use serde_json::json;

#[test]
fn the_control_api_answers_like_units() {
    let host = Host::start();
    let (status, shown) = host.control("GET", "/config", "");
    assert_eq!(
        (status, shown),
        (
            200,
            json!({"listeners": {}, "routes": [], "applications": {}})
        )
    );
    let (status, shown) = host.control("PUT", "/config", "{");
    assert_eq!((status, &shown["error"]), (400, &json!("Invalid JSON.")));
    let (status, shown) = host.control("PUT", "/config", r#"{"bogus": 1}"#);
    assert_eq!(
        (status, &shown["error"]),
        (400, &json!("Invalid configuration."))
    );
    assert!(shown["detail"].as_str().unwrap().contains("bogus"));
    let (status, shown) = host.configure(json!({}));
    assert_eq!(
        (status, shown),
        (200, json!({"success": "Reconfiguration done."}))
    );
    let path = "/config/applications/a/environment";
    assert_eq!(host.control("PUT", path, r#"{"SOME": "new"}"#).0, 200);
    assert_eq!(host.get("/env?SOME").text(), "new");
    assert_eq!(host.control("GET", path, "").1, json!({"SOME": "new"}));
    assert_eq!(host.control("GET", "/config/none", "").0, 404);
    assert_eq!(host.control("PATCH", "/config", "{}").0, 405);
    // An application that is used cannot go.
    assert_eq!(host.control("DELETE", "/config/applications/a", "").0, 400);
    let listener = format!("/config/listeners/{}", host.addr);
    assert_eq!(host.control("DELETE", &listener, "").0, 200);
    assert_eq!(host.control("DELETE", "/config/applications/a", "").0, 200);
    assert!(std::net::TcpStream::connect(host.addr).is_err());
    host.until("end of the processes", || host.children().is_empty());
    assert_eq!(
        host.control("GET", "/control/applications/a/restart", "").0,
        404
    );
}

#[test]
fn without_spare_processes_the_first_request_starts_one() {
    let host = Host::with(json!({"processes": {"max": 2, "idle_timeout": 3}}));
    assert!(host.children().is_empty());
    let first = host.app_pid();
    assert_eq!(host.app_pid(), first);
    host.until("end of the idle process", || host.children().len() == 1);
    assert_ne!(host.app_pid(), first);
}

#[test]
fn processes_grow_with_the_load() {
    let host = Host::with(json!({"processes": {"max": 3, "spare": 1, "idle_timeout": 3}}));
    assert_eq!(host.children().len(), 2);
    let mut streams: Vec<_> = (0..3).map(|_| host.connect()).collect();
    for stream in &mut streams {
        stream
            .write_all(b"GET /sleep?5000 HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        sleep(Duration::from_millis(100));
    }
    host.until("three processes", || host.children().len() == 4);
    for stream in &mut streams {
        assert_eq!(receive(stream).text(), "slept\n");
    }
    host.until("one process", || host.children().len() == 2);
}

#[test]
fn an_application_that_does_not_start_is_refused() {
    let host = Host::with(json!({}));
    let pid = host.app_pid();
    for how in ["setup-fails", "start-fails", "start-dies"] {
        let (status, shown) = host.configure(json!({"environment": {"HELLO": how}}));
        let expected = json!({"error": "Failed to apply new configuration."});
        assert_eq!((status, shown), (500, expected), "{how}");
        // What was there before goes on.
        assert_eq!(host.app_pid(), pid);
    }
    assert!(host.log().contains("[alert]"));
    assert!(host.log().contains("cannot start"));
}

#[test]
fn an_application_that_does_not_start_on_demand_is_unavailable() {
    for how in ["setup-fails", "start-fails", "start-dies"] {
        let host = Host::with(json!({"processes": {"spare": 0}, "environment": {"HELLO": how}}));
        for _ in 0..3 {
            assert_eq!(host.get("/").status, 503, "{how}");
        }
        let (status, _) = host.configure(json!({"processes": {"spare": 0}}));
        assert_eq!(status, 200);
        assert_eq!(host.get("/").status, 200);
    }
}

/// Asks for `/pid` from several threads until told to stop; the processes
/// that answered.
fn under_load(host: &Host, act: impl FnOnce()) -> HashSet<String> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = HashSet::new();
                    while !stop.load(Ordering::Relaxed) {
                        let response = host.get("/pid");
                        assert_eq!(response.status, 200);
                        seen.insert(response.text().to_owned());
                    }
                    seen
                })
            })
            .collect();
        act();
        stop.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    })
}

#[test]
fn restarts_under_load_lose_nothing() {
    let host = Host::with(json!({"processes": 2}));
    let seen = under_load(&host, || {
        for _ in 0..5 {
            let old = host.app_pid();
            let (status, shown) = host.control("GET", "/control/applications/a/restart", "");
            assert_eq!((status, shown), (200, json!({"success": "Ok"})));
            host.until("another process", || host.app_pid() != old);
        }
    });
    assert!(seen.len() >= 6, "{seen:?}");
    host.until("end of the old ones", || host.children().len() == 3);
}

#[test]
fn reconfiguration_under_load_loses_nothing() {
    let host = Host::with(json!({}));
    let mut slow = host.connect();
    slow.write_all(b"GET /sleep?1500 HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    sleep(Duration::from_millis(100));
    let seen = under_load(&host, || {
        for number in 0..3 {
            let environment = json!({"N": number.to_string()});
            let (status, _) = host.configure(json!({"environment": environment}));
            assert_eq!(status, 200);
            sleep(Duration::from_millis(100));
        }
    });
    assert!(seen.len() >= 3, "{seen:?}");
    assert_eq!(receive(&mut slow).text(), "slept\n");
    host.until("end of the old ones", || host.children().len() == 2);
}

#[test]
fn processes_end_after_their_requests() {
    let host = Host::with(json!({"limits": {"requests": 3}}));
    // Requests that come before the process has read that it is to quit are
    // its own, so some serve a few more.
    let pids: HashSet<_> = (0..30).map(|_| host.app_pid()).collect();
    assert!((4..=10).contains(&pids.len()), "{pids:?}");
}

#[test]
fn contexts_share_the_requests() {
    let mut host = Host::with(json!({"environment": {"THREADS": "4"}}));
    let pid = host.app_pid();
    let ask = |_| {
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| host.get("/thread")))
                .collect();
            let asked = asked.into_iter().map(|asked| asked.join().unwrap());
            asked
                .map(|response| response.text().to_owned())
                .collect::<Vec<_>>()
        })
    };
    let threads: HashSet<_> = (0..10).flat_map(ask).collect();
    assert!(threads.len() >= 3, "{threads:?}");
    // Each context drains and quits; the process ends with the last one.
    assert_eq!(
        host.control("GET", "/control/applications/a/restart", "").0,
        200
    );
    host.until("end of the process", || !host.children().contains(&pid));
    assert_eq!(host.log().matches("[unit] quit").count(), 4);
    assert_eq!(host.get("/").status, 200);
    host.signal("TERM");
    assert_eq!(host.wait(), Some(0));
    assert!(!host.log().contains("[alert]"), "{}", host.log());
}

#[test]
fn a_killed_prototype_is_replaced() {
    let host = Host::with(json!({}));
    let old = host.children();
    assert_eq!(old.len(), 2);
    host::kill(old[0], "KILL");
    host.until("another process", || {
        let now = host.children();
        now.len() == 2 && now.iter().all(|pid| !old.contains(pid))
    });
    assert_eq!(host.get("/").status, 200);
}

#[test]
fn the_host_stops_cleanly() {
    for signal in ["TERM", "INT", "QUIT"] {
        let mut host = Host::with(json!({"processes": 2}));
        let mut slow = host.connect();
        slow.write_all(b"GET /sleep?4000 HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        // One of the two has taken it.
        host.until("request", || {
            let path = "/status/applications/a/processes/idle";
            host.control("GET", path, "").1 == json!(1)
        });
        let children = host.children();
        assert_eq!(children.len(), 3);
        assert!(host.path("pid").exists());
        host.signal(signal);
        assert_eq!(receive(&mut slow).text(), "slept\n");
        assert_eq!(host.wait(), Some(0));
        assert!(!host.path("pid").exists());
        assert!(!host.path("control").exists());
        for pid in children {
            let gone = !std::path::Path::new(&format!("/proc/{pid}/cmdline")).exists();
            assert!(gone, "{pid} is left");
        }
        assert!(host.log().contains("drain"), "{}", host.log());
    }
}

#[test]
fn the_configuration_is_kept() {
    let host = Host::with(json!({}));
    let kept = std::fs::read_to_string(host.path("state/conf.json")).unwrap();
    let shown = host.control("GET", "/config", "").1;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&kept).unwrap(),
        shown
    );
}

#[test]
fn faults_are_produced() {
    let host = Host::with(json!({}));
    let put = |faults: serde_json::Value| {
        let (status, shown) = host.control("PUT", "/faults/a", &faults.to_string());
        assert_eq!(status, 200, "{shown}");
    };
    put(json!({"fail": {"response_init": 2}}));
    let status: Vec<_> = (0..3).map(|_| host.get("/").status).collect();
    assert_eq!(status, [200, 503, 200]);
    put(json!({"fail": {"add_field": {"every": 2}}}));
    assert_eq!(host.get("/").status, 503);
    put(json!({"fail": {"write_nb": 2}}));
    let cut = host.get("/download?1000000");
    assert!(!cut.whole);
    put(json!({"write_nb_max": 3000, "shm_limit": 32768}));
    assert_eq!(host.get("/download?300000").body.len(), 300_000);
    put(json!({"kill_after_requests": 2}));
    assert_eq!(host.get("/").status, 200);
    assert_eq!(host.get("/").status, 503);
    let (status, shown) = host.control("GET", "/faults/a", "");
    assert_eq!((status, shown), (200, json!({"kill_after_requests": 2})));
    assert_eq!(host.control("DELETE", "/faults/a", "").0, 200);
    let pid = host.app_pid();
    put(json!({"quit_after_requests": 1}));
    assert_eq!(host.app_pid(), pid);
    assert_eq!(host.control("DELETE", "/faults/a", "").0, 200);
    host.until("another process", || host.app_pid() != pid);
    for mistake in [
        json!({"bogus": 1}),
        json!({"fail": {"bogus": 1}}),
        json!([]),
    ] {
        let (status, _) = host.control("PUT", "/faults/a", &mistake.to_string());
        assert_eq!(status, 400);
    }
}
