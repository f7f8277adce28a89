//! How a command ends when it does not end well: the exit codes, and the one place that prints an
//! error.

use std::process::ExitCode;

use provisioner_api::Problem;
use serde::Serialize;

use crate::output::{Output, Tone};

/// What the process exits with. The numbers are a promise to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The provisioner refused, or the operation failed.
    Failed = 1,
    /// Wrong usage; clap uses the same number.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// It exists already, or something else is under way.
    Conflict = 4,
    /// Nobody answers.
    Unreachable = 5,
    /// The operation needs a human.
    Stuck = 6,
    /// The token is missing or not good enough.
    NotAuthorised = 7,
    /// Ctrl-C.
    Interrupted = 130,
}

impl Code {
    const MEANINGS: &[(u8, &str)] = &[
        (0, "done"),
        (Self::Failed as u8, "refused, failed (and undone), or something is left to be done"),
        (Self::Usage as u8, "wrong usage, or a confirmation is missing"),
        (Self::NotFound as u8, "not found"),
        (Self::Conflict as u8, "conflict: it exists already, or an operation is in progress"),
        (Self::Unreachable as u8, "the provisioner, or its database, does not answer"),
        (Self::Stuck as u8, "the operation is stuck and needs a person"),
        (Self::NotAuthorised as u8, "not authorised"),
        (Self::Interrupted as u8, "interrupted; an operation that had begun goes on"),
    ];

    /// The table for `--help`.
    pub fn help() -> String {
        let mut text = String::from("Exit codes:\n");
        for (code, meaning) in Self::MEANINGS {
            text.push_str(&format!("  {code:>3}  {meaning}\n"));
        }
        text
    }
}

/// Why a command did not succeed, in words for its user.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What to exit with.
    pub code: Code,
    /// What happened, as a sentence without the end.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The provisioner's own words, if it had any.
    pub problem: Option<Box<Problem>>,
    /// Whether the result that was printed says it already.
    pub told: bool,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, problem: None, told: false }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with the way to send the request again so that it takes effect once, where it is
    /// unknown whether it did.
    #[must_use]
    pub fn repeatable(self, key: &str) -> Self {
        if self.code != Code::Unreachable {
            return self;
        }
        let hint = self.hint.as_ref().map_or_else(String::new, |hint| format!("{hint}; "));
        self.hint(format!("{hint}to repeat exactly this request: --idempotency-key {key}"))
    }

    /// The same where the result that was printed says it already: only the exit code is left.
    #[must_use]
    pub const fn told(mut self) -> Self {
        self.told = true;
        self
    }

    /// Says it on stderr: `error:` and `hint:` lines, or one JSON document with `--json`.
    pub fn report(&self, output: &Output) -> ExitCode {
        if self.told {
            return ExitCode::from(self.code as u8);
        }
        if output.json {
            let document = Document {
                error: &self.message,
                hint: self.hint.as_deref(),
                exit_code: self.code as u8,
                problem: self.problem.as_deref(),
            };
            output.complain(&serde_json::to_string(&document).unwrap_or_default());
        } else {
            // Whoever pressed Ctrl-C made no error.
            let what = if self.code == Code::Interrupted { "note:" } else { "error:" };
            output.complain(&format!("{} {}", output.paint_err(what, Tone::Bad), self.message));
            if let Some(hint) = &self.hint {
                output.complain(&format!("{} {hint}", output.paint_err("hint:", Tone::Busy)));
            }
        }
        ExitCode::from(self.code as u8)
    }
}

/// An error that no caller branches on, as from `up`: its whole chain in one line.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Code::Failed, format!("{error:#}"))
    }
}

/// A failure with `--json`.
#[derive(Serialize)]
struct Document<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a Problem>,
}
