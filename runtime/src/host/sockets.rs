//! `wasi:sockets`: every address that a guest uses is checked.
//!
//! What binds a socket to no address in particular, as the system does by itself
//! before it connects, is not refused: it reaches nobody and lets nobody in.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::getrlimit;
use wasmtime::StoreContextMut;
use wasmtime::component::{Access, Linker, Resource, StreamReader};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::SocketError;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::{tcp_create_socket, udp_create_socket};
use wasmtime_wasi::p3::bindings::sockets::types as p3;
use wasmtime_wasi::p3::bindings::sockets::types::HostTcpSocketWithStore as _;
use wasmtime_wasi::sockets::{SocketAddrUse, TcpSocket, WasiSockets, WasiSocketsView as _};

use crate::host::Asking;
use crate::host::net::{AddressRule, NameRule, RuleError};
use crate::host::relay::paced;
use crate::output::Severity;
use crate::state::State;

/// What begins a rule for sockets that others may connect or send to.
const LISTEN: &str = "listen:";

/// An address that guests may connect or send to, or, after `listen:`, at which
/// they may wait for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketRule {
    address: AddressRule,
    listen: bool,
}

impl FromStr for SocketRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (address, listen) = match text.strip_prefix(LISTEN) {
            Some(address) => (address, true),
            None => (text, false),
        };
        Ok(Self {
            address: address.parse()?,
            listen,
        })
    }
}

/// Which sockets guests may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketGrant {
    /// TCP.
    pub tcp: Vec<SocketRule>,
    /// UDP.
    pub udp: Vec<SocketRule>,
    /// Names whose addresses guests may ask for.
    pub names: Vec<NameRule>,
}

/// What becomes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allowed,
    /// Not by the guest's doing: nobody wants to read of it.
    Dropped,
    Refused {
        action: &'static str,
        setting: &'static str,
        listen: bool,
    },
}

impl SocketGrant {
    /// Gives one request the sockets of this grant.
    pub(crate) fn apply(self: &Arc<Self>, wasi: &mut WasiCtxBuilder, asking: &Arc<Asking>) {
        if self.tcp.is_empty() && self.udp.is_empty() {
            return;
        }
        let (grant, asking) = (Arc::clone(self), Arc::clone(asking));
        wasi.allow_tcp(!self.tcp.is_empty())
            .allow_udp(!self.udp.is_empty())
            .socket_addr_check(move |address, usage| {
                let allowed = grant.check(address, usage, &asking);
                Box::pin(std::future::ready(allowed))
            });
    }

    fn check(&self, address: SocketAddr, usage: SocketAddrUse, asking: &Asking) -> bool {
        match self.verdict(address, usage) {
            // What is accepted is a socket as well.
            Verdict::Allowed if matches!(usage, SocketAddrUse::TcpAccept) => room(asking).is_ok(),
            Verdict::Allowed => true,
            Verdict::Dropped => false,
            Verdict::Refused {
                action,
                setting,
                listen,
            } => {
                let rule = Needed { address, listen };
                let text = format!("{action} {address} refused: {setting} would need {rule}");
                asking.notice(Severity::Warn, &text);
                false
            }
        }
    }

    fn verdict(&self, address: SocketAddr, usage: SocketAddrUse) -> Verdict {
        let may = |rules: &[SocketRule], listen: bool| {
            let mut rules = rules.iter().filter(|rule| rule.listen == listen);
            rules.any(|rule| rule.address.matches(address))
        };
        let listens = |rules: &[SocketRule]| rules.iter().any(|rule| rule.listen);
        let anywhere = address.ip().is_unspecified() && address.port() == 0;
        let tcp = |action, listen| Verdict::Refused {
            action,
            setting: "UNIT_WASM_ALLOW_TCP",
            listen,
        };
        let udp = |action, listen| Verdict::Refused {
            action,
            setting: "UNIT_WASM_ALLOW_UDP",
            listen,
        };
        let (allowed, otherwise) = match usage {
            SocketAddrUse::TcpBind => (
                anywhere || may(&self.tcp, true),
                tcp("binding a TCP socket to", true),
            ),
            SocketAddrUse::TcpListen => (may(&self.tcp, true), tcp("listening on TCP", true)),
            SocketAddrUse::TcpAccept => (listens(&self.tcp), Verdict::Dropped),
            SocketAddrUse::TcpConnect => {
                (may(&self.tcp, false), tcp("connecting by TCP to", false))
            }
            SocketAddrUse::UdpBind => (
                // Who may listen receives from anybody, so it has to be where
                // the rule says.
                may(&self.udp, true) || (anywhere && !listens(&self.udp)),
                udp("binding a UDP socket to", true),
            ),
            SocketAddrUse::UdpSend => (may(&self.udp, false), udp("sending by UDP to", false)),
            SocketAddrUse::UdpReceive => (
                may(&self.udp, false) || listens(&self.udp),
                Verdict::Dropped,
            ),
        };
        if allowed { Verdict::Allowed } else { otherwise }
    }
}

/// Sockets that one request may make.
const SOCKETS: u32 = 256;

/// Sockets after which an instance that several requests share takes no further
/// one. How many of them are open is not known, so all it has made are counted.
pub(crate) const SHARED_SOCKETS: u32 = SOCKETS / 2;

/// Sockets of all requests of a process. They take descriptors, of which the
/// process needs some for everything else.
pub(crate) struct SocketRoom {
    made: AtomicU32,
    most: u32,
}

impl SocketRoom {
    /// Half of the descriptors that this process may have.
    pub fn new() -> Self {
        let limit = getrlimit(rustix::process::Resource::Nofile)
            .maximum
            .unwrap_or(1 << 20);
        Self {
            made: AtomicU32::new(0),
            most: u32::try_from(limit / 2).unwrap_or(u32::MAX),
        }
    }

    /// Sockets of a request that has ended.
    pub fn give_back(&self, sockets: u32) {
        self.made.fetch_sub(sockets, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy)]
enum Protocol {
    Tcp,
    Udp,
}

/// Counts a socket that the guest wants to make.
fn count(state: &State, protocol: Protocol) -> Result<(), ErrorCode> {
    let hooks = &state.hooks;
    let grant = &hooks.capabilities.sockets;
    let (rules, kind, setting) = match protocol {
        Protocol::Tcp => (&grant.tcp, "TCP", "UNIT_WASM_ALLOW_TCP"),
        Protocol::Udp => (&grant.udp, "UDP", "UNIT_WASM_ALLOW_UDP"),
    };
    if rules.is_empty() {
        // It cannot be made, so nobody will learn which address it is for.
        let text = format!(
            "a {kind} socket refused: {setting} is not set, and would need the address that \
             the guest uses it for"
        );
        hooks.asking.notice(Severity::Warn, &text);
    }
    room(&hooks.asking)
}

/// Takes room for a socket.
fn room(asking: &Asking) -> Result<(), ErrorCode> {
    let room = &asking.socket_room;
    if !Asking::count(&room.made, room.most) {
        let text = "a socket refused: the guests of this process have half of its descriptors";
        asking.notice(Severity::Error, text);
        return Err(ErrorCode::NewSocketLimit);
    }
    if !Asking::count(&asking.sockets, SOCKETS) {
        room.give_back(1);
        let text = format!("a socket refused: the request has made {SOCKETS} (fixed)");
        asking.notice(Severity::Warn, &text);
        return Err(ErrorCode::NewSocketLimit);
    }
    Ok(())
}

/// What a function of the interfaces returns.
type Made<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

fn made<T>(socket: Result<T, SocketError>) -> Made<T> {
    match socket {
        Ok(socket) => Ok((Ok(socket),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

/// Puts functions that count sockets into `linker`, which has Wasmtime's already.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker
        .instance("wasi:sockets/tcp-create-socket@0.2.12")?
        .func_wrap(
            "create-tcp-socket",
            |mut store: StoreContextMut<'_, State>, (family,): (IpAddressFamily,)| match count(
                store.data(),
                Protocol::Tcp,
            ) {
                Ok(()) => made(tcp_create_socket::Host::create_tcp_socket(
                    &mut store.data_mut().sockets(),
                    family,
                )),
                Err(code) => Ok((Err(code),)),
            },
        )?;
    linker
        .instance("wasi:sockets/udp-create-socket@0.2.12")?
        .func_wrap_async(
            "create-udp-socket",
            |mut store: StoreContextMut<'_, State>, (family,): (IpAddressFamily,)| {
                Box::new(async move {
                    if let Err(code) = count(store.data(), Protocol::Udp) {
                        return Ok((Err(code),));
                    }
                    let mut view = store.data_mut().sockets();
                    made(udp_create_socket::Host::create_udp_socket(&mut view, family).await)
                })
            },
        )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The same for WASI 0.3.
pub(super) fn link_service(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:sockets/types@0.3.0")?;
    types.func_wrap(
        "[static]tcp-socket.create",
        |mut store: StoreContextMut<'_, State>, (family,): (p3::IpAddressFamily,)| {
            if count(store.data(), Protocol::Tcp).is_err() {
                return Ok((Err(too_many()),));
            }
            let mut view = store.data_mut().sockets();
            made_service(p3::HostTcpSocket::create(&mut view, family))
        },
    )?;
    types.func_wrap(
        "[method]tcp-socket.send",
        |mut store: StoreContextMut<'_, State>,
         (socket, data): (Resource<TcpSocket>, StreamReader<u8>)| {
            // What comes from another stream of the host could come for ever.
            let data = paced(&mut store, data)?;
            let access = Access::<State, WasiSockets>::new(store, State::sockets);
            Ok((WasiSockets::send(access, socket, data)?,))
        },
    )?;
    types.func_wrap_async(
        "[static]udp-socket.create",
        |mut store: StoreContextMut<'_, State>, (family,): (p3::IpAddressFamily,)| {
            Box::new(async move {
                if count(store.data(), Protocol::Udp).is_err() {
                    return Ok((Err(too_many()),));
                }
                let mut view = store.data_mut().sockets();
                made_service(p3::HostUdpSocket::create(&mut view, family).await)
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// What 0.2 has a code for.
fn too_many() -> p3::ErrorCode {
    p3::ErrorCode::Other(Some("new-socket-limit".to_owned()))
}

fn made_service<T>(
    socket: Result<T, wasmtime_wasi::p3::sockets::SocketError>,
) -> wasmtime::Result<(Result<T, p3::ErrorCode>,)> {
    match socket {
        Ok(socket) => Ok((Ok(socket),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

/// The rule that would have covered an address.
struct Needed {
    address: SocketAddr,
    listen: bool,
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, listen } = self;
        if *listen {
            f.write_str(LISTEN)?;
        }
        match address.port() {
            // Bound to a port that the system chooses.
            0 if address.is_ipv6() => write!(f, "[{}]:*", address.ip()),
            0 => write!(f, "{}:*", address.ip()),
            _ => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<SocketRule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn grant() -> SocketGrant {
        SocketGrant {
            tcp: rules(&["127.0.0.0/8:6379", "listen:127.0.0.1:*"]),
            udp: rules(&["10.0.0.5:53"]),
            names: Vec::new(),
        }
    }

    fn allowed(address: &str, usage: SocketAddrUse) -> bool {
        grant().verdict(address.parse().unwrap(), usage) == Verdict::Allowed
    }

    #[test]
    fn connecting_takes_a_rule_for_the_address() {
        use SocketAddrUse::TcpConnect;
        assert!(allowed("127.0.0.1:6379", TcpConnect));
        assert!(allowed("[::ffff:127.1.2.3]:6379", TcpConnect));
        assert!(!allowed("127.0.0.1:6380", TcpConnect));
        assert!(!allowed("10.0.0.5:53", TcpConnect), "a rule for UDP");
        assert!(!allowed("10.0.0.5:6379", TcpConnect));
    }

    #[test]
    fn letting_others_in_takes_a_rule_that_says_so() {
        use SocketAddrUse::{TcpAccept, TcpBind, TcpListen, UdpBind, UdpReceive};
        assert!(allowed("0.0.0.0:0", TcpBind), "as before each connect");
        assert!(allowed("[::]:0", UdpBind));
        assert!(allowed("127.0.0.1:0", TcpBind));
        assert!(allowed("127.0.0.1:8080", TcpListen));
        assert!(!allowed("0.0.0.0:8080", TcpBind));
        assert!(!allowed("0.0.0.0:32768", TcpListen), "where it was bound");
        assert!(allowed("192.0.2.1:40000", TcpAccept));
        assert!(!allowed("10.0.0.1:53", UdpBind));
        assert!(allowed("10.0.0.5:53", UdpReceive));
        assert!(!allowed("10.0.0.6:53", UdpReceive), "not what was asked");
    }

    #[test]
    fn who_may_receive_from_anybody_is_bound_where_the_rule_says() {
        use SocketAddrUse::{UdpBind, UdpReceive};
        let grant = SocketGrant {
            udp: rules(&["listen:127.0.0.1:5000"]),
            ..SocketGrant::default()
        };
        let allowed = |address: &str, usage| {
            grant.verdict(address.parse().unwrap(), usage) == Verdict::Allowed
        };
        assert!(allowed("127.0.0.1:5000", UdpBind));
        assert!(!allowed("0.0.0.0:0", UdpBind), "reachable from everywhere");
        assert!(!allowed("[::]:0", UdpBind));
        assert!(allowed("192.0.2.1:9", UdpReceive));
    }

    #[test]
    fn sending_takes_a_rule_for_udp() {
        assert!(allowed("10.0.0.5:53", SocketAddrUse::UdpSend));
        assert!(!allowed("127.0.0.1:6379", SocketAddrUse::UdpSend));
    }

    #[test]
    fn the_rule_that_is_missing_can_be_used_as_it_is_told() {
        for (address, listen, expected) in [
            ("10.0.0.5:80", false, "10.0.0.5:80"),
            ("[fd00::1]:80", true, "listen:[fd00::1]:80"),
            ("[::1]:0", true, "listen:[::1]:*"),
        ] {
            let address = address.parse().unwrap();
            let told = Needed { address, listen }.to_string();
            assert_eq!(told, expected);
            let rule: SocketRule = told.parse().unwrap();
            assert!(rule.address.matches(address) || address.port() == 0);
        }
    }

    struct Nobody;

    impl crate::output::GuestLog for Nobody {
        fn line(&self, _: &str, _: crate::output::OutputStreamKind, _: &str) {}
        fn message(&self, _: &str, _: Severity, _: &str) {}
        fn notice(&self, _: &str, _: Severity, _: &str) {}
    }

    #[test]
    fn what_is_accepted_takes_room_and_no_more_is_given_back_than_was_taken() {
        let grant = SocketGrant {
            tcp: rules(&["listen:127.0.0.1:*"]),
            ..SocketGrant::default()
        };
        let asking = Asking::alone("r1", Arc::new(Nobody));
        let taken = Arc::clone(&asking.socket_room);
        let taken = || taken.made.load(Ordering::Relaxed);
        let peer = "192.0.2.1:40000".parse().unwrap();
        for _ in 0..SOCKETS {
            assert!(grant.check(peer, SocketAddrUse::TcpAccept, &asking));
        }
        assert!(!grant.check(peer, SocketAddrUse::TcpAccept, &asking));
        assert_eq!(taken(), SOCKETS);
        // A further request of the same instance; three are still open.
        asking.renew(&asking.who(), Some(3));
        assert_eq!(taken(), 3);
        // More than it has taken room for.
        asking.renew(&asking.who(), Some(9));
        assert_eq!(taken(), 3);
        drop(asking);
        assert_eq!(taken(), 0);
    }
}
