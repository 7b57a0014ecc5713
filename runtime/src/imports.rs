//! The imports of a component, one by one, for tools that explain them.

use wasmtime::Engine;
use wasmtime::component::types::{ComponentExtern, ComponentItem};
use wasmtime::component::{Component, Linker, LinkerInstance};

use crate::artifact;
use crate::engine;
use crate::error::LoadError;
use crate::grants::Grants;
use crate::host;
use crate::limits::Limits;
use crate::state::State;
use crate::world::World;

/// The settings without which no component can import the interface `name`:
/// names of settings with "and" between them. `None` if it takes none.
pub fn settings(name: &str) -> Option<&'static str> {
    host::missing_settings(name, &Grants::default())
}

/// Whether `name` is what handles requests: who imports it has to be composed
/// with another component.
pub fn is_handler(name: &str) -> bool {
    artifact::is_any_handler(name)
}

/// The imports that nothing satisfies, of one component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// They, in the order of the component.
    pub unsatisfied: Vec<Unsatisfied>,
    /// Whether these are all. After too many, or one that nothing can take the place
    /// of, those that follow are not looked at.
    pub complete: bool,
}

/// An import that the host cannot satisfy, whatever is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsatisfied {
    /// Full name of the import.
    pub name: String,
    /// What is missing, or of another type.
    pub problem: String,
}

/// How many are told. Looking for the next takes time for each that was found.
const MOST: usize = 1000;

/// The imports of an artifact that the host cannot satisfy, if everything is granted.
///
/// # Errors
///
/// The artifact cannot be loaded.
///
/// # Safety
///
/// As for [`artifact::describe`].
pub unsafe fn unsatisfied(
    artifact: &[u8],
    world: World,
    limits: &Limits,
) -> Result<Found, LoadError> {
    let engine = engine::for_compiling(world, limits, false)?;
    // SAFETY: passed on to the caller.
    let component = unsafe { Component::deserialize(&engine, artifact) }
        .map_err(|e| LoadError::Artifact(format!("{e:#}")))?;
    let mut linker = artifact::link(world, &engine, &Grants::of_all_interfaces())?;
    let mut unsatisfied: Vec<Unsatisfied> = Vec::new();
    let mut complete = true;
    // Wasmtime names the first that is wrong. It is replaced by what fits, so
    // that the next one is named.
    while let Err(error) = linker.instantiate_pre(&component) {
        let text = error.to_string();
        let ty = component.component_type();
        let mut imports = ty.imports(&engine);
        let import = imports.find(|(name, _)| text.contains(&format!("`{name}`")));
        let Some((name, import)) = import else {
            return Err(LoadError::Import(format!("{error:#}")));
        };
        // It is still wrong after it was replaced.
        if unsatisfied.iter().any(|other| other.name == name) || unsatisfied.len() == MOST {
            complete = false;
            break;
        }
        let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        unsatisfied.push(Unsatisfied {
            name: name.to_owned(),
            problem: causes.join(": "),
        });
        if replace(&mut linker, &engine, name, &import).is_err() {
            complete = false;
            break;
        }
    }
    Ok(Found {
        unsatisfied,
        complete,
    })
}

/// Puts something of the type of `import` in its place.
fn replace(
    linker: &mut Linker<State>,
    engine: &Engine,
    name: &str,
    import: &ComponentExtern<'_>,
) -> wasmtime::Result<()> {
    let ComponentItem::ComponentInstance(instance) = &import.ty else {
        linker.allow_shadowing(true);
        return replace_item(&mut linker.root(), name, &import.ty);
    };
    // What is there already, others refer to: resources above all.
    for shadowing in [false, true] {
        linker.allow_shadowing(shadowing);
        let mut place = linker.instance(name)?;
        for (export, item) in instance.exports(engine) {
            let is_function = matches!(item.ty, ComponentItem::ComponentFunc(_));
            if is_function == shadowing {
                // A resource that is there stays.
                let replaced = replace_item(&mut place, export, &item.ty);
                if shadowing {
                    replaced?;
                }
            }
        }
    }
    Ok(())
}

fn replace_item(
    place: &mut LinkerInstance<'_, State>,
    name: &str,
    item: &ComponentItem,
) -> wasmtime::Result<()> {
    match item {
        ComponentItem::ComponentFunc(function) if function.async_() => place
            .func_new_concurrent(name, |_, _, _, _| {
                Box::pin(async { Err(wasmtime::format_err!("not there")) })
            }),
        ComponentItem::ComponentFunc(_) => {
            place.func_new(name, |_, _, _, _| Err(wasmtime::format_err!("not there")))
        }
        ComponentItem::Resource(_) => {
            let ty = wasmtime::component::ResourceType::host::<()>();
            place.resource(name, ty, |_, _| Ok(()))
        }
        ComponentItem::Type(_) => Ok(()),
        _ => Err(wasmtime::format_err!("no host can give that")),
    }
}
