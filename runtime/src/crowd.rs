//! The requests that are in one shared instance, and what those that have gone may
//! have left in it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use tokio::sync::oneshot;

use crate::body::RequestBody;
use crate::instance::{Delivery, GuestResponse};
use crate::request::RequestContext;

/// Names of requests in a line of the log, if it can be of several.
const NAMES: usize = 3;

/// A request, and the way to what becomes of its response.
pub(crate) struct Entry {
    pub request: Request<RequestBody>,
    pub delivery: oneshot::Receiver<Delivery>,
}

/// A request on its way into an instance.
pub(crate) struct Admission {
    pub entry: Entry,
    pub context: RequestContext,
    pub reply: oneshot::Sender<GuestResponse>,
    pub rest: oneshot::Sender<()>,
}

/// Who is in an instance.
#[derive(Default)]
pub(crate) struct Crowd {
    /// The oldest first.
    members: VecDeque<RequestContext>,
    /// The one of them that the instance has not begun with.
    pub next: Option<Admission>,
    /// It was found at work, and has not come back to its event loop since.
    pub busy: bool,
    /// Those it has begun with.
    pub served: u32,
    /// It takes no further request.
    pub retired: bool,
    left_over: Option<LeftOver>,
}

/// What goes on in an instance and can be the doing of requests that have gone.
struct LeftOver {
    since: Instant,
    /// Those that went first.
    by: Vec<Arc<str>>,
}

impl Crowd {
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Lets a request in, which waits to be begun with.
    pub fn enter(&mut self, admission: Admission) {
        self.members.push_back(admission.context.clone());
        self.next = Some(admission);
    }

    /// The one with that id goes.
    pub fn remove(&mut self, id: &Arc<str>) -> Option<RequestContext> {
        if self.is_next(id) {
            self.next = None;
        }
        let at = self.members.iter().position(|m| Arc::ptr_eq(&m.id, id))?;
        self.members.remove(at)
    }

    /// The request that the instance begins with now.
    pub fn begin(&mut self) -> Option<Admission> {
        let next = self.next.take()?;
        self.served = self.served.saturating_add(1);
        Some(next)
    }

    /// Whether others than the one that is asked for have been begun with.
    pub fn is_company(&self) -> bool {
        self.members.len() > 1 + usize::from(self.next.is_some())
    }

    /// Whether the instance has not begun with the request of that id.
    pub fn is_next(&self, id: &Arc<str>) -> bool {
        let next = self.next.as_ref();
        next.is_some_and(|next| Arc::ptr_eq(&next.context.id, id))
    }

    /// Gives a request back that the instance, at work for others, has not begun
    /// with. The others may have gone since. The first one waits for the instance to
    /// be made.
    pub fn take_back(&mut self, id: &Arc<str>) -> Option<Entry> {
        if self.served == 0 || !self.is_next(id) {
            return None;
        }
        let next = self.next.take()?;
        self.remove(id);
        self.busy = true;
        Some(next.entry)
    }

    /// The one that came last.
    pub fn latest(&self) -> Option<&RequestContext> {
        self.members.back()
    }

    /// Whose a line of output can be, the latest first.
    pub fn names(&self) -> Arc<str> {
        let mut ids = self.members.iter().rev().map(|member| &member.id);
        match self.members.len() {
            1 => ids.next().cloned().unwrap_or_default(),
            _ => names(ids).into(),
        }
    }

    /// `id` has gone, and what it did may go on.
    pub fn leaves_work(&mut self, id: &Arc<str>) {
        let left = self.left_over.get_or_insert_with(|| LeftOver {
            since: Instant::now(),
            by: Vec::new(),
        });
        if left.by.len() <= NAMES {
            left.by.push(Arc::clone(id));
        }
    }

    /// Nothing of the guest is at work any more.
    pub fn at_rest(&mut self) {
        self.left_over = None;
    }

    /// Whether what still goes on can be the doing of one that has gone.
    pub fn has_left_over(&self) -> bool {
        self.left_over.is_some()
    }

    /// Whether that has been so for longer than `time`.
    pub fn is_overdue(&self, time: Duration) -> bool {
        let left = self.left_over.as_ref();
        left.is_some_and(|left| left.since.elapsed() > time)
    }

    /// Who has left it. From now on nobody has.
    pub fn take_left_over(&mut self) -> Option<String> {
        let left = self.left_over.take()?;
        Some(names(left.by.iter()))
    }
}

/// The first of some names.
fn names<'a>(ids: impl ExactSizeIterator<Item = &'a Arc<str>>) -> String {
    let more = ids.len() > NAMES;
    let mut text = ids
        .take(NAMES)
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join("+");
    if more {
        text.push_str("+...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{GuestLog, OutputStreamKind, Severity};

    struct Nobody;

    impl GuestLog for Nobody {
        fn line(&self, _: &str, _: OutputStreamKind, _: &str) {}
        fn message(&self, _: &str, _: Severity, _: &str) {}
        fn notice(&self, _: &str, _: Severity, _: &str) {}
    }

    fn crowd_of(ids: &[&str]) -> Crowd {
        let mut crowd = Crowd::default();
        for id in ids {
            let context = RequestContext::new(*id, Arc::new(Nobody));
            crowd.members.push_back(context);
        }
        crowd
    }

    #[test]
    fn lines_name_the_latest_requests_first() {
        assert_eq!(&*crowd_of(&["a"]).names(), "a");
        assert_eq!(&*crowd_of(&["a", "b"]).names(), "b+a");
        assert_eq!(&*crowd_of(&["a", "b", "c", "d"]).names(), "d+c+b+...");
    }

    #[test]
    fn what_is_left_is_by_those_that_went_first() {
        let mut crowd = crowd_of(&[]);
        assert!(!crowd.is_overdue(Duration::ZERO));
        for id in ["a", "b", "c", "d", "e"] {
            crowd.leaves_work(&id.into());
        }
        assert!(crowd.has_left_over() && !crowd.is_overdue(Duration::from_secs(3600)));
        assert_eq!(crowd.take_left_over().as_deref(), Some("a+b+c+..."));
        assert_eq!(crowd.take_left_over(), None);
        crowd.leaves_work(&"a".into());
        crowd.at_rest();
        assert!(!crowd.has_left_over());
    }
}
