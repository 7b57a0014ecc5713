//! What a guest died of, told from Wasmtime's error and from what its store
//! has counted.

use std::time::Duration;

use wasmtime::component::ResourceTableError;
use wasmtime::{Error, GcHeapOutOfMemory, PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::FieldMapError;

use crate::error::{Failure, Reason};
use crate::limits::Limits;
use crate::memory::MemoryBudget;

/// What is known of a guest that has ended.
pub(crate) struct Known<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) memory: &'a MemoryBudget,
    /// CPU time used, if the guest was interrupted for that.
    pub(crate) interrupted_after: Option<Duration>,
}

/// Names the reason, and says what the limit was and what was seen. The
/// guest's backtrace follows on further lines.
pub(crate) fn failure(error: &Error, known: &Known<'_>) -> Failure {
    let (reason, mut detail) = name(error, known);
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        detail.push('\n');
        detail.push_str(&backtrace.to_string());
    }
    Failure::new(reason, detail)
}

fn name(error: &Error, known: &Known<'_>) -> (Reason, String) {
    let Known { limits, memory, .. } = known;
    let trap = error.downcast_ref::<Trap>();
    if let Some(spent) = known.interrupted_after {
        let limit = limits.cpu_time;
        let text = format!("{spent:?} of CPU time used, limit {limit:?} (UNIT_WASM_CPU_TIME)");
        return (Reason::CpuTime, text);
    }
    if trap == Some(&Trap::OutOfFuel) {
        let limit = limits.fuel.unwrap_or_default();
        let text = format!("all fuel used, limit {limit} (UNIT_WASM_FUEL)");
        return (Reason::Fuel, text);
    }
    let cause = error.root_cause();
    if can_follow_from_refusal(error) {
        if let Some(wanted) = memory.refused() {
            let limit = limits.memory;
            let text = format!(
                "died after being refused memory: {wanted} bytes wanted, limit {limit} \
                 (UNIT_WASM_MEMORY): {cause}"
            );
            return (Reason::Memory, text);
        }
        if let Some((wanted, most)) = memory.table_refused() {
            let text = format!(
                "died after being refused a larger table: {wanted} elements wanted, {most} is \
                 the most: {cause}"
            );
            return (Reason::Memory, text);
        }
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return (Reason::Overload, format!("no instance left: {error:#}"));
    }
    let text = match (over_a_bound(error, limits), error.downcast_ref::<I32Exit>()) {
        (Some(text), _) => text,
        (None, Some(I32Exit(code))) => format!("the guest exited with status {code}"),
        (None, None) => cause.to_string(),
    };
    (Reason::Trap, text)
}

/// Whether a guest that has been refused memory may well have died of that. A
/// program whose allocator has failed aborts, uses the address it did not get,
/// or gives up and exits.
fn can_follow_from_refusal(error: &Error) -> bool {
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return *code != 0;
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) => matches!(
            trap,
            Trap::UnreachableCodeReached
                | Trap::MemoryOutOfBounds
                | Trap::TableOutOfBounds
                | Trap::IndirectCallToNull
                | Trap::NullReference
                | Trap::ArrayOutOfBounds
                | Trap::AllocationTooLarge
                | Trap::StringOutOfBounds
                | Trap::ListOutOfBounds
        ),
        None => {
            error.is::<GcHeapOutOfMemory<()>>()
                // The guest's own allocator, asked for room for a result.
                || error.root_cause().to_string().starts_with("realloc return: ")
        }
    }
}

/// What to say of a guest that has gone over one of the bounds that have no
/// reason of their own.
fn over_a_bound(error: &Error, limits: &Limits) -> Option<String> {
    let fixed = |what: String, limit: usize| Some(format!("{what}, limit {limit} (fixed)"));
    let more = |limit: usize| limit.saturating_add(1);
    if error.downcast_ref() == Some(&Trap::StackOverflow) {
        let limit = limits.stack;
        let text = format!("the stack is used up, limit {limit} bytes (UNIT_WASM_STACK)");
        return Some(text);
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        let limit = limits.resources;
        return fixed(format!("{} host resources held", more(limit)), limit);
    }
    if let Some(FieldMapError::TotalSizeTooBig) = error.downcast_ref() {
        let limit = limits.header_fields;
        return fixed(format!("header fields of over {limit} bytes"), limit);
    }
    // The others have no type that could be asked for.
    let text = error.root_cause().to_string();
    if text.contains("store handle limit exceeded") {
        let limit = limits.resources;
        return fixed(format!("{} component handles held", more(limit)), limit);
    }
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        let limit = limits.host_call;
        let what = format!("over {limit} bytes passed to the host in one call");
        return fixed(what, limit);
    }
    let wanted = text.strip_prefix("requested len ")?;
    let (wanted, _) = wanted.split_once(" exceeds limit ")?;
    let what = format!("{wanted} random bytes wanted in one call");
    fixed(what, limits.host_call)
}

#[cfg(test)]
#[path = "cause_tests.rs"]
mod tests;
