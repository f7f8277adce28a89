//! Certificates as tables.

use provisioner_api::certificates::{Certificate, CertificateAlarm};
use time::OffsetDateTime;

use crate::{
    failure::Failure,
    output::{Cell, Output, Tone},
    when,
};

/// Several certificates.
pub fn table(certificates: &[Certificate], output: &Output) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc();
    let rows: Vec<_> = certificates
        .iter()
        .map(|one| {
            let (_, tone) = ending(one.alarm);
            let ends = one.not_after.map(|at| when::relative(at, now));
            vec![
                one.hostname.as_str().into(),
                one.region.as_str().into(),
                Cell::or_dash(one.issuer.as_deref()),
                ends.map_or_else(|| Cell::or_dash(None::<String>), |ends| Cell::toned(ends, tone)),
                state(one),
            ]
        })
        .collect();
    let header = ["hostname", "region", "issuer", "ends", "state"];
    output.table(&header, &rows, "There are no certificates.")
}

/// One certificate, and why there is no newer one.
pub fn print(one: &Certificate, output: &Output) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc();
    let mut fields = vec![
        ("Hostname", Cell::from(one.hostname.as_str())),
        ("Region", one.region.as_str().into()),
        ("Issuer", one.issuer.as_ref().map_or_else(|| "none yet".into(), |i| i.as_str().into())),
    ];
    if let Some(from) = one.not_before {
        fields.push(("Valid from", when::absolute(from).into()));
    }
    if let Some(until) = one.not_after {
        let (words, tone) = ending(one.alarm);
        fields.push((words, Cell::toned(when::both(until, now), tone)));
    }
    if one.state.is_some() {
        fields.push(("State", state(one)));
    }
    if let Some(at) = one.renew_at {
        fields.push(("Renewed", when::both(at, now).into()));
    }
    if let Some(error) = &one.last_error {
        fields.push(("Last attempt", Cell::toned(error.as_str(), Tone::Bad)));
        let next = one.next_at.filter(|at| *at > now);
        fields.push(("Tried again", next.map_or("now".into(), |at| when::both(at, now).into())));
    }
    output.fields(fields)
}

/// How the end of a certificate is spoken of.
pub const fn ending(alarm: Option<CertificateAlarm>) -> (&'static str, Tone) {
    match alarm {
        None => ("Valid until", Tone::Plain),
        Some(CertificateAlarm::EndsSoon) => ("Ends soon", Tone::Bad),
        Some(CertificateAlarm::Ended) => ("Ended", Tone::Bad),
    }
}

fn state(one: &Certificate) -> Cell {
    match (&one.last_error, one.state, one.alarm) {
        (Some(_), _, _) if one.failures > 0 => Cell::toned("failing", Tone::Bad),
        (_, _, Some(CertificateAlarm::Ended)) => Cell::toned("ended", Tone::Bad),
        (_, _, Some(CertificateAlarm::EndsSoon)) => Cell::toned("ends soon", Tone::Bad),
        (_, Some(state), None) => state.as_str().into(),
        (_, None, None) => Cell::or_dash(None::<String>),
    }
}
