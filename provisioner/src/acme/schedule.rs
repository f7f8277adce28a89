//! When to do what: pure decisions over facts, without a clock or a random generator of their own.

use control_types::state::CertificateSource;
use time::{Duration, OffsetDateTime};

use crate::acme::failure::Fault;

/// Certificates that live shorter than this are renewed when half of their life is over.
const SHORT_LIFE: Duration = Duration::days(10);
/// An uploaded certificate is replaced by one of an authority so long before its end.
pub const TAKE_OVER: Duration = Duration::days(7);
/// How often an authority is asked about a renewal, at most and at least.
const ASK_AT_MOST: Duration = Duration::minutes(10);
const ASK_AT_LEAST: Duration = Duration::hours(11);
/// The pauses after the first, second, ... failure in a row.
const PAUSES: [Duration; 4] =
    [Duration::minutes(1), Duration::minutes(10), Duration::minutes(100), Duration::days(1)];
const BUDGET_PERIOD: f64 = 3.0 * 3600.0;

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Good from then.
    pub not_before: OffsetDateTime,
    /// Good until then.
    pub not_after: OffsetDateTime,
}

/// The time in which an authority wants a certificate to be renewed (RFC 9773).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its beginning.
    pub start: OffsetDateTime,
    /// Its end.
    pub end: OffsetDateTime,
}

/// When to renew a certificate that its authority says nothing of.
pub fn renewal_by_age(validity: Validity) -> OffsetDateTime {
    let life = validity.not_after - validity.not_before;
    let rest = if life < SHORT_LIFE { life / 2 } else { life / 3 };
    validity.not_after - rest
}

/// A moment in the window, `point` of the way (0 to 1) through it. Never so late that nothing could
/// go wrong any more: one twentieth of the life stays. And never at once for a certificate that is
/// new: renewals that the authority asks for count against no budget, so one that asks for it always
/// would be asked for certificates without end.
pub fn renewal_in_window(validity: Validity, window: Window, point: f64) -> OffsetDateTime {
    let length = (window.end - window.start).max(Duration::ZERO);
    let drawn = window.start + length * point.clamp(0.0, 1.0);
    let life = validity.not_after - validity.not_before;
    drawn.max(validity.not_before + life / 100).min(validity.not_after - life / 20)
}

/// When to ask about the renewal again, when the authority named a pause.
pub fn ask_again(now: OffsetDateTime, pause: Duration) -> OffsetDateTime {
    now + pause.clamp(ASK_AT_MOST, ASK_AT_LEAST)
}

/// The pause after the `failures`th failure in a row. `jitter` (0 to 1) lengthens it by up to a
/// fifth, so that names that failed together do not try together.
pub fn back_off(failures: u32, jitter: f64) -> Duration {
    let index = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let pause = PAUSES[index.min(PAUSES.len() - 1)];
    pause + pause * (jitter.clamp(0.0, 1.0) / 5.0)
}

/// How many orders an authority takes from an account.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// As many may be placed at once.
    pub at_once: f64,
    /// As many more come back in three hours.
    in_period: f64,
}

impl Allowance {
    /// Stays below `n` orders (at least 3) in any three hours: a third of them at once.
    pub fn in_three_hours(n: u32) -> Self {
        let n = f64::from(n.max(3));
        let at_once = (n / 3.0).floor();
        Self { at_once, in_period: n - at_once - 1.0 }
    }
}

/// What an account may still order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Orders, at `at`.
    pub left: f64,
    /// The moment.
    pub at: OffsetDateTime,
}

impl Budget {
    /// One order less.
    ///
    /// # Errors
    /// The moment at which there is one, when there is none now.
    pub fn spend(self, now: OffsetDateTime, allowed: Allowance) -> Result<Self, OffsetDateTime> {
        // A clock that goes back gives nothing.
        let now = now.max(self.at);
        let per_second = allowed.in_period / BUDGET_PERIOD;
        let grown = (now - self.at).as_seconds_f64() * per_second;
        let left = (self.left.max(0.0) + grown).min(allowed.at_once);
        if left >= 1.0 {
            return Ok(Self { left: left - 1.0, at: now });
        }
        Err(now + Duration::seconds_f64((1.0 - left) / per_second) + Duration::SECOND)
    }
}

/// What is known of a name that has its time.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The certificate that it has.
    pub certificate: Option<(Validity, CertificateSource)>,
    /// The moment drawn from the authority's window.
    pub renew_at: Option<OffsetDateTime>,
    /// When to ask the authority about the renewal.
    pub ask_at: Option<OffsetDateTime>,
    /// Whether somebody asked for a new one.
    pub requested: bool,
    /// Whether an order is open.
    pub is_ordered: bool,
}

/// What to do with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Get a certificate, or go on with getting it.
    Order,
    /// Ask the authority when to renew.
    Ask,
    /// Nothing until then.
    Rest(OffsetDateTime),
}

/// What to do with a name.
pub fn decide(now: OffsetDateTime, facts: &Facts) -> Todo {
    let Some((validity, source)) = facts.certificate else { return Todo::Order };
    if facts.requested || facts.is_ordered || source == CertificateSource::Local {
        return Todo::Order;
    }
    if source == CertificateSource::Uploaded {
        let at = validity.not_after - TAKE_OVER;
        return if at <= now { Todo::Order } else { Todo::Rest(at) };
    }
    let renew_at = facts.renew_at.unwrap_or_else(|| renewal_by_age(validity));
    if renew_at <= now {
        return Todo::Order;
    }
    match facts.ask_at {
        Some(at) if at <= now => Todo::Ask,
        Some(at) => Todo::Rest(renew_at.min(at)),
        None => Todo::Rest(renew_at),
    }
}

/// After so many failures of its own in a row, it is the next authority's turn.
const AUTHORITY_FAILURES: i32 = 3;
/// What is not the name's fault is tried again after so long at the latest.
const LONGEST_FOR_OTHERS: Duration = Duration::minutes(10);

/// Where a name stands: which authority and which challenge (by their index in the configuration),
/// and what went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The authority whose turn it is.
    pub authority: usize,
    /// That one's failures in a row.
    pub authority_failures: i32,
    /// How the name is proven.
    pub challenge: usize,
    /// Failures in a row.
    pub failures: u32,
}

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Where the name stands then.
    pub standing: Standing,
    /// In how long.
    pub pause: Duration,
}

/// What follows a failure, of `counts` authorities and challenges. `wait` is what the authority
/// asked for.
pub fn after_failure(
    before: Standing,
    fault: Fault,
    (n_authorities, n_challenges): (usize, usize),
    wait: Option<Duration>,
    jitter: f64,
) -> Next {
    let mut next = before;
    let at_least = wait.unwrap_or(Duration::ZERO);
    let failures = before.failures.saturating_add(1);
    let pause = match fault {
        // Another way may work, and there is no reason to wait before trying it.
        Fault::Proof if before.challenge + 1 < n_challenges => {
            next.challenge = before.challenge + 1;
            Duration::ZERO
        }
        Fault::Proof | Fault::Name => {
            next.challenge = 0;
            next.failures = failures;
            back_off(failures, jitter)
        }
        Fault::Authority | Fault::Unreachable => {
            next.failures = failures;
            next.authority_failures = before.authority_failures.saturating_add(1);
            if next.authority_failures >= AUTHORITY_FAILURES && n_authorities > 1 {
                next.authority = (before.authority + 1) % n_authorities;
                next.authority_failures = 0;
                next.challenge = 0;
            }
            let pause = back_off(failures, jitter);
            let is_outage = fault == Fault::Unreachable;
            if is_outage { pause.min(LONGEST_FOR_OTHERS) } else { pause }
        }
        Fault::Limited => back_off(1, jitter),
        Fault::Unfinished => {
            next.failures = failures;
            back_off(failures, jitter).min(LONGEST_FOR_OTHERS)
        }
        Fault::Here => back_off(1, jitter),
    };
    Next { standing: next, pause: pause.max(at_least) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn after(secs: i64) -> OffsetDateTime {
        START + Duration::seconds(secs)
    }

    fn living(secs: i64) -> Validity {
        Validity { not_before: START, not_after: after(secs) }
    }

    #[test]
    fn the_usual_lives() {
        let day = 86_400;
        assert_eq!(renewal_by_age(living(90 * day)), after(60 * day));
        assert_eq!(renewal_by_age(living(6 * day)), after(3 * day));
        assert_eq!(back_off(1, 0.0), Duration::minutes(1));
        assert_eq!(back_off(3, 0.0), Duration::minutes(100));
        assert_eq!(back_off(1_152, 0.0), Duration::days(1));
    }

    proptest! {
        #[test]
        fn renewal_lies_in_the_life_and_leaves_time(
            life in 3_600_i64..40_000_000, start in -40_000_000_i64..40_000_000,
            length in -1_000_i64..10_000_000, point in 0.0..1.0,
        ) {
            let validity = living(life);
            let by_age = renewal_by_age(validity);
            prop_assert!(by_age > validity.not_before && by_age < validity.not_after);
            let window = Window { start: after(start), end: after(start + length) };
            let drawn = renewal_in_window(validity, window, point);
            prop_assert!(drawn < validity.not_after);
            prop_assert!(drawn <= window.end.max(window.start).max(after(life / 100 + 1)));
            prop_assert!(drawn >= after(life / 100 - 1));
            prop_assert!(drawn >= window.start || drawn >= after(life - life / 20 - 1));
        }

        #[test]
        fn pauses_grow_and_differ_by_a_fifth(failures in 0_u32..2_000, jitter in 0.0..1.0) {
            let pause = back_off(failures, jitter);
            prop_assert!(pause >= Duration::minutes(1));
            prop_assert!(pause <= Duration::days(1) + Duration::days(1) / 5);
            prop_assert!(back_off(failures + 1, 0.0) >= back_off(failures, 0.0));
        }

        #[test]
        fn no_three_hours_see_more_orders_than_are_allowed(
            n in 3_u32..400, pauses in prop::collection::vec(0_i64..400, 0..1_500),
        ) {
            let allowed = Allowance::in_three_hours(n);
            let mut budget = Budget { left: allowed.at_once, at: START };
            let mut now = START;
            let mut spent = Vec::new();
            for pause in pauses {
                now += Duration::seconds(pause);
                match budget.spend(now, allowed) {
                    Ok(rest) => {
                        budget = rest;
                        spent.push(now);
                    }
                    Err(until) => {
                        prop_assert!(until > now);
                        prop_assert!(budget.spend(until, allowed).is_ok());
                    }
                }
            }
            let n = usize::try_from(n)?;
            for together in spent.windows(n) {
                prop_assert!(together[n - 1] - together[0] >= Duration::hours(3));
            }
        }

        #[test]
        fn every_way_and_every_authority_gets_its_turn(
            n_authorities in 1_usize..4, n_challenges in 1_usize..3,
            faults in prop::collection::vec(0_usize..4, 0..200), jitter in 0.0..1.0,
        ) {
            let kinds = [Fault::Proof, Fault::Name, Fault::Authority, Fault::Unreachable];
            let mut now = Standing { authority: 0, authority_failures: 0, challenge: 0, failures: 0 };
            let mut at_once = 0;
            for fault in faults {
                let before = now;
                let next = after_failure(now, kinds[fault], (n_authorities, n_challenges), None, jitter);
                now = next.standing;
                prop_assert!(now.authority < n_authorities && now.challenge < n_challenges);
                prop_assert!(now.authority_failures < AUTHORITY_FAILURES || n_authorities == 1);
                // The name's own faults never cost it its authority.
                prop_assert!(fault > 1 || now.authority == before.authority);
                at_once = if next.pause.is_zero() { at_once + 1 } else { 0 };
                prop_assert!(at_once < n_challenges);
            }
        }

        #[test]
        fn a_name_is_never_forgotten(
            life in 3_600_i64..40_000_000, now in 0_i64..50_000_000,
            renew in prop::option::of(0_i64..50_000_000), ask in prop::option::of(0_i64..50_000_000),
            source in prop::sample::select(CertificateSource::ALL),
        ) {
            let facts = Facts {
                certificate: Some((living(life), source)),
                renew_at: renew.map(after),
                ask_at: ask.map(after),
                requested: false,
                is_ordered: false,
            };
            match decide(after(now), &facts) {
                Todo::Rest(until) => {
                    prop_assert!(until > after(now));
                    prop_assert!(renew.is_some() || until < after(life));
                }
                Todo::Ask => prop_assert!(source == CertificateSource::Acme),
                Todo::Order => {}
            }
            let none = Facts { certificate: None, ..facts };
            prop_assert_eq!(decide(after(now), &none), Todo::Order);
        }
    }
}
