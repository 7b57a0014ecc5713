//! Errors of loading a component and of running a request.

use std::fmt;

use http::StatusCode;

/// Why a component cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes are no WebAssembly at all.
    #[error("not a WebAssembly file: it begins with {0:02x?}")]
    NotWasm(Vec<u8>),
    /// A core module where a component is needed.
    #[error(
        "a core WebAssembly module, not a component: build it for wasm32-wasip2, \
         or make a component of it with `wasm-tools component new`"
    )]
    CoreModule,
    /// The component failed validation or compilation.
    #[error("the component cannot be compiled: {0}")]
    Compile(String),
    /// The component has another world than the one served here.
    #[error(
        "no export `wasi:http/incoming-handler@0.2.x` or `wasi:http/handler@0.3.x`: this is \
         not an HTTP component of world `wasi:http/proxy` or `wasi:http/service`{hint} \
         (it exports: {exports})"
    )]
    NoHandler {
        /// What to do about it, if that is known.
        hint: &'static str,
        /// What it exports instead.
        exports: String,
    },
    /// It has that export, and it is something else.
    #[error("its export `{name}` is not that of an HTTP component: {problem}")]
    Handler {
        /// Name of the export.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something the component imports is not provided.
    #[error("unsatisfied import: {0}")]
    Import(String),
    /// It imports what has to be granted, and is not.
    #[error("it imports `{import}`, which is not granted: that takes {settings}")]
    NotGranted {
        /// Full name of the interface.
        import: String,
        /// The settings that would grant it.
        settings: &'static str,
    },
    /// It passes requests on to another component that is not there.
    #[error(
        "it imports `{import}`: it is made to stand before another component, and has to be \
         composed with that one first, as by `wac plug`"
    )]
    NotComposed {
        /// Full name of the interface.
        import: String,
    },
    /// Making an instance fails.
    #[error("no instance of the component can be made: {0}")]
    Start(String),
    /// The component cannot even start under the configured memory limit.
    #[error(
        "the component needs {needed} bytes of memory at start, more than the limit of \
         {limit} bytes: raise UNIT_WASM_MEMORY"
    )]
    Memory {
        /// Bytes its linear memories have from the beginning.
        needed: u64,
        /// The configured limit in bytes.
        limit: u64,
    },
    /// A compiled artifact does not fit this engine.
    #[error("the compiled artifact cannot be loaded: {0}")]
    Artifact(String),
    /// The engine or its instance pool could not be set up.
    #[error("the WebAssembly engine cannot be set up: {0}")]
    Engine(String),
    /// A granted directory cannot be opened.
    #[error("cannot open the directory `{path}` of access.filesystem: {error}")]
    Directory {
        /// The path on the host.
        path: String,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// A bucket cannot be used.
    #[error("keyvalue bucket `{bucket}` (UNIT_WASM_KEYVALUE): {problem}")]
    Keyvalue {
        /// Its name, or `*` for all of them.
        bucket: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Reading or writing an artifact failed.
    #[error("{context}: {error}")]
    Io {
        /// What was being done.
        context: &'static str,
        /// What the operating system said.
        error: std::io::Error,
    },
}

impl LoadError {
    /// Of a component that has only `exports`.
    pub(crate) fn no_handler(exports: &[String]) -> Self {
        let candidate = |name: &String| name.starts_with("wasi:http/handler@0.3.0-rc");
        Self::NoHandler {
            hint: match exports.iter().any(candidate) {
                true => ", but of a release candidate of 0.3: build it anew with tools for 0.3.0",
                false => "",
            },
            exports: match exports {
                [] => "nothing".to_owned(),
                names => names.join(", "),
            },
        }
    }
}

/// Why a request failed, as logs, counters and documentation name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The guest trapped, panicked, aborted, exited or overflowed its stack.
    Trap,
    /// The guest returned without having set a response.
    NoResponse,
    /// The guest's response cannot be sent as it is.
    InvalidResponse,
    /// The guest died after being refused memory.
    Memory,
    /// The guest used up its fuel.
    Fuel,
    /// The guest used up its CPU time.
    CpuTime,
    /// The guest did not answer, or not go on answering, in time.
    Timeout,
    /// No instance could be had for the request.
    Overload,
    /// Too many requests before it have failed.
    Breaker,
    /// The process was told to quit and its drain time is over.
    Drain,
    /// The server in front did not take the response, or give the request.
    Delivery,
}

impl Reason {
    /// All of them, in the order of the failure table.
    pub const ALL: [Self; 11] = [
        Self::Trap,
        Self::NoResponse,
        Self::InvalidResponse,
        Self::Memory,
        Self::Fuel,
        Self::CpuTime,
        Self::Timeout,
        Self::Overload,
        Self::Breaker,
        Self::Drain,
        Self::Delivery,
    ];

    /// The word used in logs and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::NoResponse => "no-response",
            Self::InvalidResponse => "invalid-response",
            Self::Memory => "memory",
            Self::Fuel => "fuel",
            Self::CpuTime => "cpu-time",
            Self::Timeout => "timeout",
            Self::Overload => "overload",
            Self::Breaker => "breaker",
            Self::Drain => "drain",
            Self::Delivery => "delivery",
        }
    }

    /// The status that a client sees when no response head has been sent.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Trap | Self::NoResponse | Self::InvalidResponse | Self::Memory => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Fuel | Self::CpuTime | Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Overload | Self::Breaker | Self::Drain | Self::Delivery => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of a request that failed. The text is for the operator's log, not
/// for the client.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Failure {
    /// The row of the failure table.
    pub reason: Reason,
    /// What happened, with the guest's backtrace if there is one; can have
    /// several lines.
    pub detail: String,
}

/// Longest explanation in bytes.
const DETAIL: usize = 8 * 1024;

impl Failure {
    /// A failure for `reason` with an explanation for the operator.
    ///
    /// The text can come from the guest, so its length is bounded.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if detail.len() > DETAIL {
            detail.truncate(detail.floor_char_boundary(DETAIL));
            detail.push_str("...[cut]");
        }
        Self { reason, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_reasons_stand_at_their_own_index() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason}");
        }
    }
}
