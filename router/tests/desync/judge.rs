//! What a request may look like when it reaches a server, and what servers say that they saw.

use std::collections::HashMap;

use super::{
    strict::{Field, Head},
    tap::Journal,
};

/// Set by the router and by nobody else.
const OWN: [&str; 6] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
    "ta3lem-site",
    "ta3lem-generation",
];
const NEVER: [&str; 15] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy",
    "http2-settings",
    "expect",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-named",
];

/// What is true of every request of a site.
#[derive(Clone, Debug)]
pub struct Site {
    pub id: String,
    pub hostname: String,
}

/// One request as a server's program saw it.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Report {
    pub id: String,
    pub fields: Vec<Field>,
}

fn is_evil(fields: &[Field]) -> Option<String> {
    let evil = |text: &str| text.to_ascii_lowercase().contains("evil");
    let (name, value) = fields.iter().find(|(name, value)| evil(name) || evil(value))?;
    Some(format!("{name}: {value}"))
}

impl Site {
    /// What is wrong with the head of a request.
    pub fn check(&self, head: &Head) -> Vec<String> {
        let mut wrong: Vec<String> = is_evil(&head.fields).into_iter().collect();
        let host = head.one("host");
        if head.all("host").count() != 1 || host.split(':').next() != Some(&self.hostname) {
            wrong.push(format!("Host {:?}", head.all("host").collect::<Vec<_>>()));
        }
        let expected = ["127.0.0.1", "https", host, "", &self.id, "1"];
        for (name, expected) in OWN.into_iter().zip(expected) {
            let values: Vec<&str> = head.all(name).collect();
            let right = match values[..] {
                [value] if expected.is_empty() => value.len() == 32,
                [value] => value == expected,
                _ => false,
            };
            if !right {
                wrong.push(format!("{name} {values:?}"));
            }
        }
        let upgrades = head.one("upgrade") == "websocket" && head.one("connection") == "upgrade";
        for (name, value) in &head.fields {
            let forbidden = NEVER.contains(&name.as_str())
                || name.contains(['_', '.'])
                || (name.starts_with("ta3lem") && !OWN.contains(&name.as_str()))
                || (name.starts_with("x-forwarded") && !OWN.contains(&name.as_str()))
                || (matches!(name.as_str(), "connection" | "upgrade") && !upgrades)
                || (name == "te" && value != "trailers");
            if forbidden {
                wrong.push(format!("{name}: {value}"));
            }
        }
        wrong.into_iter().map(|wrong| format!("{} has {wrong}", head.target)).collect()
    }

    /// The same for trailers.
    pub fn check_trailers(&self, fields: &[Field]) -> Vec<String> {
        let mut wrong: Vec<String> = is_evil(fields).into_iter().collect();
        for (name, value) in fields {
            let name = name.as_str();
            let framing =
                ["host", "content-length", "transfer-encoding", "authorization", "cookie"];
            if OWN.contains(&name) || NEVER.contains(&name) || framing.contains(&name) {
                wrong.push(format!("{name}: {value}"));
            }
        }
        wrong.into_iter().map(|wrong| format!("a trailer {wrong}")).collect()
    }
}

/// What came of all payloads at one server.
#[derive(Debug, Default)]
pub struct Outcome {
    pub sent: usize,
    /// Whose body broke off on the way.
    pub cut: usize,
    pub answered: usize,
    /// Answered by the server itself and not by the program behind it.
    pub refused: usize,
    pub reported: Option<usize>,
    pub differences: Vec<String>,
}

/// Compares what the router sent with what the server answered and what its program saw.
pub fn compare(journal: &Journal, reports: Option<&[Report]>) -> Outcome {
    let sent = &journal.sent;
    let mut outcome = Outcome {
        sent: sent.len(),
        cut: sent.iter().filter(|sent| !sent.is_whole).count(),
        reported: reports.map(<[_]>::len),
        differences: journal.differences.clone(),
        ..Outcome::default()
    };
    let answers: Vec<bool> = sent.iter().filter_map(|sent| Some(sent.answer?.1)).collect();
    outcome.answered = answers.len();
    let Some(reports) = reports else { return outcome };
    outcome.refused = answers.iter().filter(|of_program| !**of_program).count();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for report in reports {
        *seen.entry(&report.id).or_default() += 1;
        if let Some(evil) = is_evil(&report.fields) {
            outcome.differences.push(format!("the program saw {evil}"));
        }
    }
    for sent in sent {
        let id = sent.head.one("x-request-id");
        let times = seen.remove(id).unwrap_or(0);
        // Without an answer of the program it may have seen the request or not.
        let right = match sent.answer {
            Some((_, true)) => times == 1,
            _ => times <= 1,
        };
        if !right {
            let target = &sent.head.target;
            let answer = sent.answer;
            let text = format!("{target} ({id}): seen {times} times, answered {answer:?}");
            outcome.differences.push(text);
        }
    }
    let unknown = seen.keys().map(|id| format!("the program saw {id:?}, which nobody sent"));
    outcome.differences.extend(unknown);
    outcome
}
