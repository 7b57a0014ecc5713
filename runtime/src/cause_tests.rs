use wasmtime::{ResourceLimiter, format_err};

use super::*;

fn limits() -> Limits {
    Limits {
        memory: 1 << 20,
        fuel: Some(77),
        cpu_time: Duration::from_millis(50),
        ..Limits::default()
    }
}

/// Has been refused three mebibytes.
fn refused() -> MemoryBudget {
    let mut memory = MemoryBudget::new(1 << 20);
    assert!(!memory.memory_growing(0, 3 << 20, None).unwrap());
    memory
}

fn named(error: &Error, memory: &MemoryBudget) -> (Reason, String) {
    let Failure { reason, detail } = failure(
        error,
        &Known {
            limits: &limits(),
            memory,
            interrupted_after: None,
        },
    );
    (reason, detail)
}

#[test]
fn memory_is_the_reason_only_of_what_can_follow_from_its_refusal() {
    let memory = refused();
    for error in [
        Error::from(Trap::UnreachableCodeReached),
        Error::from(Trap::UnreachableCodeReached).context("error while executing"),
        Trap::MemoryOutOfBounds.into(),
        Trap::TableOutOfBounds.into(),
        Trap::IndirectCallToNull.into(),
        I32Exit(1).into(),
        format_err!("realloc return: beyond end of memory"),
    ] {
        let (reason, detail) = named(&error, &memory);
        assert_eq!(reason, Reason::Memory, "{error:?}: {detail}");
        let begin = "died after being refused memory: 3145728 bytes wanted, limit 1048576 \
                     (UNIT_WASM_MEMORY): ";
        assert!(detail.starts_with(begin), "{detail}");
        // The same without a refusal.
        let (reason, detail) = named(&error, &MemoryBudget::new(1 << 20));
        assert_eq!(reason, Reason::Trap, "{error:?}: {detail}");
    }
    for (error, expected) in [
        (Error::from(Trap::OutOfFuel), Reason::Fuel),
        (Trap::StackOverflow.into(), Reason::Trap),
        (Trap::Interrupt.into(), Reason::Trap),
        (Trap::IntegerDivisionByZero.into(), Reason::Trap),
        (Trap::BadConversionToInteger.into(), Reason::Trap),
        (Trap::CannotEnterComponent.into(), Reason::Trap),
        (I32Exit(0).into(), Reason::Trap),
        (ResourceTableError::Full.into(), Reason::Trap),
        (FieldMapError::TotalSizeTooBig.into(), Reason::Trap),
        (format_err!("unknown handle index 7"), Reason::Trap),
    ] {
        let (reason, detail) = named(&error, &memory);
        assert_eq!(reason, expected, "{error:?}: {detail}");
        assert!(!detail.contains("UNIT_WASM_MEMORY"), "{detail}");
    }
}

#[test]
fn a_refused_table_is_memory_too() {
    let mut memory = MemoryBudget::new(1 << 20);
    assert!(!memory.table_growing(0, 20_001, Some(20_000)).unwrap());
    let (reason, detail) = named(&Trap::UnreachableCodeReached.into(), &memory);
    assert_eq!(reason, Reason::Memory);
    assert!(
        detail.contains("20001 elements wanted, 20000 is the most"),
        "{detail}"
    );
    let (reason, _) = named(&Trap::StackOverflow.into(), &memory);
    assert_eq!(reason, Reason::Trap);
}

#[test]
fn interruption_comes_before_everything_else() {
    let known = Known {
        limits: &limits(),
        memory: &refused(),
        interrupted_after: Some(Duration::from_millis(51)),
    };
    let Failure { reason, detail } = failure(&Trap::UnreachableCodeReached.into(), &known);
    assert_eq!(reason, Reason::CpuTime);
    assert_eq!(
        detail,
        "51ms of CPU time used, limit 50ms (UNIT_WASM_CPU_TIME)"
    );
}

#[test]
fn every_bound_is_named_with_its_limit() {
    let memory = MemoryBudget::new(1 << 20);
    for (error, text) in [
        (
            Error::from(Trap::OutOfFuel),
            "all fuel used, limit 77 (UNIT_WASM_FUEL)",
        ),
        (
            Trap::StackOverflow.into(),
            "the stack is used up, limit 524288 bytes (UNIT_WASM_STACK)",
        ),
        (
            ResourceTableError::Full.into(),
            "1001 host resources held, limit 1000 (fixed)",
        ),
        (
            FieldMapError::TotalSizeTooBig.into(),
            "header fields of over 131072 bytes, limit 131072 (fixed)",
        ),
        (
            format_err!("requested len 1073741824 exceeds limit 16777216"),
            "1073741824 random bytes wanted in one call, limit 16777216 (fixed)",
        ),
        (I32Exit(3).into(), "the guest exited with status 3"),
        (
            Trap::UnreachableCodeReached.into(),
            "wasm trap: wasm `unreachable` instruction executed",
        ),
    ] {
        // As it arrives: with what was being done around it.
        let error = error.context("error while executing at wasm backtrace");
        assert_eq!(named(&error, &memory).1, text);
    }
}
