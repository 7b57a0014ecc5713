//! Raw bindings to NGINX Unit's application interface: libunit, the
//! configuration accessors of unitd, and the module descriptor.
//!
//! Generated from the headers of the Unit tree that `UNIT_SRC` names, whose
//! `nxt_unit.o` is linked in; without `UNIT_SRC`, from the headers of the
//! stand-in, which provides the functions when it loads the module. Names are
//! Unit's own. No policy here: see the module's `unit` for a safe layer.

#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    unsafe_op_in_unsafe_fn,
    clippy::all
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

// `nxt_unit_default_init` and the configuration accessors are exported by the
// executable that loads the module, not by libunit.
