//! Instances of WASI 0.3 that serve several requests at the same time.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use futures::future::join_all;
use futures::poll;
use http_body::Body;
use http_body_util::BodyExt;
use nxt_wasm_runtime::{
    Access, Cost, Grants, GuestBody, HttpGrant, Limits, Preopen, Reason, RequestBody, SocketGrant,
    World,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::lab::Lab;
use crate::{fuel, reused, service, whole};

fn field<'a>(json: &'a str, name: &str) -> &'a str {
    let (_, rest) = json.split_once(&format!("\"{name}\":")).unwrap();
    rest.split([',', '}']).next().unwrap()
}

async fn instance(lab: &Lab) -> String {
    field(&whole(lab, "/instance-state").await, "instance").to_owned()
}

#[tokio::test(flavor = "current_thread")]
async fn several_requests_at_once_in_one_instance() {
    let lab = service(reused(1000, 4));
    let states = join_all((0..12).map(|_| whole(&lab, "/instance-state?ms=100"))).await;
    let mut instances: Vec<_> = states.iter().map(|s| field(s, "instance")).collect();
    instances.sort_unstable();
    instances.dedup();
    // An instance that is still busy with beginning is not waited for.
    assert!((3..12).contains(&instances.len()), "{states:?}");
    let peaks = states.iter().map(|state| field(state, "peak"));
    let most: u32 = peaks.map(|peak| peak.parse().unwrap()).max().unwrap();
    assert!((2..=4).contains(&most), "{states:?}");
    // Of those that nobody is in, one is kept.
    let kept = instance(&lab).await;
    assert!(instances.contains(&kept.as_str()), "{kept} {instances:?}");
    assert_eq!(instance(&lab).await, kept);
}

#[tokio::test(flavor = "current_thread")]
async fn a_shared_instance_ends_with_all_that_are_in_it() {
    let lab = service(reused(1000, 3));
    let before = instance(&lab).await;
    let (first, second, third, other) = tokio::join!(
        lab.ask("/sleep?ms=20000"),
        lab.ask("/sleep?ms=20000"),
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            lab.ask("/trap").await
        },
        async {
            // There is no room for a fourth: it is elsewhere.
            tokio::time::sleep(Duration::from_millis(80)).await;
            whole(&lab, "/sleep?ms=100").await
        },
    );
    for ended in [first, second, third] {
        let failure = ended.map(|_| ()).unwrap_err();
        assert_eq!(failure.reason, Reason::Trap, "{failure}");
    }
    assert_eq!(other, "slept\n");
    assert_ne!(instance(&lab).await, before);
}

#[tokio::test(flavor = "current_thread")]
async fn a_body_that_another_ones_trap_cuts_is_broken() {
    let lab = service(reused(1000, 3));
    for path in ["/sse?events=1000&ms=20", "/forever?chunk=1000"] {
        let mut body = lab.ask(path).await.unwrap().into_body();
        let first = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        assert!(first.unwrap().is_ok());
        assert_eq!(lab.failure("/trap").await.reason, Reason::Trap);
        let failure = body.collect().await.map(|_| ()).unwrap_err();
        assert_eq!(failure.reason, Reason::Trap, "{path}: {failure}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn who_leaves_a_shared_instance_early_disturbs_nobody_in_it() {
    let lab = service(reused(1000, 3));
    let before = instance(&lab).await;
    let stays = whole(&lab, "/instance-state?ms=300");
    let leaves = async {
        let mut body: GuestBody = lab.ask("/forever").await.unwrap().into_body();
        let piece = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        assert!(piece.unwrap().is_ok());
        poll_fn(|_| Poll::Ready(())).await;
    };
    let (state, ()) = tokio::join!(stays, leaves);
    assert_eq!(field(&state, "instance"), before);
    // What is left of it in there is not for the next ones.
    assert_ne!(instance(&lab).await, before);
}

#[tokio::test(flavor = "current_thread")]
async fn a_shared_instance_serves_no_more_than_it_may() {
    let lab = service(reused(5, 2));
    let mut last = (String::new(), 0);
    for number in 0..20 {
        let now = instance(&lab).await;
        assert_eq!(now != last.0, number % 5 == 0, "{number}");
        last = (now, number);
    }
}

/// Lets a request run until it waits for something.
fn settle(mut request: Pin<&mut impl Future>) {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Arc::clone(&woken).into();
    while woken.0.swap(false, Ordering::Relaxed) {
        let polled = request.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
}

/// Whether a request gets into that instance. One that has just come to the end of an
/// epoch takes nobody at that moment.
async fn joins(lab: &Lab, home: &str) -> bool {
    for _ in 0..5 {
        if instance(lab).await == home {
            return true;
        }
    }
    false
}

/// A response of which there is more to come, from a guest that waits.
async fn staying(lab: &Lab) -> GuestBody {
    let path = "/sse?events=2&ms=600000";
    let mut body = lab.ask(path).await.unwrap().into_body();
    let piece = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
    assert!(piece.unwrap().is_ok());
    settle(pin!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))));
    body
}

#[tokio::test(flavor = "current_thread")]
async fn nobody_waits_for_a_neighbour_that_keeps_its_instance_to_itself() {
    let lab = service(Limits {
        cpu_time: Duration::from_secs(600),
        timeout: Duration::from_secs(600),
        ..reused(1000, 4)
    });
    let before = instance(&lab).await;
    for path in ["/spin", "/sleep-sync?ms=600000"] {
        let home = instance(&lab).await;
        let mut busy = pin!(lab.ask(path));
        assert!(poll!(&mut busy).is_pending(), "{path}");
        for _ in 0..3 {
            // None of them drives the instance for longer than one turn.
            assert_ne!(instance(&lab).await, home, "{path}");
        }
        assert!(poll!(&mut busy).is_pending(), "{path}");
    }
    assert_ne!(instance(&lab).await, before);
}

/// Nor does a neighbour leave its work to one that the instance has not begun with.
#[tokio::test(flavor = "current_thread")]
async fn what_goes_on_after_a_response_is_not_left_to_one_that_waits() {
    let lab = service(Limits {
        cpu_time: Duration::from_secs(600),
        timeout: Duration::from_secs(600),
        ..reused(1000, 4)
    });
    let home = instance(&lab).await;
    let mut body = lab.ask("/after-spin").await.unwrap().into_body();
    (&mut body).collect().await.unwrap();
    let mut spins = pin!(body.finish());
    assert!(poll!(&mut spins).is_pending());
    let mut waits = pin!(instance(&lab));
    assert!(poll!(&mut waits).is_pending());
    assert!(poll!(&mut spins).is_pending(), "it has left its work");
    assert_ne!(waits.await, home);
}

#[tokio::test(flavor = "current_thread")]
async fn one_that_waits_does_not_fail_with_its_neighbour() {
    let lab = service(Limits {
        cpu_time: Duration::from_secs(1),
        timeout: Duration::from_secs(600),
        ..reused(1000, 4)
    });
    let home = instance(&lab).await;
    let mut spins = pin!(lab.ask("/spin"));
    assert!(poll!(&mut spins).is_pending());
    let mut waits = pin!(instance(&lab));
    assert!(poll!(&mut waits).is_pending());
    let Err(failure) = spins.await else {
        panic!("it spins");
    };
    assert_eq!(failure.reason, Reason::CpuTime);
    assert_ne!(waits.await, home);
}

#[tokio::test(flavor = "current_thread")]
async fn an_instance_is_joined_again_when_it_has_time() {
    let lab = service(Limits {
        cpu_time: Duration::from_secs(600),
        timeout: Duration::from_secs(600),
        ..reused(1000, 4)
    });
    let home = instance(&lab).await;
    let mut stays = pin!(lab.ask("/stall"));
    settle(stays.as_mut());
    let mut busy = pin!(whole(&lab, "/burn?ms=2000"));
    assert!(poll!(&mut busy).is_pending());
    assert_ne!(instance(&lab).await, home);
    busy.await;
    assert!(joins(&lab, &home).await);
}

#[tokio::test(flavor = "current_thread")]
async fn counting_begins_anew_with_each_request_that_comes_in() {
    let directory = tempfile::tempdir().unwrap();
    let grants = Grants {
        directories: vec![Preopen {
            host: directory.path().to_owned(),
            guest: "/data".to_owned(),
            access: Access::ReadWrite,
        }],
        write_quota: 100_000,
        http: Some(HttpGrant {
            requests: 3,
            ..HttpGrant::default()
        }),
        ..Grants::default()
    };
    let lab = |limits| Lab::with(World::Service, limits, grants.clone());
    let text = format!("/stdout?text={}", "x".repeat(100));
    let once = lab(Limits {
        output: 300,
        ..reused(1000, 2)
    });
    for (number, path) in [
        &*text,
        "/write?path=/data/file&n=60000",
        "/fetch-many?url=http://127.0.0.1:1/&n=2",
    ]
    .into_iter()
    .cycle()
    .take(12)
    .enumerate()
    {
        let answer = whole(&once, path).await;
        let path = format!("{number}: {path}");
        match number % 3 {
            0 | 1 => assert_eq!(answer, "ok\n", "{path}"),
            _ => assert!(answer.contains("{\"HttpRequestDenied\":2}"), "{answer}"),
        }
        let state = whole(&once, "/instance-state").await;
        assert_eq!(field(&state, "count"), format!("{}", 2 * number + 2));
    }
    let lines = once.lines.0.lock().unwrap().clone();
    let printed = lines.iter().filter(|line| line.starts_with("r1 stdout: "));
    assert_eq!(printed.count(), 4, "{lines:?}");

    // In all more than one of them may use.
    let lab = service(reused(1000, 2));
    let home = instance(&lab).await;
    for _ in 0..20 {
        whole(&lab, "/compute?ms=30").await;
    }
    assert_eq!(instance(&lab).await, home);

    let path = "/tasks?n=10";
    let with_fuel = |fuel, concurrent| {
        service(Limits {
            fuel: Some(fuel),
            ..reused(1000, concurrent)
        })
    };
    let needed = fuel(&with_fuel(1 << 40, 1), path).await;
    let lab = with_fuel(needed * 3, 2);
    let home = instance(&lab).await;
    for _ in 0..40 {
        whole(&lab, path).await;
    }
    assert_eq!(instance(&lab).await, home);
}

#[tokio::test(flavor = "current_thread")]
async fn who_uses_something_up_ends_all_that_are_in_the_instance() {
    for (path, reason) in [
        ("/spin", Reason::CpuTime),
        ("/spin", Reason::Fuel),
        ("/alloc-forever", Reason::Memory),
    ] {
        let fuel = (reason == Reason::Fuel).then_some(1 << 26);
        let lab = service(Limits {
            fuel,
            cpu_time: match reason {
                Reason::CpuTime => Duration::from_millis(100),
                _ => Duration::from_secs(600),
            },
            timeout: Duration::from_secs(600),
            ..reused(1000, 3)
        });
        instance(&lab).await;
        let mut first = pin!(lab.ask("/stall"));
        settle(first.as_mut());
        let mut second = pin!(lab.ask("/stall"));
        settle(second.as_mut());
        assert_eq!(lab.failure(path).await.reason, reason);
        for member in [first, second] {
            let failure = member.await.map(|_| ()).unwrap_err();
            assert_eq!(failure.reason, reason, "{failure}");
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_left_over_has_its_time_and_keeps_others_out_after_it() {
    let lab = service(Limits {
        timeout: Duration::from_secs(10),
        ..reused(1_000_000, 4)
    });
    let home = instance(&lab).await;
    let mut stays = staying(&lab).await;
    // Has its answer at once, as there is somebody who drives what it still does.
    assert_eq!(whole(&lab, "/after?ms=10000000&say=never").await, "after\n");
    assert!(joins(&lab, &home).await);
    for turn in 0.. {
        if !joins(&lab, &home).await {
            break;
        }
        assert!(turn < 600, "it takes further requests for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stays.abandon();
    stays.finish().await.unwrap();
    let lines = lab.lines.0.lock().unwrap().clone();
    let [line] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert!(line.starts_with("r1 Warn: its instance is ended"), "{line}");
    assert!(line.contains("UNIT_WASM_TIMEOUT"), "{line}");
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_left_over_does_not_end_without_a_word() {
    let lab = service(reused(1000, 4));
    let stays = staying(&lab).await;
    assert_eq!(whole(&lab, "/after?ms=10000000&say=never").await, "after\n");
    assert_eq!(lab.lines.0.lock().unwrap().len(), 0);
    drop(stays);
    let lines = lab.lines.0.lock().unwrap().clone();
    assert_eq!(
        lines,
        ["r1 Info: its instance ends, and with it what r1 may have left in there"]
    );
    // Nobody has left anything in this one.
    drop(staying(&lab).await);
    assert_eq!(lab.lines.0.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn an_instance_that_has_made_many_sockets_takes_no_further_request() {
    let rule = "127.0.0.0/8:1".parse().unwrap();
    let grants = Grants {
        sockets: Arc::new(SocketGrant {
            tcp: vec![rule],
            ..SocketGrant::default()
        }),
        ..Grants::default()
    };
    let lab = Lab::with(World::Service, reused(1000, 4), grants);
    // Alone, and with somebody in the instance.
    for _ in 0..8 {
        assert_eq!(whole(&lab, "/tcp-many?n=100").await, "100\n");
    }
    let _stays = staying(&lab).await;
    for _ in 0..8 {
        assert_eq!(whole(&lab, "/tcp-many?n=100").await, "100\n");
    }
}

async fn whole_for(lab: &Lab, cost: &Arc<Cost>, path: &str) -> String {
    let sent = lab.send_for(Arc::clone(cost), path, RequestBody::empty());
    let mut body = sent.await.unwrap().into_body();
    let bytes = (&mut body).collect().await.unwrap().to_bytes();
    body.finish().await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn the_time_to_make_an_instance_is_that_of_one_request() {
    let lab = service(reused(1000, 4));
    let costs = [(); 3].map(|()| Arc::<Cost>::default());
    for cost in &costs {
        whole_for(&lab, cost, "/").await;
    }
    let made = costs.map(|cost| cost.instantiate_time().is_some());
    assert_eq!(made, [true, false, false]);
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_sent_is_counted_for_one_that_is_there() {
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = peer.local_addr().unwrap();
    let grants = Grants {
        http: Some(HttpGrant {
            rules: vec![format!("http://{addr}").parse().unwrap()],
            ..HttpGrant::default()
        }),
        ..Grants::default()
    };
    let limits = Limits {
        timeout: Duration::from_secs(600),
        ..reused(1000, 4)
    };
    let lab = Lab::with(World::Service, limits, grants);
    let home = instance(&lab).await;
    let [first, second] = [(); 2].map(|()| Arc::<Cost>::default());
    let path = format!("/fetch-many?url=http://{addr}/&n=2&together=1");
    let fetching = whole_for(&lab, &first, &path);
    let others = async {
        for number in 0..2 {
            let (mut stream, _) = peer.accept().await.unwrap();
            let mut head = [0; 10];
            stream.read_exact(&mut head).await.unwrap();
            // Another one comes and goes between the two.
            for turn in (0..100).filter(|_| number == 0) {
                let state = whole_for(&lab, &second, "/instance-state").await;
                if field(&state, "instance") == home {
                    break;
                }
                assert!(turn < 99, "they have not shared any");
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    };
    let (answer, ()) = tokio::join!(fetching, others);
    assert!(answer.contains("{\"200\":2}"), "{answer}");
    let sent = [first, second].map(|cost| cost.outbound_requests());
    assert_eq!(sent, [2, 0]);
}
