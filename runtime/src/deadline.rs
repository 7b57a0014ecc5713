//! Timers that mostly are not needed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// A timer that is made only when it is first waited for: most requests are
/// answered in their first poll and never need one.
pub(crate) struct Deadline {
    after: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub fn new(after: Duration) -> Self {
        Self { after, timer: None }
    }

    pub fn after(&self) -> Duration {
        self.after
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let after = self.after;
        self.timer
            .get_or_insert_with(|| Box::pin(sleep(after)))
            .as_mut()
            .poll(cx)
    }
}
