//! What one request may use up.

use std::time::Duration;

/// One mebibyte in bytes.
pub const MIB: usize = 1024 * 1024;

/// Bounds on a request and on a process that serves requests.
///
/// The values are expected to have been checked by whoever read them from a
/// configuration; this crate takes them as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all linear memories and tables of one request together.
    /// At most 4 GiB.
    pub memory: usize,
    /// Wasmtime fuel per request, or `None` for no metering.
    pub fuel: Option<u64>,
    /// Time spent executing the guest, waiting not counted.
    pub cpu_time: Duration,
    /// Wall-clock time until the guest has set its response; also the time
    /// a guest may go on after its response is complete.
    pub timeout: Duration,
    /// Bytes of WebAssembly stack.
    pub stack: usize,
    /// Requests in flight per process; the instance pool is sized for it.
    pub concurrency: u32,
    /// Bytes of guest output (stdout and stderr together) logged per request.
    pub output: usize,
    /// Longest guest output line, in bytes, before it is cut.
    pub output_line: usize,
    /// Entries in the host's table of resources that one request may hold.
    pub resources: usize,
    /// Bytes a guest may pass to the host in one call, and bytes of random
    /// data it may ask for in one call.
    pub host_call: usize,
    /// Bytes of header fields that a guest may build in one field map.
    pub header_fields: usize,
    /// Whether requests get a fresh instance each.
    pub reuse: Reuse,
}

/// Requests that one instance may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// In all; 1 if each request is to have a fresh instance.
    pub requests: u32,
    /// At once. More than 1 takes a component of WASI 0.3.
    pub concurrent: u32,
}

impl Default for Reuse {
    fn default() -> Self {
        Self {
            requests: 1,
            concurrent: 1,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 256 * MIB,
            fuel: None,
            cpu_time: Duration::from_secs(10),
            timeout: Duration::from_secs(60),
            stack: 512 * 1024,
            concurrency: 128,
            output: MIB,
            output_line: 8 * 1024,
            resources: 1_000,
            host_call: 16 * MIB,
            header_fields: 128 * 1024,
            reuse: Reuse::default(),
        }
    }
}
