//! The panic boundary.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::log::{Level, log};

/// Runs `f` as the body of a function called from C. A panic ends here: it is
/// logged, and `otherwise` is returned to the caller.
pub fn guard<T>(what: &str, otherwise: T, f: impl FnOnce() -> T) -> T {
    // Unwind safety: what `f` may have left half-done is state of one
    // context, which is made of cells and queues that hold at every step.
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic_text(&*panic);
        log(Level::Alert, "wasm: ", &format!("panic in {what}: {text}"));
        otherwise
    })
}

/// The message of a caught panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_both_kinds_are_found() {
        let constant = catch_unwind(|| panic!("constant")).unwrap_err();
        assert_eq!(panic_text(&*constant), "constant");
        let number = 7;
        let formatted = catch_unwind(|| panic!("number {number}")).unwrap_err();
        assert_eq!(panic_text(&*formatted), "number 7");
    }
}
