//! Where the guest components are.

use std::path::{Path, PathBuf};

use crate::host::Wasi;

/// The repository's root.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package has a parent").into()
}

/// The lab guest.
pub fn lab() -> PathBuf {
    lab_for(Wasi::V02)
}

/// The lab guest for a version of WASI.
pub fn lab_for(wasi: Wasi) -> PathBuf {
    root().join(match wasi {
        Wasi::V02 => "tests/guests/lab/lab.wasm",
        Wasi::V03 => "tests/guests/lab3/lab3.wasm",
    })
}

/// The guest of WASI 0.3 that uses what the host offers beside WASI.
pub fn caps3() -> PathBuf {
    root().join("tests/guests/caps3/caps3.wasm")
}

/// The guest for a group of capabilities: `caps-NAME`.
pub fn caps(name: &str) -> PathBuf {
    root().join(format!("tests/guests/caps-{name}/caps-{name}.wasm"))
}

/// The example.
pub fn hello() -> PathBuf {
    root().join("example/hello/hello.wasm")
}

/// The example of WASI 0.3.
pub fn hello_p3() -> PathBuf {
    root().join("example/hello-p3/hello-p3.wasm")
}

/// The example that lets through who has a token: alone, which is no service.
pub fn middleware() -> PathBuf {
    root().join("example/middleware/middleware.wasm")
}

/// The same, composed with [`hello_p3`].
pub fn middleware_with_hello() -> PathBuf {
    root().join("example/middleware/middleware-hello-p3.wasm")
}

/// The example with secrets.
pub fn secrets() -> PathBuf {
    root().join("example/secrets/secrets.wasm")
}

/// The cipher of the example, which is no service by itself.
pub fn cipher() -> PathBuf {
    root().join("example/cipher-service/cipher/cipher.wasm")
}

/// What serves it by HTTP: alone, which is no service either.
pub fn cipher_adapter() -> PathBuf {
    root().join("example/cipher-service/adapter/adapter.wasm")
}

/// The two in one.
pub fn cipher_service() -> PathBuf {
    root().join("example/cipher-service/adapter/adapter-cipher.wasm")
}

/// A guest that is too large to be committed, where it was built:
/// `tools/build-python-guest`, `tools/build-js-guest`, `tools/build-go-guest`.
pub fn built(name: &str) -> PathBuf {
    root().join(format!("build/guests/{name}.wasm"))
}

/// The folder of components that cannot serve, as text.
fn bad_folder() -> PathBuf {
    root().join("tests/guests/bad")
}

/// Their names.
pub fn bad_names() -> Vec<String> {
    let folder = bad_folder();
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_suffix(".wat")?.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// One of them in binary form.
pub fn bad(name: &str) -> Vec<u8> {
    let path = bad_folder().join(name).with_extension("wat");
    wat::parse_file(&path).unwrap_or_else(|error| panic!("{error}"))
}

/// Byte `index` of what the lab guest's `/download` sends.
fn download_byte(index: usize) -> u8 {
    (index * 31 + (index >> 8) * 17 + 7) as u8
}

/// What `/download` sends, which repeats after 64 KiB.
#[derive(Clone, Debug)]
pub struct Download {
    period: Vec<u8>,
    at: usize,
}

impl Default for Download {
    fn default() -> Self {
        let period = (0..1 << 16).map(download_byte).collect();
        Self { period, at: 0 }
    }
}

impl Download {
    /// Compares the next piece, and says where it differs.
    pub fn check(&mut self, piece: &[u8]) -> Result<(), String> {
        let mut rest = piece;
        while !rest.is_empty() {
            let from = self.at % self.period.len();
            let size = rest.len().min(self.period.len() - from);
            let (now, later) = rest.split_at(size);
            if now != &self.period[from..from + size] {
                return Err(format!("wrong bytes after {} bytes", self.at));
            }
            self.at += size;
            rest = later;
        }
        Ok(())
    }

    /// How many bytes have been compared.
    pub fn seen(&self) -> usize {
        self.at
    }

    /// The next `size` bytes.
    pub fn bytes(&mut self, size: usize) -> Vec<u8> {
        let bytes = (self.at..self.at + size).map(download_byte).collect();
        self.at += size;
        bytes
    }
}
