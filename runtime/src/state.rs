//! What a store holds: the host side of one request.

use std::sync::{Arc, LazyLock};

use http::HeaderName;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::sockets::{TcpSocket, UdpSocket};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error as HttpError, ForbiddenHeaderFilter, RequestOptions, WasiBody,
    WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::grants::Grants;
use crate::host::filesystem::Quota;
use crate::host::outbound::{self, LifeGuard};
use crate::host::{Asking, Capabilities};
use crate::limits::Limits;
use crate::memory::MemoryBudget;
use crate::meter::Meter;
use crate::output::{Output, OutputStreamKind, Severity};
use crate::request::RequestContext;

/// Pieces of a response body that a guest can be ahead of the client.
const BODY_PIECES: usize = 8;
/// Largest such piece in bytes.
const BODY_PIECE: usize = 64 * 1024;

pub(crate) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    pub(crate) hooks: Hooks,
    pub(crate) output: Output,
    pub(crate) quota: Arc<Quota>,
    pub(crate) memory: MemoryBudget,
    pub(crate) meter: Arc<Meter>,
}

impl State {
    pub(crate) fn new(
        limits: &Limits,
        grants: &Grants,
        capabilities: &Arc<Capabilities>,
        context: &RequestContext,
        meter: Arc<Meter>,
    ) -> wasmtime::Result<Self> {
        let output = Output::new(context, limits.output, limits.output_line);
        let mut wasi = WasiCtx::builder();
        wasi.stdout(output.stream(OutputStreamKind::Stdout))
            .stderr(output.stream(OutputStreamKind::Stderr))
            .max_random_size(limits.host_call as u64);

        let room = Arc::clone(&capabilities.socket_room);
        let asking = Arc::new(Asking::new(context.clone(), room));
        grants.apply(&mut wasi, &asking)?;
        let quota = Arc::new(Quota::new(grants.write_quota, Arc::clone(&asking)));
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.resources);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(limits.header_fields);
        Ok(Self {
            wasi: wasi.build(),
            http,
            table,
            hooks: Hooks {
                incoming: false,
                asking,
                capabilities: Arc::clone(capabilities),
                life: LifeGuard::new(),
            },
            output,
            quota,
            memory: MemoryBudget::new(limits.memory),
            meter,
        })
    }
}

impl State {
    /// A further request begins, for which counting starts anew.
    pub(crate) fn renew(
        &mut self,
        limits: &Limits,
        context: &RequestContext,
        meter: Arc<Meter>,
        alone: bool,
    ) {
        self.meter = meter;
        self.memory.renew();
        self.output.renew(context, limits.output);
        let sockets = alone.then(|| {
            let resources = self.table.iter_mut();
            let sockets = resources.filter(|r| r.is::<TcpSocket>() || r.is::<UdpSocket>());
            u32::try_from(sockets.count()).unwrap_or(u32::MAX)
        });
        self.hooks.asking.renew(context, sockets);
        self.quota.renew();
    }

    /// What calls of `wasi:keyvalue` need.
    pub(crate) fn keyvalue(&mut self) -> (&mut ResourceTable, &Hooks) {
        (&mut self.table, &self.hooks)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}

/// How `wasi:http` behaves for one request.
pub(crate) struct Hooks {
    /// The header fields in question are the client's.
    pub(crate) incoming: bool,
    /// For whom host calls act.
    pub(crate) asking: Arc<Asking>,
    /// What they act with.
    pub(crate) capabilities: Arc<Capabilities>,
    /// Ends what it has sent when it ends.
    life: LifeGuard,
}

static GUEST_FILTER: LazyLock<ForbiddenHeaderFilter> =
    LazyLock::new(|| Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name)));
static CLIENT_FILTER: LazyLock<ForbiddenHeaderFilter> = LazyLock::new(|| Arc::new(|_| false));

impl WasiHttpHooks for Hooks {
    // A guest sees every field of its request, Host included; the fields it
    // makes itself may not interfere with the connection.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        !self.incoming && DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::clone(if self.incoming {
            &CLIENT_FILTER
        } else {
            &GUEST_FILTER
        })
    }

    fn send_request(
        &mut self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _body_error: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<dyn Future<Output = SentRequest> + Send> {
        let Some(http) = &self.capabilities.http else {
            let text = outbound::not_granted(request.uri());
            self.asking.notice(Severity::Warn, &text);
            return Box::new(async { Err(HttpError::HttpRequestDenied) });
        };
        if let Some(trace) = self.asking.who().trace {
            trace.continue_in(request.headers_mut());
        }
        let sent = http.send(&self.asking, self.life.life(), request, options);
        // Tasks of their own drive connections.
        Box::new(async {
            let driver: Box<dyn Future<Output = Result<(), HttpError>> + Send> =
                Box::new(async { Ok(()) });
            Ok((sent.await?, driver))
        })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        BODY_PIECES
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_PIECE
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_PIECE
    }
}

/// What sending a request yields: the response, and a future that drives the
/// connection while its body is read.
type SentRequest = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ),
    HttpError,
>;
