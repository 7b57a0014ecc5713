//! Faults that the control API asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::sys::shared::{FAULTY, FaultWords};

/// A function that can be made to fail; the order is that of [`FAULTY`].
#[derive(Clone, Copy)]
pub enum Function {
    ResponseInit = 0,
    AddField,
    AddContent,
    ResponseSend,
    WriteNb,
    RequestRead,
    ProcessPortMsg,
}

/// Calls and requests of this process since the faults were set.
#[derive(Default)]
pub struct Calls {
    epoch: AtomicU64,
    requests: AtomicU64,
    calls: [AtomicU64; FAULTY.len()],
}

/// What a request sets off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Nothing,
    Quit,
    Kill,
}

/// A limit that is stored as value + 1.
pub fn limit(word: &AtomicU64) -> Option<u64> {
    word.load(Ordering::Relaxed).checked_sub(1)
}

impl Calls {
    fn renew(&self, words: &FaultWords) {
        let epoch = words.epoch.load(Ordering::Acquire);
        if self.epoch.swap(epoch, Ordering::Relaxed) != epoch {
            self.requests.store(0, Ordering::Relaxed);
            for count in &self.calls {
                count.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Counts a call, and holds it up if it is to block; whether it is to fail.
    pub fn fails(&self, words: &FaultWords, function: Function) -> bool {
        self.renew(words);
        let index = function as usize;
        let (Some(count), Some(fail)) = (self.calls.get(index), words.fail.get(index)) else {
            return false;
        };
        let block = fail.block.load(Ordering::Relaxed);
        if block > 0 {
            thread::sleep(Duration::from_secs(block));
        }
        let call = count.fetch_add(1, Ordering::Relaxed) + 1;
        let every = fail.every.load(Ordering::Relaxed);
        call == fail.nth.load(Ordering::Relaxed) || (every != 0 && call.is_multiple_of(every))
    }

    /// Counts a request.
    pub fn request(&self, words: &FaultWords) -> Event {
        self.renew(words);
        let request = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if limit(&words.kill_after) == Some(request) {
            Event::Kill
        } else if limit(&words.quit_after) == Some(request) {
            Event::Quit
        } else {
            Event::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sys::shared::Shared;

    #[test]
    fn calls_fail_once_or_every_so_often() {
        let words = Shared::<FaultWords>::create().unwrap();
        let calls = Calls::default();
        words.fail[Function::AddField as usize]
            .nth
            .store(2, Ordering::Relaxed);
        words.fail[Function::WriteNb as usize]
            .every
            .store(3, Ordering::Relaxed);
        let run =
            |function| -> Vec<bool> { (0..6).map(|_| calls.fails(&words, function)).collect() };
        assert_eq!(
            run(Function::AddField),
            [false, true, false, false, false, false]
        );
        assert_eq!(
            run(Function::WriteNb),
            [false, false, true, false, false, true]
        );
        assert_eq!(run(Function::RequestRead), [false; 6]);
        words.epoch.store(1, Ordering::Release);
        assert_eq!(
            run(Function::AddField),
            [false, true, false, false, false, false]
        );
    }

    #[test]
    fn calls_block() {
        let words = Shared::<FaultWords>::create().unwrap();
        let calls = Calls::default();
        words.fail[Function::AddField as usize]
            .block
            .store(1, Ordering::Relaxed);
        let begin = Instant::now();
        assert!(!calls.fails(&words, Function::WriteNb));
        assert!(begin.elapsed() < Duration::from_secs(1));
        assert!(!calls.fails(&words, Function::AddField));
        assert!(begin.elapsed() >= Duration::from_secs(1));
    }

    #[test]
    fn requests_are_counted() {
        let words = Shared::<FaultWords>::create().unwrap();
        let calls = Calls::default();
        words.quit_after.store(3, Ordering::Relaxed);
        assert!(calls.request(&words) == Event::Nothing);
        assert!(calls.request(&words) == Event::Quit);
        assert!(calls.request(&words) == Event::Nothing);
    }
}
