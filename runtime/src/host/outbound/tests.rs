//! Outbound HTTP against servers of the test's own. Where a public address would
//! be needed, one of loopback that a rule names stands for it.

mod bodies;
mod connections;
mod failures;
mod limits;
mod names;
mod rules;
mod tls;

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use wasmtime_wasi_http::WasiBody;

use super::*;
use crate::host::dns::DnsConfig;
use crate::host::test_peers::Peer;
use crate::output::{GuestLog, OutputStreamKind};

#[derive(Default)]
struct Notices(Mutex<Vec<String>>);

impl GuestLog for Notices {
    fn line(&self, _: &str, _: OutputStreamKind, _: &str) {}
    fn message(&self, _: &str, _: Severity, _: &str) {}
    fn notice(&self, _: &str, _: Severity, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// A process with its guest.
struct Bench {
    outbound: Arc<Outbound>,
    asking: Arc<Asking>,
    notices: Arc<Notices>,
    store: LifeGuard,
}

type Answered = Result<http::Response<WasiBody>, Error>;

impl Bench {
    fn new(rules: &[&str]) -> Self {
        Self::with(rules, |_, _| {})
    }

    fn with(rules: &[&str], change: impl FnOnce(&mut HttpGrant, &mut DnsConfig)) -> Self {
        let mut grant = HttpGrant {
            rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
            ..HttpGrant::default()
        };
        // Nobody answers there.
        let mut dns = DnsConfig {
            servers: vec!["127.0.0.1:1".parse().unwrap()],
            timeout: Duration::from_secs(2),
            attempts: 1,
            ..DnsConfig::default()
        };
        change(&mut grant, &mut dns);
        let notices = Arc::<Notices>::default();
        Self {
            outbound: Arc::new(Outbound::new(grant, Arc::new(Resolver::new(dns)))),
            asking: Arc::new(Asking::alone("r1", Arc::clone(&notices) as _)),
            notices,
            store: LifeGuard::new(),
        }
    }

    /// May ask `peer`, and nobody else.
    fn for_peer(peer: &Peer) -> Self {
        Self::new(&[&format!("http://{}", peer.addr)])
    }

    /// The next incoming request.
    fn renew(&mut self) {
        let log = Arc::clone(&self.notices);
        self.asking = Arc::new(Asking::alone("r2", log as _));
    }

    fn send(
        &self,
        request: http::Request<WasiBody>,
    ) -> impl Future<Output = Answered> + Send + use<> {
        let life = self.store.life();
        self.outbound.send(&self.asking, life, request, None)
    }

    async fn get(&self, url: &str) -> Answered {
        self.send(get(url)).await
    }

    /// The body of the answer to a GET.
    async fn text(&self, url: &str) -> Result<String, Error> {
        let body = self.get(url).await?.into_body().collect().await?;
        Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
    }

    /// What a GET fails with, by name.
    async fn error(&self, url: &str) -> String {
        name(&self.text(url).await.unwrap_err())
    }

    /// The only notice so far.
    fn notice(&self) -> String {
        let mut notices = self.notices.0.lock().unwrap();
        assert_eq!(notices.len(), 1, "{notices:?}");
        notices.remove(0)
    }
}

fn get(url: &str) -> http::Request<WasiBody> {
    let body = Empty::<Bytes>::new().map_err(|never| match never {});
    http::Request::get(url).body(body.boxed_unsync()).unwrap()
}

fn post(url: &str, body: WasiBody) -> http::Request<WasiBody> {
    http::Request::post(url).body(body).unwrap()
}

/// An error by its name, with what it says.
fn name(error: &Error) -> String {
    format!("{error:?}")
}
