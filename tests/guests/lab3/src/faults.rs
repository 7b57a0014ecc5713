//! Routes that misbehave.

use std::hint::black_box;

use crate::bindings::wasi::clocks::monotonic_clock;
use crate::bindings::wasi::http::types::Fields;
use crate::reply::{self, Answer, Gone, plain_text};
use crate::request::Request;
use crate::system::pause;

const MIB: usize = 1024 * 1024;
const FOR_EVER: u64 = 100 * 3600 * 1000;

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

/// `/spin-after-head`: the same after the head and some of the body.
pub fn spin_after_head() -> Answer {
    reply::stream(plain_text(), |mut body| async move {
        body.write(vec![b'x'; 1000]).await?;
        spin()
    })
}

/// `/stall`: waits for what does not come.
pub async fn stall() -> Answer {
    pause(FOR_EVER).await;
    reply::text("after 100 hours\n")
}

/// `/stall-body`: the same after the head and some of the body.
pub fn stall_body() -> Answer {
    reply::stream(plain_text(), |mut body| async move {
        body.write(vec![b'x'; 1000]).await?;
        pause(FOR_EVER).await;
        body.finish().await;
        Ok(())
    })
}

/// `/burn?ms=N`: computes for that long, then answers.
pub fn burn(request: &Request) -> Answer {
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
    reply::text("worked\n")
}

/// `/alloc?mb=N`: allocates that much and writes to every page of it.
pub fn allocate(request: &Request) -> Answer {
    let memory = allocate_and_touch(request.number_of("mb", "mib", 1) as usize * MIB);
    black_box(&memory);
    reply::text("ok\n")
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

/// `/deep`: uses up the wasm stack.
pub fn deep() -> Answer {
    let end = descend(black_box(0));
    reply::text(format!("{end}\n"))
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

/// `/half?bytes=N&how=trap|panic|drop|exit`: fails after N bytes of a body of no
/// declared length.
pub fn half(request: &Request) -> Answer {
    let bytes = request.number("bytes", 1000) as usize;
    let how = request.text("how");
    reply::stream(plain_text(), move |mut body| async move {
        body.write(vec![b'x'; bytes]).await?;
        match how.as_str() {
            "panic" => panic!("lab3 was asked to panic in the middle of a body"),
            // Its default is an error.
            "drop" => Err(Gone),
            "exit" => std::process::exit(1),
            _ => trap(),
        }
    })
}

/// `/after?ms=N&say=TEXT`: answers at once, and prints `after: TEXT` on stderr N
/// ms later. `/after?how=trap|spin|sleep&ms=N` as in lab.
pub fn after(request: &Request) -> Answer {
    let ms = request.number("ms", 0);
    let say = request.text("say");
    match request.text("how").as_str() {
        "trap" => return after_trap(),
        "spin" => return after_spin(),
        _ => {}
    }
    after_response(async move {
        pause(ms).await;
        eprintln!("after: {say}");
    })
}

/// `/after-spin`: answers, then computes for ever.
pub fn after_spin() -> Answer {
    after_response(async { spin() })
}

/// `/after-trap`: answers, then traps.
pub fn after_trap() -> Answer {
    after_response(async { trap() })
}

/// Answers, and goes on when the host has taken all of the response.
fn after_response(then: impl Future<Output = ()> + 'static) -> Answer {
    reply::stream(plain_text(), move |mut body| async move {
        body.write("after\n").await?;
        body.finish().await;
        then.await;
        Ok(())
    })
}
