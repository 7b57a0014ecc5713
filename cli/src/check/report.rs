//! What has been found out, as text and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use nxt_wasm_runtime::World;
use nxt_wasm_runtime::artifact::Description;
use serde_json::{Value, json};

use super::imports::{Import, Status};
use super::sections::{Producer, Sections};
use crate::terminal::{shown, size};

/// Everything about a file.
#[derive(Debug, Default)]
pub struct Report {
    /// Where it is.
    pub file: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// Of its contents.
    pub sha256: String,
    /// What its sections say.
    pub sections: Sections,
    /// What it is made for.
    pub world: Option<World>,
    /// What the trial instance said.
    pub description: Option<Description>,
    /// Bytes that an instance has at least.
    pub minimum_memory: Option<u64>,
    /// All imports, but for types.
    pub imports: Vec<Import>,
    /// The application that was configured.
    pub application: Option<String>,
    /// Whether its settings could not be read.
    pub bad_settings: bool,
    /// Settings that it cannot be served without.
    pub needed: Vec<&'static str>,
    /// Those that are not set, or not high enough.
    pub missing: Vec<&'static str>,
    /// Settings without which some imports refuse all use.
    pub optional: BTreeSet<&'static str>,
    /// Those that are set.
    pub set: BTreeSet<&'static str>,
    /// Why it cannot be served.
    pub problems: Vec<String>,
}

impl Report {
    /// The object that `--json` writes; docs/cli.md describes it.
    pub fn json(&self) -> Value {
        let sections = &self.sections;
        let producers = |set: &BTreeSet<Producer>| -> Value {
            set.iter()
                .map(|one| json!({ "name": one.name, "version": one.version }))
                .collect()
        };
        json!({
            "file": self.file.display().to_string(),
            "size": self.size,
            "sha256": self.sha256,
            "servable": self.problems.is_empty(),
            "problems": self.problems,
            "kind": sections.kind.name(),
            "world": self.world.map(|world| world.to_string()),
            "wasi": self.world.map(wasi),
            "handler": self.description.as_ref().map(|found| &found.handler),
            "languages": producers(&sections.languages),
            "tools": producers(&sections.tools),
            "sdks": producers(&sections.sdks),
            "core_modules": sections.core_modules,
            "components": sections.components,
            "code_size": sections.code_size,
            "data_size": sections.data_size,
            "initial_memory": sections.initial_memory,
            "minimum_memory": self.minimum_memory,
            "imports": self.imports.iter().map(Import::json).collect::<Value>(),
            "exports": sections.exports,
            "application": self.application,
            "settings": {
                "needed": self.needed,
                "missing": self.missing,
                "optional": self.optional,
                "optional_set": self.application.as_ref().map(|_| &self.set),
            },
        })
    }

    /// The same for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let sections = &self.sections;
        let file = self.file.display().to_string();
        writeln!(out, "file     {}, {}", shown(&file), size(self.size))?;
        writeln!(out, "sha256   {}", self.sha256)?;
        match (sections.kind.name(), self.world) {
            (kind, None) => writeln!(out, "kind     {kind}")?,
            (kind, Some(world)) => {
                writeln!(out, "kind     {kind} of {world} (WASI {})", wasi(world))?;
            }
        }
        if let Some(found) = &self.description {
            writeln!(out, "handler  {}", shown(&found.handler))?;
        }
        for (title, producers) in [
            ("language", &sections.languages),
            ("tools   ", &sections.tools),
            ("sdk     ", &sections.sdks),
        ] {
            if !producers.is_empty() {
                let names: Vec<String> = producers.iter().map(producer).collect();
                writeln!(out, "{title} {}", names.join(", "))?;
            }
        }
        writeln!(
            out,
            "code     {} in {} core modules, data {}",
            size(sections.code_size),
            sections.core_modules,
            size(sections.data_size)
        )?;
        write!(out, "memory   {}", size(sections.initial_memory))?;
        match self.minimum_memory {
            Some(minimum) => writeln!(out, ", an instance has at least {}", size(minimum))?,
            None => writeln!(out)?,
        }
        self.write_imports(out)?;
        self.write_settings(out)?;
        match (self.problems.as_slice(), &self.missing) {
            ([], missing) if missing.is_empty() => return writeln!(out, "\nIt can be served."),
            ([], missing) => {
                let settings = missing.join(", ");
                return writeln!(out, "\nIt can be served, with {settings}.");
            }
            _ => {}
        }
        writeln!(out, "\nIt cannot be served:")?;
        for problem in &self.problems {
            // Compilers explain themselves in several lines.
            let lines: Vec<String> = problem.lines().map(shown).collect();
            writeln!(out, "- {}", lines.join("\n  "))?;
        }
        Ok(())
    }

    fn write_imports(&self, out: &mut String) -> std::fmt::Result {
        if self.imports.is_empty() {
            return writeln!(out, "imports  none");
        }
        writeln!(out, "imports")?;
        let names: Vec<String> = self.imports.iter().map(|i| shown(&i.name)).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0).min(60);
        for (name, import) in names.iter().zip(&self.imports) {
            write!(out, "  {name:width$}  ")?;
            match &import.status {
                Status::Always if import.optional.is_empty() => writeln!(out, "always there")?,
                Status::Always => {
                    writeln!(
                        out,
                        "always there; of use with {}",
                        import.optional.join(", ")
                    )?;
                }
                Status::Takes(settings) => writeln!(out, "takes {}", settings.join(" and "))?,
                Status::Compose => writeln!(out, "takes another component")?,
                Status::Missing(_) => writeln!(out, "NOT THERE")?,
                Status::Unknown => writeln!(out, "not tried")?,
            }
        }
        Ok(())
    }

    fn write_settings(&self, out: &mut String) -> std::fmt::Result {
        let list = |settings: &[&str]| match settings {
            [] => "none".to_owned(),
            settings => settings.join(", "),
        };
        writeln!(out, "settings it needs: {}", list(&self.needed))?;
        if let Some(application) = &self.application {
            let missing = list(&self.missing);
            let application = shown(application);
            writeln!(out, "  of those, {application:?} has not set: {missing}")?;
        }
        let optional: Vec<&str> = self.optional.iter().copied().collect();
        writeln!(out, "settings it may need: {}", list(&optional))?;
        if self.application.is_some() {
            let set: Vec<&str> = self.set.iter().copied().collect();
            writeln!(out, "  of those, it has set: {}", list(&set))?;
        }
        Ok(())
    }
}

fn wasi(world: World) -> &'static str {
    match world {
        World::Proxy => "0.2",
        World::Service => "0.3",
    }
}

fn producer(producer: &Producer) -> String {
    let Producer { name, version } = producer;
    match version.is_empty() {
        true => shown(name),
        false => format!("{} {}", shown(name), shown(version)),
    }
}
