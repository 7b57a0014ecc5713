//! Routes that misbehave.

use std::hint::black_box;
use std::io;

use wasi::clocks::monotonic_clock;
use wasi::http::types::{Fields, ResponseOutparam};

use crate::reply::{Reply, plain_text};
use crate::request::Request;
use crate::system::pause;

const MIB: usize = 1024 * 1024;

/// `/spin`: computes for ever without a call to the host.
pub fn spin() -> ! {
    let mut i = 0u64;
    loop {
        i = black_box(i.wrapping_add(1));
    }
}

/// `/fill`: spends for ever in `memory.fill`, 32 MiB at a time.
pub fn fill() -> ! {
    let mut memory = vec![0u8; 32 * MIB];
    let mut value = 0u8;
    loop {
        value = value.wrapping_add(1);
        fill_memory(&mut memory, value);
        black_box(&mut memory);
    }
}

// With the feature the compiler uses the instruction and not a loop of stores.
#[target_feature(enable = "bulk-memory")]
#[inline(never)]
fn fill_memory(memory: &mut [u8], value: u8) {
    memory.fill(value);
}

/// `/hang`: waits in the host for what does not come in 500 years.
pub fn hang() -> ! {
    loop {
        monotonic_clock::subscribe_duration(u64::MAX).block();
    }
}

/// `/compute?ms=N`: computes for that long, then answers.
pub fn compute(request: &Request, reply: Reply) -> io::Result<()> {
    let duration = request.number("ms", 10).saturating_mul(1_000_000);
    let end = monotonic_clock::now().saturating_add(duration);
    let mut state = 1u64;
    while monotonic_clock::now() < end {
        for _ in 0..10_000 {
            state = black_box(
                state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1),
            );
        }
    }
    reply.text("worked\n")
}

/// `/alloc?mib=N`: allocates that much and writes to every page of it.
pub fn allocate(request: &Request, reply: Reply) -> io::Result<()> {
    let memory = allocate_and_touch(request.number("mib", 1) as usize * MIB);
    black_box(&memory);
    reply.text("ok\n")
}

/// `/alloc-forever`: allocates until something stops it.
pub fn allocate_forever() -> ! {
    loop {
        std::mem::forget(allocate_and_touch(MIB));
    }
}

fn allocate_and_touch(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0u8; bytes];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    memory
}

/// `/handles-forever`: opens handles to things of the host and keeps them all.
pub fn handles_forever() -> ! {
    loop {
        std::mem::forget(Fields::new());
    }
}

/// `/recurse`: uses up the wasm stack.
pub fn recurse(reply: Reply) -> io::Result<()> {
    let end = descend(black_box(0));
    reply.text(format!("{end}\n"))
}

// Keeps nothing in linear memory, whose stack would be used up before.
#[inline(never)]
fn descend(depth: u64) -> u64 {
    if depth == u64::MAX {
        return depth;
    }
    descend(depth + 1).wrapping_mul(3) ^ depth
}

/// `/trap`: executes `unreachable`.
pub fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

/// `/exit?code=N`: leaves the way a program does.
pub fn exit(request: &Request) -> ! {
    std::process::exit(request.number("code", 0) as i32)
}

/// `/silent`: returns without an answer.
pub fn silent(reply: Reply) -> io::Result<()> {
    drop(reply);
    Ok(())
}

/// `/twice`: answers, then answers again with the outparam that is used up.
///
/// Setting an outparam passes its ownership to the host, and a second one is
/// not to be had: the second attempt names the handle the first one gave away.
pub fn twice(reply: Reply) -> io::Result<()> {
    let outparam = reply.into_outparam();
    // SAFETY: the number of a handle, which the host checks at every use.
    let again = unsafe { ResponseOutparam::from_handle(outparam.take_handle()) };
    // SAFETY: as before; the value above is forgotten by being passed on.
    let first = unsafe { ResponseOutparam::from_handle(again.handle()) };
    Reply::new(first).text("first\n")?;
    Reply::new(again).text("second\n")
}

/// `/midbody?bytes=N&how=trap|panic|drop|exit`: fails after N bytes of a body
/// of no declared length.
pub fn mid_body(request: &Request, reply: Reply) -> io::Result<()> {
    let mut body = reply.start(plain_text())?;
    body.write(&vec![b'x'; request.number("bytes", 1000) as usize])?;
    body.flush()?;
    match request.text("how").as_str() {
        "panic" => panic!("lab was asked to panic in the middle of a body"),
        "drop" => drop(body),
        "exit" => std::process::exit(1),
        _ => trap(),
    }
    Ok(())
}

/// `/after?how=trap|spin|sleep&ms=N`: goes on after a complete response.
pub fn after(request: &Request, reply: Reply) -> io::Result<()> {
    reply.text("after\n")?;
    match request.text("how").as_str() {
        "spin" => spin(),
        "sleep" => pause(request.number("ms", 1000)),
        _ => trap(),
    }
    Ok(())
}
