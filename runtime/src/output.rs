//! Guest stdout and stderr: whole lines to the operator's log.
//!
//! A guest can print at any speed, so lines are cut at a length, control
//! characters are escaped, and after a number of bytes the rest of a
//! request's output is dropped with one line that says so. Writing never
//! waits.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::host::secrets::CUT;
use crate::request::RequestContext;

/// Which of the guest's two output streams a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStreamKind {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStreamKind {
    /// `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Takes the lines that guests print.
pub trait GuestLog: Send + Sync {
    /// One line, without its line feed, escaped and bounded in length.
    /// Called on the thread that runs the guest; must not block for long.
    fn line(&self, request: &str, stream: OutputStreamKind, text: &str);

    /// A message that the guest has given a level, escaped and bounded like a
    /// line.
    fn message(&self, request: &str, severity: Severity, text: &str);

    /// Something that the operator should know of what a request did, as that
    /// a guest asked for what it has no grant for. The guest decides how often
    /// it happens: equal texts should be bounded in number. May be called on
    /// any thread.
    fn notice(&self, request: &str, severity: Severity, text: &str);
}

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Needs the operator at once.
    Alert,
    /// Something does not work that should.
    Error,
    /// Something was refused or looks wrong.
    Warn,
    /// Everyday news.
    Info,
    /// Only for looking for a fault.
    Debug,
}

impl Severity {
    /// The word used in settings, if `text` is one.
    pub fn from_name(text: &str) -> Option<Self> {
        Some(match text {
            "alert" => Self::Alert,
            "error" => Self::Error,
            "warn" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            _ => return None,
        })
    }
}

/// Most bytes taken in one write.
const WRITE: usize = 64 * 1024;

/// About the bytes that a line has in the log besides its text.
const RECORD: usize = 128;

/// Bounds shared by the two streams of a request.
struct Volume {
    limit: usize,
    left: usize,
    /// The operator has been told that the rest is dropped.
    told: bool,
}

impl Volume {
    /// Room for a line of `length` bytes: the line is to be logged as it is, or
    /// in its place what is returned as an error, or nothing at all.
    fn take(&mut self, length: usize) -> Result<(), Option<String>> {
        if self.left > length {
            // What a line costs in the log, though it be empty.
            self.left = self.left.saturating_sub(length + RECORD);
            return Ok(());
        }
        self.left = 0;
        if std::mem::replace(&mut self.told, true) {
            return Err(None);
        }
        Err(Some(format!(
            "output limit reached: {} bytes (UNIT_WASM_OUTPUT); the rest is dropped",
            self.limit
        )))
    }
}

/// What one request writes into the log: both output streams, and messages.
pub(crate) struct Output {
    request: RequestContext,
    volume: Arc<Mutex<Volume>>,
    line_limit: usize,
    /// Both streams. The guest may have them for longer than a request, if its
    /// instance serves several.
    streams: [OutputPipe; 2],
}

impl Output {
    pub(crate) fn new(request: &RequestContext, limit: usize, line_limit: usize) -> Self {
        let volume = Arc::new(Mutex::new(Volume {
            limit,
            left: limit,
            told: false,
        }));
        let stream = |kind| {
            OutputPipe(Arc::new(Mutex::new(LineBuffer {
                kind,
                request: request.clone(),
                volume: Arc::clone(&volume),
                limit: line_limit,
                line: Vec::new(),
                cut: false,
                since_pause: 0,
            })))
        };
        Self {
            request: request.clone(),
            line_limit,
            streams: [
                stream(OutputStreamKind::Stdout),
                stream(OutputStreamKind::Stderr),
            ],
            volume,
        }
    }

    /// A further request begins, which may write up to `limit` bytes. A line
    /// that has not ended is the last one's.
    pub(crate) fn renew(&mut self, request: &RequestContext, limit: usize) {
        for OutputPipe(lines) in &self.streams {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.flush_rest();
            lines.request = request.clone();
        }
        let mut volume = self.volume.lock().unwrap_or_else(PoisonError::into_inner);
        volume.left = limit;
        volume.told = false;
        self.request = request.clone();
    }

    /// Logs a message of the guest's, unless it matters less than `least`.
    pub(crate) fn message(&self, least: Severity, severity: Severity, context: &str, text: &str) {
        if severity > least {
            return;
        }
        let message = if context.is_empty() {
            text.to_owned()
        } else {
            format!("{context}: {text}")
        };
        let shown = message.floor_char_boundary(self.line_limit);
        let text = match self.volume.lock().map(|mut volume| volume.take(shown)) {
            Ok(Ok(())) => shown_text(message.as_bytes(), shown, shown < message.len()),
            Ok(Err(Some(told))) => told,
            Ok(Err(None)) | Err(_) => return,
        };
        let RequestContext { id, log, .. } = &self.request;
        log.message(id, severity, &text);
    }

    /// The stream to give to the guest as `kind`.
    pub(crate) fn stream(&self, kind: OutputStreamKind) -> OutputPipe {
        let [stdout, stderr] = &self.streams;
        match kind {
            OutputStreamKind::Stdout => stdout.clone(),
            OutputStreamKind::Stderr => stderr.clone(),
        }
    }

    /// The request has ended: what is left of the last lines is logged.
    pub(crate) fn end(&self) {
        for OutputPipe(lines) in &self.streams {
            lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .flush_rest();
        }
    }
}

/// Assembles lines of one stream. What is left is logged when it is dropped.
struct LineBuffer {
    kind: OutputStreamKind,
    request: RequestContext,
    volume: Arc<Mutex<Volume>>,
    limit: usize,
    line: Vec<u8>,
    cut: bool,
    /// Bytes written by a stream of WASI 0.3 since others had their turn.
    since_pause: usize,
}

impl LineBuffer {
    fn push(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (head, tail) = bytes.split_at(end);
            self.append(head);
            self.flush();
            bytes = tail.get(1..).unwrap_or_default();
        }
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = self.limit.saturating_sub(self.line.len());
        match bytes.get(..room) {
            Some(head) if bytes.len() > room => {
                self.line.extend_from_slice(head);
                self.cut = true;
            }
            _ => self.line.extend_from_slice(bytes),
        }
    }

    fn flush(&mut self) {
        let line = std::mem::take(&mut self.line);
        let cut = std::mem::take(&mut self.cut);
        let text = match self.volume.lock().map(|mut volume| volume.take(line.len())) {
            Ok(Ok(())) => shown_text(&line, line.len(), cut),
            Ok(Err(Some(told))) => told,
            Ok(Err(None)) | Err(_) => return,
        };
        let RequestContext { id, log, .. } = &self.request;
        log.line(id, self.kind, &text);
    }

    fn flush_rest(&mut self) {
        if !self.line.is_empty() {
            self.flush();
        }
    }
}

impl Drop for LineBuffer {
    fn drop(&mut self) {
        self.flush_rest();
    }
}

/// The first `length` bytes of a line as the log has them.
pub(crate) fn shown_text(line: &[u8], length: usize, cut: bool) -> String {
    let mut text = escape(line.get(..length).unwrap_or(line));
    if cut {
        text.push_str(CUT);
    }
    text
}

/// Printable text: control characters and invalid UTF-8 become `\xNN`.
fn escape(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => text.push(c),
                c if c.is_control() => {
                    let mut utf8 = [0; 4];
                    for byte in c.encode_utf8(&mut utf8).bytes() {
                        push_hex(&mut text, byte);
                    }
                }
                c => text.push(c),
            }
        }
        for &byte in chunk.invalid() {
            push_hex(&mut text, byte);
        }
    }
    text
}

fn push_hex(text: &mut String, byte: u8) {
    text.push_str("\\x");
    for digit in [byte >> 4, byte & 0xf] {
        text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
    }
}

/// One output stream as the guest gets it. Clones write to the same lines.
#[derive(Clone)]
pub(crate) struct OutputPipe(Arc<Mutex<LineBuffer>>);

impl OutputPipe {
    fn push(&self, bytes: &[u8]) {
        if let Ok(mut lines) = self.0.lock() {
            lines.since_pause += bytes.len();
            lines.push(bytes);
        }
    }
}

impl IsTerminal for OutputPipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for OutputPipe {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for OutputPipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for OutputPipe {
    async fn ready(&mut self) {}
}

impl AsyncWrite for OutputPipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // What comes from another stream of the host comes without the guest, and
        // could come for ever: others have to have their turn.
        if let Ok(mut lines) = self.0.lock()
            && std::mem::replace(&mut lines.since_pause, 0) >= WRITE
        {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let taken = bytes.get(..WRITE).unwrap_or(bytes);
        self.push(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl GuestLog for Lines {
        fn line(&self, request: &str, stream: OutputStreamKind, text: &str) {
            let line = format!("{request} {}: {text}", stream.as_str());
            self.0.lock().unwrap().push(line);
        }

        fn message(&self, request: &str, severity: Severity, text: &str) {
            let line = format!("{request} {severity:?} message: {text}");
            self.0.lock().unwrap().push(line);
        }

        fn notice(&self, request: &str, severity: Severity, text: &str) {
            let line = format!("{request} {severity:?}: {text}");
            self.0.lock().unwrap().push(line);
        }
    }

    fn printed(limit: usize, line_limit: usize, pieces: &[&[u8]]) -> Vec<String> {
        let log = Arc::new(Lines::default());
        let request = RequestContext::new("id", Arc::clone(&log) as _);
        let output = Output::new(&request, limit, line_limit);
        let pipe = output.stream(OutputStreamKind::Stdout);
        for piece in pieces {
            pipe.push(piece);
        }
        drop((pipe, output));
        log.0.lock().unwrap().clone()
    }

    #[test]
    fn lines_are_assembled_from_pieces_and_the_last_needs_no_line_feed() {
        let lines = printed(10_000, 100, &[b"he", b"llo\nwor", b"ld\n\nend"]);
        assert_eq!(
            lines,
            [
                "id stdout: hello",
                "id stdout: world",
                "id stdout: ",
                "id stdout: end"
            ]
        );
    }

    #[test]
    fn control_characters_and_bad_utf8_are_escaped() {
        let lines = printed(10_000, 100, &[b"a\x1b[31m\tb\xff\xc2\x85 \xc3\xa4\r\n"]);
        assert_eq!(lines, ["id stdout: a\\x1b[31m\tb\\xff\\xc2\\x85 ä\\x0d"]);
    }

    #[test]
    fn long_lines_are_cut() {
        let lines = printed(10_000, 4, &[b"123", b"45", b"6\nab\n"]);
        assert_eq!(lines, ["id stdout: 1234...[cut]", "id stdout: ab"]);
    }

    #[test]
    fn volume_is_bounded_and_told_once() {
        let lines = printed(RECORD, 100, &[b"12345\n", b"678\n", b"9\n", b"0\n"]);
        assert_eq!(
            lines,
            [
                "id stdout: 12345",
                "id stdout: output limit reached: 128 bytes (UNIT_WASM_OUTPUT); the rest is dropped"
            ]
        );
    }

    /// What comes from a stream of the host comes without the guest's doing.
    #[test]
    fn a_large_write_is_taken_in_parts_between_which_others_have_their_turn() {
        struct Woken(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let request = RequestContext::new("id", Arc::new(Lines::default()));
        let mut pipe = Output::new(&request, 1000, 100).stream(OutputStreamKind::Stdout);
        let woken = Arc::new(Woken(false.into()));
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        let bytes = vec![b'\n'; 3 * WRITE];
        let mut write = || match Pin::new(&mut pipe).poll_write(&mut cx, &bytes) {
            Poll::Ready(taken) => Some(taken.unwrap()),
            Poll::Pending => None,
        };
        for _ in 0..3 {
            assert_eq!(write(), Some(WRITE));
            assert_eq!(write(), None);
        }
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed));
    }
}
