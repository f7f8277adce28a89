//! Why a name has no new certificate yet, and whose fault that is: it decides who waits.

use std::time::Duration;

use instant_acme::{Error, Problem};

use crate::{acme::http::told_to_wait, engine::worker::chain};

pub use control_types::state::CertificateFault as Fault;

/// A failure.
#[derive(Debug)]
pub struct Failure {
    /// Whose.
    pub fault: Fault,
    /// In words for the operator, and for the site's administrator.
    pub message: String,
    /// How long to wait at least.
    pub wait: Option<Duration>,
    /// Whether the order can be taken up again.
    pub keeps_order: bool,
    /// Whether the authority does not know our account any more.
    pub account_is_gone: bool,
    /// Whether the certificate that the order replaces was replaced already.
    pub is_replaced: bool,
}

impl Failure {
    /// Of `fault`, in words.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self {
            fault,
            message: message.into(),
            wait: None,
            keeps_order: false,
            account_is_gone: false,
            is_replaced: false,
        }
    }

    /// Something of ours.
    pub fn here(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { keeps_order: true, ..Self::new(Fault::Here, chain(error)) }
    }

    /// What the ACME library says, while `doing` something at `authority`.
    pub fn of(error: &Error, authority: &str, doing: &str) -> Self {
        let mut failure = match error {
            Error::Api(problem) => Self::of_problem(problem, authority, doing),
            Error::Other(_) | Error::Json(_) | Error::Str(_) => Self {
                keeps_order: true,
                ..Self::new(
                    Fault::Unreachable,
                    format!("{authority} does not answer as it should ({doing}): {}", chain(error)),
                )
            },
            _ => Self::new(Fault::Authority, format!("{authority}, {doing}: {}", chain(error))),
        };
        failure.wait = told_to_wait();
        failure
    }

    fn of_problem(problem: &Problem, authority: &str, doing: &str) -> Self {
        let kind = kind_of(problem);
        let fault = match kind {
            "dns" | "connection" | "tls" | "incorrectResponse" => Fault::Proof,
            "caa" | "rejectedIdentifier" | "unsupportedIdentifier" => Fault::Name,
            "unauthorized" if doing == PROVING => Fault::Proof,
            "rateLimited" => Fault::Limited,
            "serverInternal" | "badNonce" => Fault::Unreachable,
            _ if problem.status.is_some_and(|status| status >= 500) => Fault::Unreachable,
            _ => Fault::Authority,
        };
        let keeps_order = fault == Fault::Unreachable;
        let message = format!("{authority} says, {doing}: {}", words(problem));
        Self {
            keeps_order,
            account_is_gone: kind == "accountDoesNotExist",
            is_replaced: kind == "alreadyReplaced",
            ..Self::new(fault, message)
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::here(&error)
    }
}

impl From<crate::secrets::SecretError> for Failure {
    fn from(error: crate::secrets::SecretError) -> Self {
        Self::here(&error)
    }
}

/// What is being done when an authority looks at a name.
pub const PROVING: &str = "checking the name";

/// Whether the authority only wants a newer nonce. The library tries thrice.
pub fn is_bad_nonce(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if kind_of(problem) == "badNonce")
}

/// The last part of a problem's type.
fn kind_of(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind)
}

/// What a problem says to people, on one line.
pub fn words(problem: &Problem) -> String {
    let detail = problem.detail.clone().unwrap_or_else(|| "no reason given".to_owned());
    let mut text = format!("{detail} ({})", kind_of(problem));
    for part in &problem.subproblems {
        if let Some(detail) = &part.detail {
            text.push_str("; ");
            text.push_str(detail);
        }
    }
    // It is shown in tables and stored; an authority may say anything.
    text.chars().filter(|c| !c.is_control()).take(1_000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, status: u16) -> Error {
        let json = format!(
            r#"{{"type": "urn:ietf:params:acme:error:{kind}", "detail": "so", "status": {status}}}"#
        );
        Error::Api(serde_json::from_str(&json).expect("a problem"))
    }

    #[test]
    fn whose_fault_it_is() {
        for (kind, status, doing, fault) in [
            ("connection", 400, PROVING, Fault::Proof),
            ("unauthorized", 403, PROVING, Fault::Proof),
            ("unauthorized", 403, "ordering", Fault::Authority),
            ("caa", 403, "finalizing", Fault::Name),
            ("rejectedIdentifier", 400, "ordering", Fault::Name),
            ("rateLimited", 429, "ordering", Fault::Limited),
            ("serverInternal", 500, "ordering", Fault::Unreachable),
            ("malformed", 400, "ordering", Fault::Authority),
            ("strange", 502, "ordering", Fault::Unreachable),
        ] {
            let failure = Failure::of(&problem(kind, status), "a", doing);
            assert_eq!(failure.fault, fault, "{kind} while {doing}");
            assert!(failure.message.contains("so"), "{}", failure.message);
        }
        assert!(Failure::of(&problem("accountDoesNotExist", 400), "a", "x").account_is_gone);
        assert!(is_bad_nonce(&problem("badNonce", 400)));
    }
}
