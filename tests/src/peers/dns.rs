//! A name server.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::launch::next_ip;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

const NO_ERROR: u16 = 0;
const NAME_ERROR: u16 = 3;

/// What a name server has to say of a name.
#[derive(Clone, Debug)]
pub enum Answer {
    /// These addresses, IPv4 and IPv6.
    Addresses(Vec<IpAddr>),
    /// One after the other, for each time it is asked for IPv4; the last stays.
    Changing(Vec<IpAddr>),
    /// That it is another name for that one.
    Alias(String),
    /// A response code: 2 is `SERVFAIL`.
    Code(u16),
    /// Nothing at all.
    Silence,
}

/// A name server on UDP, in a thread of its own. Names that it was not told of
/// do not exist.
pub struct DnsPeer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    names: Mutex<BTreeMap<String, Answer>>,
    asked: Mutex<BTreeMap<(String, u16), usize>>,
    stopping: AtomicBool,
}

impl DnsPeer {
    /// Starts a server that knows no name.
    pub fn start() -> Self {
        let socket = UdpSocket::bind((next_ip(), 0)).expect("an address for a peer");
        let addr = socket.local_addr().expect("its address");
        let step = Some(Duration::from_millis(50));
        socket.set_read_timeout(step).expect("socket option");
        let shared = Arc::<Shared>::default();
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || serve(&socket, &serving));
        Self {
            addr,
            shared,
            thread: Some(thread),
        }
    }

    /// The value of `UNIT_WASM_DNS_SERVER` for it.
    pub fn setting(&self) -> String {
        self.addr.to_string()
    }

    /// Says what it answers for a name from now on.
    pub fn tell(&self, name: &str, answer: Answer) {
        let mut names = self.shared.names.lock().expect("names");
        names.insert(name.to_owned(), answer);
    }

    /// Says that a name has one address.
    pub fn tell_address(&self, name: &str, address: impl Into<IpAddr>) {
        self.tell(name, Answer::Addresses(vec![address.into()]));
    }

    /// How often it was asked for the IPv4 addresses of a name.
    pub fn asked(&self, name: &str) -> usize {
        let asked = self.shared.asked.lock().expect("counts");
        asked.get(&(name.to_owned(), A)).copied().unwrap_or(0)
    }

    /// Every name that it was asked for.
    pub fn names_asked(&self) -> Vec<String> {
        let asked = self.shared.asked.lock().expect("counts");
        let mut names: Vec<String> = asked.keys().map(|(name, _)| name.clone()).collect();
        names.dedup();
        names
    }
}

impl Drop for DnsPeer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a peer has panicked");
        }
    }
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut packet = [0; 1500];
    while !shared.stopping.load(Ordering::SeqCst) {
        let Ok((length, client)) = socket.recv_from(&mut packet) else {
            continue;
        };
        let Some(question) = Question::read(&packet[..length]) else {
            continue;
        };
        if let Some(response) = shared.respond(&question) {
            // A client that has closed its socket meanwhile.
            let _ = socket.send_to(&response, client);
        }
    }
}

/// The one question of a packet.
struct Question {
    id: [u8; 2],
    name: String,
    kind: u16,
    /// As it stands in the packet.
    bytes: Vec<u8>,
}

impl Question {
    fn read(packet: &[u8]) -> Option<Self> {
        let mut at = 12;
        let mut labels = Vec::new();
        loop {
            let length = usize::from(*packet.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = packet.get(at..at + length)?;
            labels.push(String::from_utf8(label.to_ascii_lowercase()).ok()?);
            at += length;
        }
        let kind = u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?);
        Some(Self {
            id: packet.get(..2)?.try_into().ok()?,
            name: labels.join("."),
            kind,
            bytes: packet.get(12..at + 4)?.to_vec(),
        })
    }
}

/// A record to answer with: its kind, and its data.
type Record = (u16, Vec<u8>);

impl Shared {
    fn respond(&self, question: &Question) -> Option<Vec<u8>> {
        let key = (question.name.clone(), question.kind);
        *self.asked.lock().expect("counts").entry(key).or_default() += 1;
        let (code, records) = self.look_up(&question.name, question.kind)?;
        let mut response = question.id.to_vec();
        // A response; recursion was wanted and is to be had.
        response.extend_from_slice(&(0x8180 | code).to_be_bytes());
        let count = u16::try_from(records.len()).expect("few records");
        for number in [1, count, 0, 0] {
            response.extend_from_slice(&number.to_be_bytes());
        }
        response.extend_from_slice(&question.bytes);
        // Where the name stands that a record is about: first, the question's.
        let mut owner = 12;
        for (kind, data) in records {
            let pointer = u16::try_from(0xc000 | owner).expect("a short packet");
            response.extend_from_slice(&pointer.to_be_bytes());
            response.extend_from_slice(&kind.to_be_bytes());
            // Class IN, and not to be kept.
            response.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
            let length = u16::try_from(data.len()).expect("a short record");
            response.extend_from_slice(&length.to_be_bytes());
            if kind == CNAME {
                owner = response.len();
            }
            response.extend_from_slice(&data);
        }
        Some(response)
    }

    fn look_up(&self, name: &str, kind: u16) -> Option<(u16, Vec<Record>)> {
        let mut names = self.names.lock().expect("names");
        let mut records = Vec::new();
        let mut name = name.to_owned();
        loop {
            match names.get_mut(&name) {
                None if records.is_empty() => return Some((NAME_ERROR, records)),
                None => return Some((NO_ERROR, records)),
                Some(Answer::Silence) => return None,
                Some(Answer::Code(code)) => return Some((*code, records)),
                Some(Answer::Alias(target)) => {
                    records.push((CNAME, encode_name(target)));
                    name = target.clone();
                }
                Some(Answer::Addresses(addresses)) => {
                    records.extend(addresses.iter().filter_map(|ip| record(*ip, kind)));
                    return Some((NO_ERROR, records));
                }
                Some(Answer::Changing(addresses)) => {
                    let now = addresses[0];
                    if kind == A && addresses.len() > 1 {
                        addresses.remove(0);
                    }
                    records.extend(record(now, kind));
                    return Some((NO_ERROR, records));
                }
            }
        }
    }
}

/// The record of an address, if it is of the kind asked for.
fn record(address: IpAddr, kind: u16) -> Option<Record> {
    match (address, kind) {
        (IpAddr::V4(v4), A) => Some((A, v4.octets().to_vec())),
        (IpAddr::V6(v6), AAAA) => Some((AAAA, v6.octets().to_vec())),
        _ => None,
    }
}

fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
