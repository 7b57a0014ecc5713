//! The files of a component to begin with. They are the examples' own, so that what
//! is tested there is what is made here.

use clap::ValueEnum;

/// A file of the repository.
macro_rules! repository {
    ($path:expr) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../", $path))
    };
}

/// Files below `wit/deps` of the repository, with their paths.
macro_rules! interfaces {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, repository!(concat!("wit/deps/", $path)))),+]
    };
}

/// All of WASI 0.2 that the worlds of the examples can refer to.
const INTERFACES: &[(&str, &str)] = interfaces![
    "cli/command.wit",
    "cli/environment.wit",
    "cli/exit.wit",
    "cli/imports.wit",
    "cli/run.wit",
    "cli/stdio.wit",
    "cli/terminal.wit",
    "clocks/monotonic-clock.wit",
    "clocks/timezone.wit",
    "clocks/wall-clock.wit",
    "clocks/world.wit",
    "filesystem/preopens.wit",
    "filesystem/types.wit",
    "filesystem/world.wit",
    "http/handler.wit",
    "http/proxy.wit",
    "http/types.wit",
    "io/error.wit",
    "io/poll.wit",
    "io/streams.wit",
    "io/world.wit",
    "random/insecure-seed.wit",
    "random/insecure.wit",
    "random/random.wit",
    "random/world.wit",
    "sockets/instance-network.wit",
    "sockets/ip-name-lookup.wit",
    "sockets/network.wit",
    "sockets/tcp-create-socket.wit",
    "sockets/tcp.wit",
    "sockets/udp-create-socket.wit",
    "sockets/udp.wit",
    "sockets/world.wit",
];

const README: &str = include_str!("../../starters/README.md");
const GITIGNORE: &str = include_str!("../../starters/gitignore");
/// A part of the scripts that need it.
const TOOLS: &str = include_str!("../../starters/tools.sh");

/// What a component can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Rust.
    Rust,
    /// C.
    C,
    /// Python.
    Python,
    /// JavaScript.
    Javascript,
    /// Go.
    Go,
}

/// What an example consists of.
struct Example {
    /// Its folder below `example/`.
    folder: &'static str,
    /// For people.
    title: &'static str,
    script: &'static str,
    config: &'static str,
    /// The world, if the language does not come with one.
    world: Option<&'static str>,
    /// What to read and change; the first is named in the README.
    sources: &'static [(&'static str, &'static str)],
}

impl Language {
    /// As it is written.
    pub fn title(self) -> &'static str {
        self.example().title
    }

    fn example(self) -> &'static Example {
        match self {
            Self::Rust => &Example {
                folder: "rust",
                title: "Rust",
                script: include_str!("../../starters/rust.sh"),
                config: repository!("example/rust/config.json"),
                world: None,
                sources: &[
                    ("src/lib.rs", repository!("example/rust/src/lib.rs")),
                    ("Cargo.toml", repository!("example/rust/Cargo.toml")),
                    ("Cargo.lock", repository!("example/rust/Cargo.lock")),
                ],
            },
            Self::C => &Example {
                folder: "c",
                title: "C",
                script: include_str!("../../starters/c.sh"),
                config: repository!("example/c/config.json"),
                world: Some(repository!("example/c/wit/world.wit")),
                sources: &[("answer.c", repository!("example/c/answer.c"))],
            },
            Self::Python => &Example {
                folder: "python",
                title: "Python",
                script: include_str!("../../starters/python.sh"),
                config: repository!("example/python/config.json"),
                world: Some(repository!("example/python/wit/world.wit")),
                sources: &[("app.py", repository!("example/python/app.py"))],
            },
            Self::Javascript => &Example {
                folder: "javascript",
                title: "JavaScript",
                script: include_str!("../../starters/javascript.sh"),
                config: repository!("example/javascript/config.json"),
                world: Some(repository!("example/javascript/wit/world.wit")),
                sources: &[("app.js", repository!("example/javascript/app.js"))],
            },
            Self::Go => &Example {
                folder: "go",
                title: "Go",
                script: include_str!("../../starters/go.sh"),
                config: repository!("example/go/config.json"),
                world: Some(repository!("example/go/wit/world.wit")),
                sources: &[(
                    "export_wasi_http_incoming_handler/handler.go",
                    repository!("example/go/export_wasi_http_incoming_handler/handler.go"),
                )],
            },
        }
    }
}

/// The files of a component called `name`, with their paths.
pub fn files(language: Language, name: &str) -> Vec<(String, String)> {
    let example = language.example();
    let source = example.sources.first().map_or("", |(path, _)| path);
    let mut files = vec![
        (
            "README.md".to_owned(),
            README.replace("@NAME@", name).replace("@SOURCE@", source),
        ),
        (".gitignore".to_owned(), GITIGNORE.to_owned()),
        ("build.sh".to_owned(), script(example, name)),
        ("config.json".to_owned(), config(example, name)),
    ];
    for &(path, text) in example.sources {
        let text = match path {
            "Cargo.toml" => manifest(text, name),
            "Cargo.lock" => text.replace("name = \"rust\"\n", &format!("name = {name:?}\n")),
            _ => text.to_owned(),
        };
        files.push((path.to_owned(), text));
    }
    if let Some(world) = example.world {
        files.push(("wit/world.wit".to_owned(), world.to_owned()));
        for (path, text) in INTERFACES {
            let text = match language {
                // Its engine has fetch events of this version only.
                Language::Javascript => text.replace("@0.2.4", "@0.2.10"),
                _ => (*text).to_owned(),
            };
            files.push((format!("wit/deps/{path}"), text));
        }
    }
    files
}

/// The versions of tools are those that the examples are built with.
fn script(example: &Example, name: &str) -> String {
    let guests = repository!("tools/guests.sh");
    let python = repository!("tools/build-python-guest");
    let javascript = repository!("tools/build-js-guest");
    let go = repository!("tools/build-go-guest");
    let adapter = value(
        repository!("tools/componentize/Cargo.toml"),
        "wasi-preview1-component-adapter-provider = \"=",
    );
    example
        .script
        .replace("@TOOLS@\n", TOOLS)
        .replace("@NAME@", name)
        .replace("@ADAPTER@", adapter.trim_end_matches('"'))
        .replace("@WIT_BINDGEN@", value(guests, "wit_bindgen_version="))
        .replace("@WASM_TOOLS@", value(go, "wasm_tools_version="))
        .replace(
            "@COMPONENTIZE_PY@",
            value(python, "componentize_py_version="),
        )
        .replace(
            "@COMPONENTIZE_JS@",
            value(javascript, "componentize_js_version="),
        )
}

/// The rest of the line that begins with `key`.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let mut lines = text.lines();
    lines
        .find_map(|line| line.strip_prefix(key))
        .unwrap_or_default()
}

/// The example's configuration, with another name.
fn config(example: &Example, name: &str) -> String {
    let folder = example.folder;
    let mut text = example.config.to_owned();
    for (before, after) in [("applications/", "\""), ("/", ".wasm\""), ("\"", "\": {")] {
        let from = format!("{before}{folder}{after}");
        text = text.replace(&from, &format!("{before}{name}{after}"));
    }
    text
}

/// The example's manifest, with another name, and without what is the repository's.
fn manifest(text: &str, name: &str) -> String {
    let mut manifest = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        match line {
            "name = \"rust\"" => manifest.push_str(&format!("name = {name:?}\n")),
            "license = \"Apache-2.0\"" => {}
            "# Read by tools/build-guests." => {
                // The section ends with an empty line.
                while lines.next().is_some_and(|line| !line.is_empty()) {}
            }
            line => {
                manifest.push_str(line);
                manifest.push('\n');
            }
        }
    }
    manifest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(language: Language, path: &str) -> String {
        let files = files(language, "my-shop");
        let found = files.into_iter().find(|(other, _)| other == path);
        found.expect("the file").1
    }

    #[test]
    fn all_names_and_versions_are_filled_in() {
        for language in Language::value_variants() {
            for (path, text) in files(*language, "my-shop") {
                let ours = !path.starts_with("wit/deps");
                for (start, _) in text.match_indices('@').filter(|_| ours) {
                    let rest = &text[start + 1..];
                    let end = rest.find('@').unwrap_or(0);
                    let left = !rest[..end].is_empty()
                        && rest[..end]
                            .bytes()
                            .all(|b| b.is_ascii_uppercase() || b == b'_');
                    assert!(!left, "{language:?}: {path}: @{}@", &rest[..end]);
                }
            }
            let script = file(*language, "build.sh");
            assert!(script.contains("my-shop.wasm"), "{script}");
            let readme = file(*language, "README.md");
            let (source, _) = language.example().sources[0];
            assert!(readme.contains(&format!("`{source}`")), "{readme}");
        }
        let has = |language, line: &str| {
            let script = file(language, "build.sh");
            let number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
            let filled = script
                .match_indices(line)
                .any(|(at, _)| number(&script[at + line.len()..]));
            assert!(filled, "no version after {line:?}: {script}");
        };
        has(Language::Python, "componentize-py==");
        has(Language::Javascript, "componentize-js@");
        for language in [Language::C, Language::Go] {
            has(language, "tool wit-bindgen ");
            has(language, "tool wasm-tools ");
            has(language, "wasi-preview1-component-adapter-provider ");
        }
        has(Language::Go, "package wit-bindgen-go ");
    }

    #[test]
    fn configurations_have_the_name_and_nothing_of_the_example() {
        for language in Language::value_variants() {
            let text = file(*language, "config.json");
            let config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let pass = &config["listeners"]["*:8080"]["pass"];
            assert_eq!(pass, "applications/my-shop", "{text}");
            let app = &config["applications"]["my-shop"];
            assert_eq!(app["component"], "/srv/wasm/my-shop.wasm", "{text}");
            assert_eq!(app["type"], "wasm-wasi-component", "{text}");
        }
    }

    #[test]
    fn the_manifest_is_of_a_package_of_its_own() {
        let manifest = file(Language::Rust, "Cargo.toml");
        assert!(
            manifest.starts_with("[package]\nname = \"my-shop\"\n"),
            "{manifest}"
        );
        for gone in [
            "rust\"\nversion",
            "license",
            "metadata",
            "adapter",
            "tools/",
        ] {
            assert!(!manifest.contains(gone), "{gone}: {manifest}");
        }
        for kept in ["crate-type = [\"cdylib\"]", "[dependencies]", "[workspace]"] {
            assert!(manifest.contains(kept), "{kept}: {manifest}");
        }
        let lock = file(Language::Rust, "Cargo.lock");
        assert!(lock.contains("name = \"my-shop\"\nversion = \"0.1.0\"\n"));
        assert!(!lock.contains("name = \"rust\"\n"));
    }

    #[test]
    fn javascript_has_one_version_of_wasi_http() {
        let files = files(Language::Javascript, "a");
        let wit = files.iter().filter(|(path, _)| path.starts_with("wit/"));
        let text: String = wit.map(|(_, text)| text.as_str()).collect();
        assert!(text.contains("package wasi:http@0.2.10;"));
        assert!(!text.contains("@0.2.4"), "another version");
    }
}
