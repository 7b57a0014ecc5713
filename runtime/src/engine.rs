//! Engines: one configuration for compiling and for running.
//!
//! Code compiled under one configuration loads only under an equal one, so
//! everything that shapes code is set here, in one function, from the limits.

use wasmtime::{
    Collector, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
};

use crate::artifact::Description;
use crate::error::LoadError;
use crate::limits::Limits;
use crate::memory::TABLE_ELEMENTS;
use crate::world::World;

/// Room on a guest's stack for the host functions it calls. Running out of
/// it would end the process, so it is generous; untouched pages cost nothing.
const HOST_STACK: usize = 3 * 512 * 1024;

/// Bytes of a memory that are cleared in place instead of being given back
/// to the system when an instance ends.
const KEEP_RESIDENT: usize = 4 * 1024 * 1024;

/// Most event loops of a process.
const EVENT_LOOPS: u32 = 64;

fn config(world: World, limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(limits.fuel.is_some())
        .max_wasm_stack(limits.stack)
        .async_stack_size(limits.stack.saturating_add(HOST_STACK))
        // A request lives too short for a collection to pay.
        .collector(Collector::Null)
        // A 0.2 component has no use for it and every request would pay for it.
        .concurrency_support(world == World::Service)
        // 64-bit memories and tables are of no use within 4 GiB.
        .wasm_memory64(false)
        // Nothing unwinds through WebAssembly frames here.
        .native_unwind_info(false);
    config
}

/// An engine to compile with. `parallel` uses all cores and leaves threads
/// behind, so only a process that ends soon may ask for it.
pub(crate) fn for_compiling(
    world: World,
    limits: &Limits,
    parallel: bool,
) -> Result<Engine, LoadError> {
    let mut config = config(world, limits);
    config.parallel_compilation(parallel);
    Engine::new(&config).map_err(|e| LoadError::Engine(format!("{e:#}")))
}

/// Opens this process's page map, if the kernel lets it, for all engines to come. By it
/// they know which pages a guest has written.
pub fn open_page_map() {
    // Finding out takes opening it, and Wasmtime keeps it open.
    let _ = PoolingAllocationConfig::is_pagemap_scan_available();
}

/// An engine whose instance pool fits `limits` and the component.
/// `coredumps` has traps keep what a dump of the guest needs.
pub(crate) fn for_serving(
    limits: &Limits,
    component: &Description,
    coredumps: bool,
) -> Result<Engine, LoadError> {
    let mut config = config(component.world, limits);
    config.coredump_on_trap(coredumps);
    with_pool(config, pool(limits, component))
}

/// One to find out whether the component can be loaded into that one. Tables and
/// stacks, which count as data of this process though they are not touched, are
/// those of one instance.
pub(crate) fn for_fitting(limits: &Limits, component: &Description) -> Result<Engine, LoadError> {
    let mut pool = pool(limits, component);
    pool.total_stacks(1).total_tables(component.tables.max(1));
    with_pool(config(component.world, limits), pool)
}

fn with_pool(mut config: Config, pool: PoolingAllocationConfig) -> Result<Engine, LoadError> {
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).map_err(|e| LoadError::Engine(format!("{e:#}")))
}

fn pool(limits: &Limits, component: &Description) -> PoolingAllocationConfig {
    // Each event loop keeps one that nobody is in.
    let kept = match limits.reuse.concurrent {
        0 | 1 => 0,
        _ => EVENT_LOOPS,
    };
    let slots = limits.concurrency.saturating_add(kept);
    let stacks = match component.world {
        World::Proxy => 1,
        // One for each part that a synchronous call can block, and one to call
        // them by. A part without a memory could block as well; a component of
        // many such parts would take stacks that others of its kind wait for.
        World::Service => component.memories.saturating_add(1),
    };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_stacks(slots.saturating_mul(stacks))
        // Core instances are only counted, not reserved.
        .total_core_instances(u32::MAX)
        // A garbage-collected heap takes a memory's place.
        .total_memories(slots.saturating_mul(component.memories.saturating_add(1)))
        .total_gc_heaps(slots)
        .total_tables(slots.saturating_mul(component.tables.max(1)))
        .table_elements(
            usize::try_from(component.table_elements)
                .unwrap_or(0)
                .max(TABLE_ELEMENTS),
        )
        .max_memory_size(limits.memory)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 * 1024)
        .pagemap_scan(Enabled::Auto);
    pool
}
