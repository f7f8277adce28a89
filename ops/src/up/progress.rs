//! What `ta3lem up` says while it works: one line per component, as soon as it is decided.

use std::{
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    path::Path,
    time::Instant,
};

use crate::config::wants_colour;

/// A failure with everything that a person needs: which component, and which log tells more. The
/// reason is the error's source chain.
#[derive(Debug, thiserror::Error)]
#[error("{component} failed{}", .log.as_ref().map(|log| format!(" (its log: {log})")).unwrap_or_default())]
pub struct ComponentError {
    component: String,
    log: Option<String>,
    #[source]
    reason: Box<dyn std::error::Error + Send + Sync>,
}

/// Runs one step of the start, and says how it went.
///
/// # Errors
/// The step's own error, with the component's name and log.
pub async fn step<T>(
    component: &str,
    log: Option<&Path>,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    match work.await {
        Ok(value) => {
            ok(component, begun);
            Ok(value)
        }
        Err(reason) => {
            line(&format!("  {}  {component}", paint("31", "failed")));
            Err(ComponentError {
                component: component.to_owned(),
                log: log.map(|log| log.display().to_string()),
                reason: reason.into(),
            }
            .into())
        }
    }
}

/// Says that a component is there.
pub fn ok(component: &str, begun: Instant) {
    let ms = begun.elapsed().as_millis();
    line(&format!("  {}  {component:<40} {}", paint("32", "ok"), paint("2", &format!("{ms} ms"))));
}

/// Says something that is not the end of a step.
pub fn note(text: impl Display) {
    line(&format!("  {}  {text}", paint("33", "--")));
}

/// Writes a line for the person at the terminal; a terminal that is gone is no failure.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// In a colour or weight (an SGR code), where that is wanted.
pub fn paint(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() && wants_colour() {
        return format!("\u{1b}[{code}m{text}\u{1b}[0m");
    }
    text.to_owned()
}
