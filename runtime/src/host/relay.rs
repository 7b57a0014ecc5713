//! Streams of WASI 0.3 that pass through the host in steps.
//!
//! Wasmtime moves what comes from one stream of the host to another without the
//! guest, and without ever giving way. A step between them gives others their turn,
//! and is where what is written can be counted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Destination, Source, StreamConsumer, StreamProducer, StreamReader, StreamResult,
};

use super::filesystem::Quota;
use crate::state::State;

/// Bytes passed on at once.
const PIECE: usize = 64 * 1024;

/// What comes by `data`, in steps.
pub(super) fn paced(
    store: &mut StoreContextMut<'_, State>,
    data: StreamReader<u8>,
) -> wasmtime::Result<StreamReader<u8>> {
    let (passed_on, _) = relay(store, data, None)?;
    Ok(passed_on)
}

/// What comes by `data`, as far as the quota goes, and whether that is exceeded.
pub(super) fn within(
    store: &mut StoreContextMut<'_, State>,
    data: StreamReader<u8>,
    quota: Arc<Quota>,
) -> wasmtime::Result<(StreamReader<u8>, Arc<AtomicBool>)> {
    relay(store, data, Some(quota))
}

fn relay(
    store: &mut StoreContextMut<'_, State>,
    data: StreamReader<u8>,
    quota: Option<Arc<Quota>>,
) -> wasmtime::Result<(StreamReader<u8>, Arc<AtomicBool>)> {
    let exceeded = Arc::new(AtomicBool::new(false));
    let (pieces, passed_on) = mpsc::channel(1);
    let counting = Counting {
        pieces: PollSender::new(pieces),
        quota,
        exceeded: Arc::clone(&exceeded),
    };
    data.pipe(&mut *store, counting)?;
    let passed_on = StreamReader::new(&mut *store, PassedOn(passed_on))?;
    Ok((passed_on, exceeded))
}

/// Takes what is written, asks the quota, and passes it on.
struct Counting {
    pieces: PollSender<Bytes>,
    quota: Option<Arc<Quota>>,
    exceeded: Arc<AtomicBool>,
}

impl<D: 'static> StreamConsumer<D> for Counting {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, D>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        match self.pieces.poll_reserve(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Ok(StreamResult::Dropped)),
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        }
        let mut source = source.as_direct(store);
        let written = source.remaining();
        let piece = Bytes::copy_from_slice(written.get(..PIECE).unwrap_or(written));
        let length = piece.len();
        let allowed = self
            .quota
            .as_ref()
            .is_none_or(|quota| quota.take(length as u64));
        if !allowed {
            self.exceeded.store(true, Ordering::Relaxed);
            self.pieces.close();
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        if self.pieces.send_item(piece).is_err() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        source.mark_read(length);
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

/// What has been taken, as a stream.
struct PassedOn(mpsc::Receiver<Bytes>);

impl<D: 'static> StreamProducer<D> for PassedOn {
    type Item = u8;
    type Buffer = Bytes;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, u8, Bytes>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        match self.0.poll_recv(cx) {
            Poll::Ready(Some(piece)) => {
                destination.set_buffer(piece);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(None) => Poll::Ready(Ok(StreamResult::Dropped)),
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
        }
    }
}
