//! One instance on trial, before anything is served.

use std::sync::Arc;

use tokio::time::timeout;
use wasmtime::Engine;

use crate::error::LoadError;
use crate::grants::Grants;
use crate::guest::new_store;
use crate::host::Capabilities;
use crate::instance::Pre;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::output::{GuestLog, OutputStreamKind, Severity};
use crate::request::RequestContext;
use crate::ticker::Ticker;

/// Makes one instance outside of any request; returns the bytes of memory it
/// has then.
pub(crate) fn try_instantiate(
    engine: &Engine,
    pre: &Pre,
    handler: &str,
    limits: &Limits,
) -> Result<u64, LoadError> {
    let engine_error = |e: &dyn std::fmt::Display| LoadError::Engine(format!("{e:#}"));
    let ticker = Ticker::start(engine.clone()).map_err(|e| engine_error(&e))?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| engine_error(&e))?;
    let meter = Arc::new(Meter::new(limits.cpu_time));
    let context = RequestContext::new("start", Arc::new(Silent));
    let (grants, capabilities) = (Grants::default(), Arc::new(Capabilities::none()));
    let mut store = new_store(engine, limits, &grants, &capabilities, &context, &meter)
        .map_err(|e| engine_error(&e))?;
    let _active = ticker.active();
    meter.enter();
    // Start code can wait for ever without using any CPU time.
    let instance = pre.instantiate_only(&mut store);
    let result = tokio.block_on(async { timeout(limits.timeout, instance).await });
    meter.leave();
    let result = result.unwrap_or_else(|_| {
        Err(wasmtime::format_err!(
            "it is not done after {:?} (UNIT_WASM_TIMEOUT)",
            limits.timeout
        ))
    });
    let memory = &store.data().memory;
    let (peak, refused) = (memory.peak() as u64, memory.refused());
    match (result, refused) {
        (Ok(instance), _) => {
            pre.find_handler(&mut store, &instance)
                .map_err(|e| LoadError::Handler {
                    name: handler.to_owned(),
                    problem: format!("{e:#}"),
                })?;
            Ok(peak)
        }
        (Err(_), _) if meter.exceeded() => Err(LoadError::Start(format!(
            "its start code has used {:?} of CPU time, limit {:?} (UNIT_WASM_CPU_TIME)",
            meter.spent(),
            limits.cpu_time
        ))),
        (Err(_), Some(needed)) => Err(LoadError::Memory {
            needed: needed as u64,
            limit: limits.memory as u64,
        }),
        (Err(error), None) => Err(LoadError::Start(error.root_cause().to_string())),
    }
}

struct Silent;

impl GuestLog for Silent {
    fn line(&self, _: &str, _: OutputStreamKind, _: &str) {}
    fn message(&self, _: &str, _: Severity, _: &str) {}
    fn notice(&self, _: &str, _: Severity, _: &str) {}
}
