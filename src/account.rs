//! What is known of a request when it is over: counted, and logged if that is
//! wanted.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nxt_wasm_runtime::{Cost, Reason, Usage};

use crate::breaker::{Admitted, Outcome, Turn};
use crate::metrics::Sample;
use crate::service::Service;
use crate::unit::Level;

/// A request from the time libunit handed it over.
pub struct Account {
    begin: Instant,
    /// Filled in by the runtime.
    pub cost: Arc<Cost>,
    /// What the client was sent, or began to be.
    pub status: u16,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// Whether that, or that it did not, says anything about the guest.
    pub tells: bool,
    /// Whether the guest has set a response that could be sent.
    answered: bool,
    admitted: Admitted,
}

impl Account {
    /// A request that a guest may have, or may not: see [`Account::is_admitted`].
    pub fn open(service: &Service) -> Self {
        let breaker = service.breaker.as_ref();
        Self {
            admitted: breaker.map_or(Admitted::Yes(0), |breaker| breaker.admit()),
            ..Self::declined()
        }
    }

    /// A request that no guest will have.
    pub fn declined() -> Self {
        Self {
            begin: Instant::now(),
            cost: Arc::default(),
            status: 0,
            reason: None,
            tells: true,
            answered: false,
            admitted: Admitted::No,
        }
    }

    /// Whether a guest may have it, as far as the circuit breaker is concerned.
    pub fn is_admitted(&self) -> bool {
        self.admitted != Admitted::No
    }

    /// The guest has set its response, with this status.
    pub fn answer(&mut self, status: u16) {
        self.status = status;
        self.answered = true;
    }

    /// Nobody knows what became of it.
    pub fn is_unknown(&mut self) {
        self.tells = false;
        self.answered = false;
    }

    fn outcome(&self) -> Outcome {
        let outcome = match self.tells {
            true => Outcome::of(self.reason),
            false => Outcome::Unknown,
        };
        match outcome {
            // That it was not heard to the end is not its fault.
            Outcome::Unknown if self.answered => Outcome::Good,
            outcome => outcome,
        }
    }

    /// The request is over, and its guest has gone.
    pub fn settle(self, service: &Service, id: &str) {
        if let Some(breaker) = &service.breaker
            && self.is_admitted()
            && let Some(turn) = breaker.ended(self.admitted, self.outcome())
        {
            let settings = breaker.settings();
            let text = match turn {
                Turn::Opened(count) => format!(
                    "{count} of the last {} requests have failed: refusing all for {:?} \
                     (UNIT_WASM_BREAKER)",
                    settings.window, settings.pause
                ),
                Turn::StillOpen => format!(
                    "a request that was tried has failed: refusing all for {:?} more \
                     (UNIT_WASM_BREAKER)",
                    settings.pause
                ),
                Turn::Closed => {
                    "a request that was tried went well: serving again (UNIT_WASM_BREAKER)".into()
                }
            };
            let level = match turn {
                Turn::Closed => Level::Notice,
                Turn::Opened(_) | Turn::StillOpen => Level::Error,
            };
            service.app.log(level, &text);
        }
        let duration = self.begin.elapsed();
        if let Some(metrics) = &service.metrics {
            metrics.request(&Sample {
                status: self.status,
                reason: self.reason,
                duration,
                cost: self.is_admitted().then_some(&*self.cost),
            });
        }
        if service.settings.cost_log {
            let line = CostLine {
                account: &self,
                duration,
            };
            service.app.log_later(id, format_args!("{line}"));
        } else if self.reason.is_none() {
            let Usage {
                cpu_time,
                memory,
                fuel,
            } = self.cost.usage();
            if let Some(fuel) = fuel {
                let line = format_args!("fuel={fuel} cpu={cpu_time:?} memory={memory}");
                service.app.log_later(id, line);
            }
        }
    }
}

/// All of it, for the log.
struct CostLine<'a> {
    account: &'a Account,
    duration: Duration,
}

impl fmt::Display for CostLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Account {
            cost,
            status,
            reason,
            ..
        } = self.account;
        let Usage {
            cpu_time,
            memory,
            fuel,
        } = cost.usage();
        write!(f, "cost status={status} time={:?}", self.duration)?;
        if let Some(reason) = reason {
            write!(f, " reason={reason}")?;
        }
        if let Some(fuel) = fuel {
            write!(f, " fuel={fuel}")?;
        }
        write!(f, " cpu={cpu_time:?} memory={memory}")?;
        if let Some(time) = cost.instantiate_time() {
            write!(f, " instantiate={time:?}")?;
        }
        write!(f, " outbound={}", cost.outbound_requests())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_has_answered_is_not_blamed_for_its_client() {
        let account = |answered: bool, reason: Option<Reason>, tells: bool| {
            let mut account = Account::declined();
            if answered {
                account.answer(200);
            }
            (account.reason, account.tells) = (reason, tells);
            account.outcome()
        };
        for reason in [Reason::Delivery, Reason::Timeout] {
            let by_client = account(true, Some(reason), false);
            assert_eq!(by_client, Outcome::Good, "{reason}");
        }
        assert_eq!(account(true, Some(Reason::Drain), true), Outcome::Good);
        assert_eq!(account(true, None, true), Outcome::Good);
        // Its own failures stay its own.
        assert_eq!(account(true, Some(Reason::Trap), true), Outcome::Failed);
        assert_eq!(account(true, Some(Reason::Timeout), true), Outcome::Failed);
        // Of one that has not answered nothing is known.
        assert_eq!(
            account(false, Some(Reason::Delivery), false),
            Outcome::Unknown
        );
        assert_eq!(account(false, None, false), Outcome::Unknown);
        assert_eq!(account(false, Some(Reason::Drain), true), Outcome::Unknown);
    }
}
