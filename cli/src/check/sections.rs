//! What the sections of a file say, without compiling anything.

use std::collections::BTreeSet;

use wasmparser::{
    BinaryReaderError, ComponentTypeRef, Encoding, Parser, Payload, ProducersSectionReader,
};

/// Producers of each kind that are kept.
const PRODUCERS: usize = 64;
/// Imports, and exports, that are kept; engines have limits far below.
const NAMES: usize = 100_000;
/// Bytes of a page, unless a memory has its own.
const PAGE: u32 = 16;

/// What a file begins like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// No WebAssembly.
    #[default]
    Unknown,
    /// A core module.
    CoreModule,
    /// A component.
    Component,
}

impl Kind {
    /// As reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::CoreModule => "core-module",
            Self::Component => "component",
        }
    }
}

/// A tool or a language, and its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Producer {
    /// Its name.
    pub name: String,
    /// Its version; may be empty.
    pub version: String,
}

/// What was found before the end, or before the first error.
#[derive(Debug, Default)]
pub struct Sections {
    /// What the file is.
    pub kind: Kind,
    /// Languages that the code was written in.
    pub languages: BTreeSet<Producer>,
    /// Compilers and other tools.
    pub tools: BTreeSet<Producer>,
    /// Kits that the code was written with.
    pub sdks: BTreeSet<Producer>,
    /// Core modules, at any depth.
    pub core_modules: u64,
    /// Components in the component, at any depth.
    pub components: u64,
    /// Bytes of functions.
    pub code_size: u64,
    /// Bytes of data that memories are filled with.
    pub data_size: u64,
    /// Bytes that all memories have at the beginning.
    pub initial_memory: u64,
    /// What the component itself imports, in its order, but for types.
    pub imports: Vec<String>,
    /// What the component itself exports, in its order.
    pub exports: Vec<String>,
    /// Where it stops making sense, and how.
    pub damage: Option<String>,
}

impl Sections {
    /// Reads all of them.
    pub fn read(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        if let Err(error) = found.read_all(bytes) {
            found.damage = Some(error.to_string());
        }
        found
    }

    fn read_all(&mut self, bytes: &[u8]) -> Result<(), BinaryReaderError> {
        let mut depth = 0_u64;
        for payload in Parser::new(0).parse_all(bytes) {
            let top = depth == 1;
            match payload? {
                Payload::Version { encoding, .. } => {
                    self.begin(depth, encoding);
                    depth += 1;
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::CodeSectionStart { size, .. } => self.code_size += u64::from(size),
                Payload::DataSection(data) => self.data_size += data.range().len() as u64,
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        let memory = memory?;
                        let page = memory.page_size_log2.unwrap_or(PAGE).min(PAGE);
                        let size = memory.initial.saturating_mul(1 << page);
                        self.initial_memory = self.initial_memory.saturating_add(size);
                    }
                }
                Payload::ComponentImportSection(imports) if top => {
                    for import in imports {
                        let import = import?;
                        if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                            keep(&mut self.imports, import.name.name);
                        }
                    }
                }
                Payload::ComponentExportSection(exports) if top => {
                    for export in exports {
                        keep(&mut self.exports, export?.name.name);
                    }
                }
                Payload::CustomSection(section) if section.name() == "producers" => {
                    // It is for people: one that is damaged hurts nobody.
                    let _ = self.read_producers(section.data_reader());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, depth: u64, encoding: Encoding) {
        let module = encoding == Encoding::Module;
        match (depth, module) {
            (0, true) => self.kind = Kind::CoreModule,
            (0, false) => self.kind = Kind::Component,
            _ => {}
        }
        if module {
            self.core_modules += 1;
        } else if depth > 0 {
            self.components += 1;
        }
    }

    fn read_producers(
        &mut self,
        reader: wasmparser::BinaryReader<'_>,
    ) -> Result<(), BinaryReaderError> {
        for field in ProducersSectionReader::new(reader)? {
            let field = field?;
            let set = match field.name {
                "language" => &mut self.languages,
                "processed-by" => &mut self.tools,
                _ => &mut self.sdks,
            };
            for value in field.values {
                let value = value?;
                if set.len() < PRODUCERS {
                    set.insert(Producer {
                        name: value.name.to_owned(),
                        version: value.version.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }
}

fn keep(names: &mut Vec<String>, name: &str) {
    if names.len() < NAMES {
        names.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_names_of_a_nested_component() {
        let bytes = wat::parse_str(
            "(component
                (import \"a:b/c@1.0.0\" (instance))
                (component (import \"d:e/f\" (instance)) (core module (memory 1)))
                (core module (memory 2) (data \"xyz\") (func (export \"f\") nop))
                (import \"g\" (func))
                (instance $i) (export \"h:i/j\" (instance $i)))",
        )
        .unwrap();
        let found = Sections::read(&bytes);
        assert_eq!(found.kind, Kind::Component);
        assert_eq!(found.imports, ["a:b/c@1.0.0", "g"]);
        assert_eq!(found.exports, ["h:i/j"]);
        assert_eq!((found.core_modules, found.components), (2, 1));
        assert_eq!(found.initial_memory, 3 << 16);
        assert!(found.code_size > 0 && found.data_size >= 3);
        assert_eq!(found.damage, None);
    }

    #[test]
    fn whatever_is_in_a_file_it_is_read_to_an_end() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../example/rust/rust.wasm");
        let bytes = std::fs::read(path).unwrap();
        let whole = Sections::read(&bytes);
        assert!(
            whole
                .languages
                .iter()
                .any(|language| language.name == "Rust")
        );
        assert_eq!(whole.damage, None);
        for end in (0..bytes.len()).step_by(bytes.len() / 200 + 1) {
            let part = Sections::read(bytes.get(..end).unwrap());
            assert!(part.damage.is_some(), "cut at {end}");
        }
        // Each byte for itself, with all bits turned.
        for at in (0..bytes.len()).step_by(bytes.len() / 500 + 1) {
            let mut bad = bytes.clone();
            bad[at] ^= 0xff;
            let found = Sections::read(&bad);
            assert!(found.imports.len() < 100, "byte {at}");
        }
        assert_eq!(Sections::read(b"\0asm\x01\0\0\0").kind, Kind::CoreModule);
        assert_eq!(Sections::read(b"text").kind, Kind::Unknown);
    }
}
