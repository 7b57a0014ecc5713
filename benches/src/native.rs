//! The native application, built on the spot against a Unit tree.

use std::path::{Path, PathBuf};
use std::process::Command;

/// libunit and what it needs of Unit's own library.
const OBJECTS: [&str; 5] = [
    "nxt_unit",
    "nxt_lvlhsh",
    "nxt_murmur_hash",
    "nxt_socket_msg",
    "nxt_websocket",
];

/// Compiles native/hello.c into `folder`.
pub fn build(tree: &Path, folder: &Path) -> Result<PathBuf, String> {
    let program = folder.join("native-app");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("native/hello.c");
    let mut command = Command::new("cc");
    command
        .args(["-O2", "-Wall", "-o"])
        .arg(&program)
        .arg(source);
    for include in ["src", "build/include"] {
        command.arg("-I").arg(tree.join(include));
    }
    for object in OBJECTS {
        command.arg(tree.join("build/src").join(object).with_extension("o"));
    }
    command.arg("-lpthread");
    match command.status() {
        Ok(status) if status.success() => Ok(program),
        Ok(status) => Err(format!("cc has not built the native application: {status}")),
        Err(error) => Err(format!("cc: {error}")),
    }
}
