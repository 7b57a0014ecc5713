//! Processes that come, answer, fail and go, as the watcher sees them.

use std::thread;

use nxt_wasm_runtime::World;
use nxt_wasm_runtime::artifact::Description;

use super::*;

fn version(number: u64) -> Version {
    use rustix::fs::{MemfdFlags, memfd_create};
    Version {
        number,
        sha256: number.to_string(),
        description: Description {
            world: World::Proxy,
            handler: "handler".into(),
            memories: 1,
            tables: 1,
            table_elements: 1,
            initial_memory: 1,
        },
        artifact: memfd_create("test", MemfdFlags::CLOEXEC).unwrap().into(),
    }
}

fn club() -> (Club, Channel) {
    let (inside, door) = Channel::pair().unwrap();
    (Club::new(inside, |_, text| panic!("{text}")), door)
}

fn join(door: &Channel) -> Channel {
    use std::os::fd::AsFd;
    let (near, far) = Channel::pair().unwrap();
    door.send(JOIN, Some(far.as_fd())).unwrap();
    near
}

fn order(channel: &Channel) -> Order<Version> {
    Order::of(channel.receive().unwrap().expect("an order")).unwrap()
}

const MOMENT: Duration = Duration::from_millis(20);

#[test]
fn all_load_before_any_switches() {
    let (mut club, door) = club();
    let members = [join(&door), join(&door)];
    assert!(club.wait(MOMENT).is_continue());
    for member in &members {
        assert!(matches!(order(member), Order::Begin));
    }
    let [first, second] = members;
    let processes = thread::spawn(move || {
        for member in [&first, &second] {
            assert!(matches!(order(member), Order::Load(v) if v.number == 1));
        }
        Reply::Loaded(1).send(&first).unwrap();
        let readable = |member: &Channel| {
            let mut all = [PollFd::new(member, PollFlags::IN)];
            poll(&mut all, Some(&Timespec::try_from(MOMENT).unwrap())).unwrap()
        };
        assert_eq!(readable(&first), 0, "the other has not loaded it");
        Reply::Loaded(1).send(&second).unwrap();
        for member in [&first, &second] {
            assert!(matches!(order(member), Order::Switch(1)));
            Reply::Switched(1).send(member).unwrap();
        }
        (first, second)
    });
    assert_eq!(club.switch(version(1)), Ok(2));
    drop(processes.join().unwrap());
    // Who comes now begins with it.
    let late = join(&door);
    assert!(club.wait(MOMENT).is_continue());
    assert!(matches!(order(&late), Order::BeginWith(v) if v.number == 1));
    assert_eq!(club.members.len(), 1, "those that have ended are forgotten");
}

#[test]
fn none_switches_if_one_cannot() {
    let (mut club, door) = club();
    let members = [join(&door), join(&door)];
    assert!(club.wait(MOMENT).is_continue());
    let processes = thread::spawn(move || {
        let [first, second] = members;
        Reply::Loaded(1).send(&first).unwrap();
        Reply::Failed(1, "no room".into()).send(&second).unwrap();
        for member in [&first, &second] {
            assert!(matches!(order(member), Order::Begin));
            assert!(matches!(order(member), Order::Load(_)));
            assert!(matches!(order(member), Order::Forget(1)));
        }
    });
    // Their answers come early, which they cannot in life: nobody hears them.
    let error = club.switch(version(1)).unwrap_err();
    assert!(error.contains("no room"), "{error}");
    processes.join().unwrap();
    assert!(club.current.is_none());
}

#[test]
fn who_leaves_or_comes_in_between_is_no_obstacle() {
    let (mut club, door) = club();
    let leaves = join(&door);
    assert!(club.wait(MOMENT).is_continue());
    let processes = thread::spawn(move || {
        assert!(matches!(order(&leaves), Order::Begin));
        assert!(matches!(order(&leaves), Order::Load(_)));
        let comes = join(&door);
        assert!(matches!(order(&comes), Order::Begin));
        assert!(matches!(order(&comes), Order::Load(_)));
        Reply::Leaving.send(&leaves).unwrap();
        // It may still have loaded it, and must not be waited for then.
        Reply::Loaded(1).send(&leaves).unwrap();
        Reply::Loaded(1).send(&comes).unwrap();
        assert!(matches!(order(&comes), Order::Switch(1)));
        Reply::Switched(1).send(&comes).unwrap();
        (door, leaves, comes)
    });
    assert_eq!(club.switch(version(1)), Ok(1));
    drop(processes.join().unwrap());
    assert!(club.wait(MOMENT).is_break(), "the door is closed for good");
    assert!(club.is_over());
}

#[test]
fn who_leaves_last_is_no_obstacle_either() {
    let (mut club, door) = club();
    let leaves = join(&door);
    assert!(club.wait(MOMENT).is_continue());
    Reply::Leaving.send(&leaves).unwrap();
    assert_eq!(club.switch(version(1)), Ok(0));
    drop((leaves, door));
}

#[test]
fn after_one_that_ends_another_one_has_to_load_it() {
    let (mut club, door) = club();
    let ends = join(&door);
    assert!(club.wait(MOMENT).is_continue());
    let processes = thread::spawn(move || {
        assert!(matches!(order(&ends), Order::Begin));
        assert!(matches!(order(&ends), Order::Load(_)));
        drop(ends);
        // What comes in its place is asked the same.
        let comes = join(&door);
        assert!(matches!(order(&comes), Order::Begin));
        assert!(matches!(order(&comes), Order::Load(_)));
        Reply::Loaded(1).send(&comes).unwrap();
        assert!(matches!(order(&comes), Order::Switch(1)));
        Reply::Switched(1).send(&comes).unwrap();
        (door, comes)
    });
    assert_eq!(club.switch(version(1)), Ok(1));
    drop(processes.join().unwrap());
}

#[test]
fn nobody_serves_what_has_ended_the_only_process() {
    let (mut club, door) = club();
    let ends = join(&door);
    assert!(club.wait(MOMENT).is_continue());
    let process = thread::spawn(move || {
        assert!(matches!(order(&ends), Order::Begin));
        assert!(matches!(order(&ends), Order::Load(_)));
    });
    club.patience = Duration::from_secs(2);
    let error = club.switch(version(1)).unwrap_err();
    assert!(error.contains("no other one has come"), "{error}");
    process.join().unwrap();
    // Who comes now begins with what was served before.
    let late = join(&door);
    assert!(club.wait(MOMENT).is_continue());
    assert!(matches!(order(&late), Order::Begin));
}

#[test]
fn who_has_loaded_it_and_ended_does_not_count() {
    let (mut club, door) = club();
    let [loads, ends] = [join(&door), join(&door)];
    assert!(club.wait(MOMENT).is_continue());
    let version = version(1);
    for member in &mut club.members {
        member.ask(&Order::Load(&version));
    }
    club.offered = Some(version);
    // All of it has happened when the watcher gets to look.
    Reply::Loaded(1).send(&loads).unwrap();
    drop((loads, ends));
    let error = club.all_answer(MOMENT).unwrap_err();
    assert!(error.contains("no other one has come"), "{error}");
    drop(door);
}

#[test]
fn what_ends_one_process_after_the_other_is_refused() {
    let (mut club, door) = club();
    let first = join(&door);
    assert!(club.wait(MOMENT).is_continue());
    let processes = thread::spawn(move || {
        let mut ends = first;
        for _ in 0..ENDS {
            assert!(matches!(order(&ends), Order::Begin));
            assert!(matches!(order(&ends), Order::Load(_)));
            ends = join(&door);
        }
        (door, ends)
    });
    let error = club.switch(version(1)).unwrap_err();
    assert!(error.contains("3 processes have ended"), "{error}");
    assert!(club.current.is_none());
    drop(processes.join().unwrap());
}

#[test]
fn who_does_not_answer_is_not_trusted_with_the_log() {
    let (mut club, door) = club();
    let hangs = join(&door);
    assert!(club.wait(MOMENT).is_continue());
    let written = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let log = std::rc::Rc::clone(&written);
    club.log = Box::new(move |_, text| log.borrow_mut().push(text.to_owned()));
    club.patience = MOMENT;
    let error = club.switch(version(1)).unwrap_err();
    assert!(error.contains("has not answered"), "{error}");
    club.log(Level::Error, "by the watcher");
    assert_eq!(*written.borrow(), ["by the watcher"]);
    let works = join(&door);
    assert!(club.wait(MOMENT).is_continue());
    club.log(Level::Error, "by the other");
    assert!(matches!(order(&works), Order::Begin));
    assert!(matches!(order(&works), Order::Log(_, text) if text == "by the other"));
    // It was only slow.
    Reply::Loaded(1).send(&hangs).unwrap();
    drop(works);
    assert!(club.wait(MOMENT).is_continue());
    club.log(Level::Error, "by the first");
    assert_eq!(written.borrow().len(), 1);
    for _ in 0..3 {
        assert!(!matches!(order(&hangs), Order::Log(..)));
    }
    assert!(matches!(order(&hangs), Order::Log(_, text) if text == "by the first"));
}
