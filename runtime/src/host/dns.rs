//! Addresses of names.

mod config;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::timeout;

pub use config::DnsConfig;

use crate::host::event_loop::PerLoop;
use crate::host::net::{NotAName, host_name};

/// Answers that are kept for as long as their servers allow.
const CACHE: u64 = 1024;
/// But no longer than this, whatever they allow.
const CACHED: Duration = Duration::from_secs(300);
/// Addresses of one name that are used at most.
const ADDRESSES: usize = 64;
/// For addresses of one family, when there are some of the other: servers that
/// never answer for one of them are not rare.
const OTHER_FAMILY: Duration = Duration::from_millis(500);

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error(transparent)]
    NotAName(#[from] NotAName),
    #[error("no name server answers in time")]
    Timeout,
    /// With the answer's code, as `NXDOMAIN`.
    #[error("the name server says {0}")]
    Refused(&'static str),
    #[error("there is no address of that name")]
    NoAddress,
    #[error("{0}")]
    Failed(String),
}

/// Asks for names, from any event loop.
pub(crate) struct Resolver {
    config: DnsConfig,
    loops: PerLoop<TokioResolver>,
}

impl Resolver {
    /// A resolver as `config` describes it. Needs no event loop yet.
    pub fn new(config: DnsConfig) -> Self {
        Self {
            config,
            loops: PerLoop::default(),
        }
    }

    /// The addresses of `name`, at least one, in the order in which they should
    /// be tried. None of them is checked for anything. An address is its own
    /// name.
    ///
    /// Has to be polled on an event loop; waits no longer than the
    /// configuration says.
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![address.to_canonical()]);
        }
        let name = host_name(name)?;
        if name == "localhost" {
            // Whatever a name server or a file says of it.
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        if let Some(addresses) = self.config.hosts.get(&name) {
            return Ok(addresses.iter().map(IpAddr::to_canonical).collect());
        }
        let client = self.loops.get(|| self.client().ok());
        let client = client.ok_or_else(|| ResolveError::Failed("no resolver".to_owned()))?;
        let attempts = u32::try_from(self.config.attempts).unwrap_or(1);
        let most = self.config.timeout.saturating_mul(attempts.max(1));
        timeout(most, ask(&client, &name))
            .await
            .unwrap_or(Err(ResolveError::Timeout))
    }

    fn client(&self) -> Result<TokioResolver, NetError> {
        let servers = self.config.servers.iter().map(|address| {
            let connection = |mut to: ConnectionConfig| {
                to.port = address.port();
                to
            };
            let udp = connection(ConnectionConfig::udp());
            let tcp = connection(ConnectionConfig::tcp());
            NameServerConfig::new(address.ip(), true, vec![udp, tcp])
        });
        let search = self.config.search.iter();
        let search = search.filter_map(|domain| Name::from_ascii(format!("{domain}.")).ok());
        let config = ResolverConfig::from_parts(None, search.collect(), servers.collect());
        let mut options = ResolverOpts::default();
        options.ndots = self.config.ndots;
        options.timeout = self.config.timeout;
        options.attempts = self.config.attempts.saturating_sub(1);
        options.cache_size = CACHE;
        options.positive_max_ttl = Some(CACHED);
        options.negative_max_ttl = Some(CACHED);
        options.use_hosts_file = ResolveHosts::Never;
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
    }
}

/// Both families at once, IPv6 first in turn.
async fn ask(client: &TokioResolver, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let name = Name::from_ascii(name).map_err(|e| ResolveError::Failed(e.to_string()))?;
    let family = async |kind| -> Result<Vec<IpAddr>, NetError> {
        let found = client.lookup(name.clone(), kind).await?;
        let addresses = found.answers().iter().filter_map(|r| r.data.ip_addr());
        Ok(addresses.map(|ip| ip.to_canonical()).collect())
    };
    let four = family(RecordType::A);
    let six = family(RecordType::AAAA);
    tokio::pin!(four, six);
    let (four, six) = tokio::select! {
        four = &mut four => {
            let six = the_other(&four, six).await;
            (four, six)
        }
        six = &mut six => {
            let four = the_other(&six, four).await;
            (four, six)
        }
    };
    match (four, six) {
        (Err(four), Err(six)) => Err(describe(
            // That there is no address of one family says less than an error.
            if is_absent(&four) { &six } else { &four },
        )),
        (Ok(found), Err(error)) | (Err(error), Ok(found)) if found.is_empty() => {
            Err(describe(&error))
        }
        (four, six) => {
            let all = interleave(six.unwrap_or_default(), four.unwrap_or_default());
            let some = !all.is_empty();
            some.then_some(all).ok_or(ResolveError::NoAddress)
        }
    }
}

/// Whether the name exists but has no address of the kind.
fn is_absent(error: &NetError) -> bool {
    error.is_no_records_found() && !error.is_nx_domain()
}

async fn the_other<T>(
    first: &Result<Vec<IpAddr>, NetError>,
    other: impl Future<Output = Result<T, NetError>>,
) -> Result<T, NetError> {
    match first {
        Ok(addresses) if !addresses.is_empty() => timeout(OTHER_FAMILY, other)
            .await
            .unwrap_or(Err(NetError::Timeout)),
        _ => other.await,
    }
}

fn interleave(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    while all.len() < ADDRESSES {
        let before = all.len();
        all.extend(first.next());
        all.extend(second.next());
        if all.len() == before {
            break;
        }
    }
    all
}

fn describe(error: &NetError) -> ResolveError {
    let code = match error {
        NetError::Timeout => return ResolveError::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(none)) => none.response_code,
        NetError::Dns(DnsError::ResponseCode(code)) => *code,
        other => return ResolveError::Failed(other.to_string()),
    };
    match code {
        ResponseCode::NoError => ResolveError::NoAddress,
        ResponseCode::NXDomain => ResolveError::Refused("NXDOMAIN"),
        ResponseCode::ServFail => ResolveError::Refused("SERVFAIL"),
        ResponseCode::Refused => ResolveError::Refused("REFUSED"),
        ResponseCode::FormErr => ResolveError::Refused("FORMERR"),
        ResponseCode::NotImp => ResolveError::Refused("NOTIMP"),
        other => ResolveError::Failed(other.to_string()),
    }
}
