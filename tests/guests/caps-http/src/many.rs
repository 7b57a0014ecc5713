//! The route that makes many outgoing requests.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use wasi::http::types::IncomingResponse;

use crate::exchange::{Failed, Incoming, Sent, read_all, receive, send};
use crate::request::Request;

/// `/fetch-many?url=URL&n=N&parallel=P`, and what `/fetch` takes: N requests, P
/// of them at a time. Answers how often it got what, one per line: `200=9999`
/// for responses that came whole, and errors as `/fetch` has them.
pub fn fetch(request: &Request) -> String {
    let url = request.text("url");
    let parallel = request.number("parallel", 1).max(1) as usize;
    let mut left = request.number("n", 1);
    let mut waiting: VecDeque<Sent> = VecDeque::new();
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = |outcome: String| *outcomes.entry(outcome).or_default() += 1;
    while left > 0 || !waiting.is_empty() {
        while left > 0 && waiting.len() < parallel {
            left -= 1;
            match send(request, &url, Incoming::Leave) {
                Ok(sent) => waiting.push_back(sent),
                Err(Failed(why)) => count(why.trim().to_string()),
            }
        }
        // The oldest; those after it go on meanwhile.
        if let Some(sent) = waiting.pop_front() {
            count(match receive(&sent).and_then(whole) {
                Ok(status) => status.to_string(),
                Err(Failed(why)) => why.trim().to_string(),
            });
        }
    }
    let lines = outcomes
        .iter()
        .map(|(outcome, count)| format!("{outcome}={count}\n"));
    lines.collect()
}

/// Reads the body and gives the status.
fn whole(response: IncomingResponse) -> Result<u16, Failed> {
    let status = response.status();
    let body = response.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    read_all(&stream, |_| {})?;
    Ok(status)
}
