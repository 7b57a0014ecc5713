//! Turns a core module built for `wasm32-wasip1` into a WASI 0.2 component.
//!
//! The module carries its WIT world in a custom section, put there by
//! `wit-bindgen`. Its WASI preview 1 imports, which come from the language's
//! own library, are satisfied by one of the adapters that Wasmtime publishes.
//!
//! This is the step that `cargo build --target wasm32-wasip2` does by itself;
//! it is here for toolchains that have only preview 1.
//!
//! It also composes two components into one.

mod compose;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use wasi_preview1_component_adapter_provider as adapters;
use wit_component::{ComponentEncoder, DecodedWasm};

const USAGE: &str = "\
usage: componentize [--reactor | --proxy | --command] MODULE -o COMPONENT
       componentize --plug PLUG SOCKET -o COMPONENT
       componentize --show COMPONENT

  --reactor  adapter for libraries, with all of wasi:cli (default)
  --proxy    adapter for libraries that need no more than wasi:http/proxy:
             no environment, arguments, files or exit
  --command  adapter for programs with a main function
  --plug     make one component of two: SOCKET, with imports satisfied by PLUG
  --show     print a component's imports and exports, one per line";

/// What the command line asks for.
enum Action {
    Encode {
        adapter: &'static [u8],
        module: PathBuf,
        component: PathBuf,
    },
    Compose {
        plug: PathBuf,
        socket: PathBuf,
        component: PathBuf,
    },
    Show(PathBuf),
    Help,
}

fn main() -> ExitCode {
    match parse(env::args().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("componentize: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Action> {
    let mut adapter = adapters::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
    let mut plug = None;
    let mut input = None;
    let mut component = None;

    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--reactor" => adapter = adapters::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
            "--proxy" => adapter = adapters::WASI_SNAPSHOT_PREVIEW1_PROXY_ADAPTER,
            "--command" => adapter = adapters::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
            "--plug" => plug = Some(args.next().context("--plug takes a file")?),
            "--show" => {
                let file = args.next().context("--show takes a file")?;
                return Ok(Action::Show(file.into()));
            }
            "-o" => component = Some(args.next().context("-o takes a file")?),
            "-h" | "--help" => return Ok(Action::Help),
            _ if arg.starts_with('-') => bail!("unknown option {arg}\n{USAGE}"),
            _ if input.is_some() => bail!("more than one input given\n{USAGE}"),
            _ => input = Some(arg),
        }
    }

    match (plug, input, component) {
        (None, Some(module), Some(component)) => Ok(Action::Encode {
            adapter,
            module: module.into(),
            component: component.into(),
        }),
        (Some(plug), Some(socket), Some(component)) => Ok(Action::Compose {
            plug: plug.into(),
            socket: socket.into(),
            component: component.into(),
        }),
        _ => bail!("an input and -o are needed\n{USAGE}"),
    }
}

fn run(action: Action) -> Result<()> {
    match action {
        Action::Encode {
            adapter,
            module,
            component,
        } => {
            let bytes = encode(adapter, &read(&module)?)
                .with_context(|| format!("cannot make a component of {}", module.display()))?;
            write(&component, &bytes)
        }
        Action::Compose {
            plug,
            socket,
            component,
        } => {
            let bytes = compose::compose(&read(&plug)?, &read(&socket)?).with_context(|| {
                format!("cannot plug {} into {}", plug.display(), socket.display())
            })?;
            write(&component, &bytes)
        }
        Action::Show(component) => {
            let lines = surface(&read(&component)?)
                .with_context(|| format!("cannot show {}", component.display()))?;
            lines.iter().for_each(|line| println!("{line}"));
            Ok(())
        }
        Action::Help => {
            println!("{USAGE}");
            Ok(())
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn encode(adapter: &[u8], module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default()
        .module(module)?
        .adapter(adapters::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?
        .validate(true)
        .encode()
}

/// What a component imports and exports, in the order it says so.
fn surface(component: &[u8]) -> Result<Vec<String>> {
    // The preamble's last field is the layer: 1 for components, 0 for modules,
    // which decode() would take for components without imports.
    if component.get(6..8) != Some(&[1, 0]) {
        bail!("this is not a component");
    }
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component)? else {
        bail!("this is a WIT package, not a component");
    };
    let world = resolve
        .worlds
        .get(world)
        .context("the component has no world")?;

    let imports = world.imports.keys().map(|key| ("import", key));
    let exports = world.exports.keys().map(|key| ("export", key));
    Ok(imports
        .chain(exports)
        .map(|(direction, key)| format!("{direction} {}", resolve.name_world_key(key)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(line: &str) -> Result<Action> {
        parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn the_adapter_is_the_one_asked_for() {
        for (option, wanted) in [
            ("", adapters::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER),
            (
                "--reactor",
                adapters::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
            ),
            ("--proxy", adapters::WASI_SNAPSHOT_PREVIEW1_PROXY_ADAPTER),
            (
                "--command",
                adapters::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
            ),
        ] {
            let Ok(Action::Encode {
                adapter,
                module,
                component,
            }) = action(&format!("{option} in.wasm -o out.wasm"))
            else {
                panic!("{option} is refused");
            };
            assert!(adapter == wanted, "{option}");
            assert_eq!(module, Path::new("in.wasm"));
            assert_eq!(component, Path::new("out.wasm"));
        }
    }

    #[test]
    fn incomplete_command_lines_are_refused() {
        for line in [
            "",
            "in.wasm",
            "-o out.wasm",
            "in.wasm -o",
            "a b -o c",
            "--plug a b",
            "--plug a -o c",
            "b -o c --plug",
            "--show",
            "--what",
        ] {
            assert!(action(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_module_without_imports_becomes_a_component_without_imports() {
        // The magic number and the version: an empty module.
        let module = b"\0asm\x01\0\0\0";
        let adapter = adapters::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
        let component = encode(adapter, module).expect("a component");
        assert_eq!(
            surface(&component).expect("a surface"),
            Vec::<String>::new()
        );
        assert!(surface(module).is_err(), "a module is no component");
    }

    /// The example is to run on any server of wasi:http/proxy.
    #[test]
    fn hello_needs_no_more_than_the_proxy_world() {
        let component = include_bytes!("../../../example/hello/hello.wasm");
        let surface = surface(component).expect("a surface");
        let allowed = [
            "wasi:http/",
            "wasi:io/",
            "wasi:cli/std",
            "wasi:clocks/",
            "wasi:random/",
        ];
        for line in &surface {
            let name = line
                .trim_start_matches("import ")
                .trim_start_matches("export ");
            assert!(
                allowed.iter().any(|prefix| name.starts_with(prefix)),
                "{line}"
            );
        }
        assert!(
            surface
                .iter()
                .any(|line| line.starts_with("export wasi:http/incoming-handler@0.2."))
        );
    }

    #[test]
    fn a_composed_component_imports_nothing_that_was_plugged_in() {
        let Ok(Action::Compose { plug, socket, .. }) = action("--plug p.wasm s.wasm -o c.wasm")
        else {
            panic!("--plug is refused");
        };
        assert_eq!((plug, socket), ("p.wasm".into(), "s.wasm".into()));

        let hello = include_bytes!("../../../example/hello-p3/hello-p3.wasm");
        let middleware = include_bytes!("../../../example/middleware/middleware.wasm");
        let handler = "wasi:http/handler@0.3.0";
        let before = surface(middleware).expect("a surface");
        assert!(before.contains(&format!("import {handler}")));

        let composed = compose::compose(hello, middleware).expect("a component");
        let after = surface(&composed).expect("a surface");
        assert!(!after.contains(&format!("import {handler}")));
        assert!(after.contains(&format!("export {handler}")));

        assert!(
            compose::compose(hello, hello).is_err(),
            "nothing to plug in"
        );
    }
}
