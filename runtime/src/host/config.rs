//! `wasi:config`: the guest's environment by another name.

use wasmtime::component::{ComponentType, Linker, Lower};

use crate::state::State;

/// The names that this interface has had in its drafts, which differ in nothing
/// else.
const NAMES: [&str; 3] = [
    "wasi:config/store@0.2.0-rc.1",
    "wasi:config/store@0.2.0-draft",
    "wasi:config/runtime@0.2.0-draft",
];

/// Part of the interface; an environment has no errors.
#[derive(Clone, Debug, ComponentType, Lower)]
#[component(variant)]
#[allow(dead_code, reason = "the interface's type")]
enum Error {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for name in NAMES {
        let mut instance = linker.instance(name)?;
        instance.func_wrap("get", |store, (key,): (String,)| {
            let environment = &store.data().hooks.capabilities.environment;
            let value = environment.iter().find(|(name, _)| *name == key);
            Ok((Ok::<_, Error>(value.map(|(_, value)| value.clone())),))
        })?;
        instance.func_wrap("get-all", |store, ()| {
            let environment = &store.data().hooks.capabilities.environment;
            Ok((Ok::<_, Error>(environment.clone()),))
        })?;
    }
    Ok(())
}
