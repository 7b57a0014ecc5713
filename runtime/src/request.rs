//! Who a request is, and what it has cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::guest::Usage;
use crate::output::GuestLog;

/// Who a request is, for the log, and where it is noted what it has cost.
#[derive(Clone)]
pub struct RequestContext {
    /// The request's id.
    pub id: Arc<str>,
    /// Where the guest's output goes.
    pub log: Arc<dyn GuestLog>,
    /// Filled in when the guest has ended, however it did.
    pub cost: Arc<Cost>,
    /// What its outbound requests are part of.
    pub trace: Option<Arc<Trace>>,
}

impl RequestContext {
    /// A request that is part of no trace.
    pub fn new(id: impl Into<Arc<str>>, log: Arc<dyn GuestLog>) -> Self {
        Self {
            id: id.into(),
            log,
            cost: Arc::default(),
            trace: None,
        }
    }
}

/// What a request has cost.
#[derive(Debug)]
pub struct Cost {
    cpu_nanos: AtomicU64,
    memory: AtomicU64,
    fuel: AtomicU64,
    instantiate_nanos: AtomicU64,
    outbound: AtomicU32,
}

/// Stands for a number that is not known.
const UNKNOWN: u64 = u64::MAX;

impl Default for Cost {
    fn default() -> Self {
        Self {
            cpu_nanos: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            fuel: AtomicU64::new(UNKNOWN),
            instantiate_nanos: AtomicU64::new(UNKNOWN),
            outbound: AtomicU32::new(0),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(UNKNOWN)
}

fn known(value: &AtomicU64) -> Option<u64> {
    Some(value.load(Ordering::Relaxed)).filter(|&value| value != UNKNOWN)
}

impl Cost {
    pub(crate) fn used(&self, usage: &Usage) {
        self.cpu_nanos
            .store(nanos(usage.cpu_time), Ordering::Relaxed);
        self.memory.store(usage.memory as u64, Ordering::Relaxed);
        let fuel = usage.fuel.unwrap_or(UNKNOWN);
        self.fuel.store(fuel, Ordering::Relaxed);
    }

    pub(crate) fn instantiated(&self, within: Duration) {
        self.instantiate_nanos
            .store(nanos(within), Ordering::Relaxed);
    }

    pub(crate) fn sent_a_request(&self) {
        self.outbound.fetch_add(1, Ordering::Relaxed);
    }

    /// CPU time, memory and fuel. A guest that was ended while it ran leaves only
    /// its CPU time.
    pub fn usage(&self) -> Usage {
        Usage {
            cpu_time: Duration::from_nanos(self.cpu_nanos.load(Ordering::Relaxed)),
            memory: usize::try_from(self.memory.load(Ordering::Relaxed)).unwrap_or(usize::MAX),
            fuel: known(&self.fuel),
        }
    }

    /// How long it took to make the instance, if one was made.
    pub fn instantiate_time(&self) -> Option<Duration> {
        known(&self.instantiate_nanos).map(Duration::from_nanos)
    }

    /// Outbound HTTP requests that the guest has sent, those that were refused
    /// included.
    pub fn outbound_requests(&self) -> u32 {
        self.outbound.load(Ordering::Relaxed)
    }
}

/// The W3C trace context of a request, for the requests it leads to.
///
/// The host has no spans of its own, so it hands on what it was given.
#[derive(Debug)]
pub struct Trace {
    parent: HeaderValue,
    state: Vec<HeaderValue>,
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of trace state that others have to take.
const STATE: usize = 512;

/// Whether it is `00-TRACE-SPAN-FLAGS`, in hexadecimal digits. Later versions may
/// have more at the end; there are none yet.
fn is_parent(value: &HeaderValue) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let is_dash = |place| matches!(place, 2 | 35 | 52);
    let mut bytes = value.as_bytes().iter().enumerate();
    value.len() == 55 && bytes.all(|(place, &b)| if is_dash(place) { b == b'-' } else { digit(b) })
}

impl Trace {
    /// The trace that a request with these fields is part of, if they are as they
    /// should be: servers that guests ask must not be sent what clients make up.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let parent = parents.next().filter(|value| is_parent(value))?.clone();
        if parents.next().is_some() {
            // The specification has such a request begin a trace anew.
            return None;
        }
        let mut state: Vec<_> = headers.get_all(TRACESTATE).iter().cloned().collect();
        // One that is too long may be left out, as a whole.
        if state.iter().map(HeaderValue::len).sum::<usize>() > STATE {
            state.clear();
        }
        Some(Self { parent, state })
    }

    /// Makes a request with these fields part of the trace, unless the guest has
    /// said of which one it is.
    pub(crate) fn continue_in(&self, headers: &mut HeaderMap) {
        if headers.contains_key(TRACEPARENT) || headers.contains_key(TRACESTATE) {
            return;
        }
        headers.insert(TRACEPARENT, self.parent.clone());
        for state in &self.state {
            headers.append(TRACESTATE, state.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(field).collect()
    }

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const OTHER: &str = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-00";

    #[test]
    fn what_is_no_trace_goes_nowhere() {
        for bad in [
            "",
            "00",
            "rubbish",
            &PARENT[1..],
            &PARENT.to_uppercase(),
            &PARENT.replace('-', "0"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::try_from(bad).unwrap());
            assert!(Trace::of(&headers).is_none(), "{bad}");
        }
        let long = HeaderValue::try_from("x=".repeat(300)).unwrap();
        let mut headers = fields(&[("traceparent", PARENT)]);
        headers.insert(TRACESTATE, long);
        let mut outgoing = HeaderMap::new();
        Trace::of(&headers).unwrap().continue_in(&mut outgoing);
        assert_eq!(outgoing, fields(&[("traceparent", PARENT)]));
    }

    #[test]
    fn a_trace_goes_on_in_requests_that_say_nothing() {
        let incoming = fields(&[
            ("traceparent", PARENT),
            ("tracestate", "x=1"),
            ("tracestate", "y=2"),
            ("host", "example.com"),
        ]);
        let trace = Trace::of(&incoming).unwrap();
        let mut outgoing = HeaderMap::new();
        trace.continue_in(&mut outgoing);
        let expected = fields(&[
            ("traceparent", PARENT),
            ("tracestate", "x=1"),
            ("tracestate", "y=2"),
        ]);
        assert_eq!(outgoing, expected);
    }

    #[test]
    fn a_guests_own_trace_stays() {
        let trace = Trace::of(&fields(&[("traceparent", PARENT)])).unwrap();
        for own in [("traceparent", OTHER), ("tracestate", "z=3")] {
            let mut outgoing = fields(&[own]);
            trace.continue_in(&mut outgoing);
            assert_eq!(outgoing, fields(&[own]));
        }
    }

    #[test]
    fn there_is_no_trace_without_one_parent() {
        assert!(Trace::of(&fields(&[("tracestate", "x=1")])).is_none());
        let two = fields(&[("traceparent", PARENT), ("traceparent", OTHER)]);
        assert!(Trace::of(&two).is_none());
    }

    #[test]
    fn costs_are_those_noted() {
        let cost = Cost::default();
        assert_eq!(cost.usage(), Usage::default());
        assert_eq!(cost.instantiate_time(), None);
        let usage = Usage {
            cpu_time: Duration::from_micros(7),
            memory: 1 << 20,
            fuel: Some(0),
        };
        cost.used(&usage);
        cost.instantiated(Duration::ZERO);
        cost.sent_a_request();
        assert_eq!(cost.usage(), usage);
        assert_eq!(cost.instantiate_time(), Some(Duration::ZERO));
        assert_eq!(cost.outbound_requests(), 1);
    }
}
