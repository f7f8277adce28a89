//! Domains as tables.

use control_types::state::{CertificateOrderState, DomainProof, DomainState};
use provisioner_api::{
    certificates::CertificateAlarm,
    domains::{DomainDetail, Pointing, RecordDiff, RecordStatus},
};
use time::OffsetDateTime;

use super::is_own;
use crate::{
    failure::Failure,
    output::{Cell, Output, Tone},
    when,
};

/// All hostnames of a site.
pub fn table(domains: &[DomainDetail], output: &Output) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc();
    let rows: Vec<_> = domains
        .iter()
        .map(|domain| {
            vec![
                Cell::from(domain.unicode.as_str()),
                state(domain),
                role(domain).into(),
                dns(domain),
                Cell::or_dash(domain.proof.map(proof)),
                certificate(domain, now),
                domain.url.as_str().into(),
            ]
        })
        .collect();
    let header = ["hostname", "state", "", "dns", "shown by", "certificate", "url"];
    output.table(&header, &rows, "The site has no hostnames.")
}

/// One hostname, with what the DNS says and what is to be done.
pub fn print(domain: &DomainDetail, output: &Output) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc();
    let mut fields = vec![("Hostname", Cell::from(domain.unicode.as_str()))];
    if domain.unicode != domain.hostname.as_str() {
        fields.push(("As in DNS", domain.hostname.as_str().into()));
    }
    fields.push(("Site", domain.site.as_str().into()));
    fields.push(("State", state(domain)));
    if let Some(proof) = domain.proof.map(proof) {
        fields.push(("Shown by", proof.into()));
    }
    if let Some(at) = domain.expires_at {
        fields.push(("Claim ends", when::both(at, now).into()));
    }
    let role = match (domain.is_primary, domain.primary_when_active) {
        (false, true) => "becomes the primary one when it serves",
        _ => role(domain),
    };
    if !role.is_empty() {
        fields.push(("Role", role.into()));
    }
    if domain.state != DomainState::Pending {
        fields.extend(certificate_fields(domain, now));
    }
    if let (DomainState::Active, Some(routed)) = (domain.state, domain.routed) {
        let (word, tone) =
            if routed { ("serve it", Tone::Good) } else { ("not all serve it yet", Tone::Busy) };
        fields.push(("Routers", Cell::toned(word, tone)));
    }
    fields.push(("URL", domain.url.as_str().into()));
    output.fields(fields)?;
    if is_own(domain) && domain.check.is_none() {
        output.say("The DNS was not asked yet.");
    }
    let check = domain.check.as_ref();
    let records: Vec<_> = check.iter().flat_map(|check| &check.records).map(record).collect();
    if !records.is_empty() {
        output.print("")?;
        output.table(&["", "type", "name", "is there", "should be"], &records, "")?;
    }
    let of_dns = check.iter().flat_map(|check| &check.to_do);
    let to_do: Vec<_> = of_dns.chain(&domain.certificate_to_do).collect();
    if !to_do.is_empty() {
        output.print(&format!("\n{}", output.paint("To do:", Tone::Busy)))?;
        for sentence in &to_do {
            output.print(&format!("- {}", crate::output::printable(sentence)))?;
        }
    }
    for sentence in check.iter().flat_map(|check| &check.warnings) {
        let sentence = crate::output::printable(sentence);
        output.print(&format!("{} {sentence}", output.paint("Note:", Tone::Busy)))?;
    }
    if to_do.is_empty() && domain.state == DomainState::Verified && check.is_some() {
        output.say("The DNS is as it should be. The domain serves when its certificate is there.");
    }
    Ok(())
}

/// The certificate, and why there is no newer one.
fn certificate_fields(domain: &DomainDetail, now: OffsetDateTime) -> Vec<(&'static str, Cell)> {
    let cell = match (&domain.certificate, domain.certificate_state) {
        (Some(held), _) => {
            let of = if held.hostname == domain.hostname.as_str() {
                String::new()
            } else {
                format!("{}, ", held.hostname)
            };
            let (ends, tone) = ending(held.alarm);
            let until = when::both(held.not_after, now);
            Cell::toned(format!("{of}{}, {ends} {until}", held.issuer), tone)
        }
        (None, Some(CertificateOrderState::Wanted | CertificateOrderState::Ordered)) => {
            Cell::toned("none yet, it is being ordered", Tone::Busy)
        }
        (None, _) => Cell::toned("none yet", Tone::Busy),
    };
    let mut fields = vec![("Certificate", cell)];
    let Some(failure) = &domain.certificate_failure else { return fields };
    let row = match failure.failures {
        0 | 1 => String::new(),
        failures => format!(", {failures} failures in a row"),
    };
    let text = format!("{} ({}{row})", failure.reason, when::relative(failure.at, now));
    fields.push(("Last attempt", Cell::toned(text, Tone::Bad)));
    let next = if failure.next_at <= now { "now".into() } else { when::both(failure.next_at, now) };
    fields.push(("Tried again", next.into()));
    fields
}

/// How the end of a certificate is spoken of.
pub const fn ending(alarm: Option<CertificateAlarm>) -> (&'static str, Tone) {
    match alarm {
        None => ("until", Tone::Plain),
        Some(CertificateAlarm::EndsSoon) => ("ends soon:", Tone::Bad),
        Some(CertificateAlarm::Ended) => ("ended", Tone::Bad),
    }
}

fn record(row: &RecordDiff) -> Vec<Cell> {
    let (word, tone) = match row.status {
        RecordStatus::Ok => ("ok", Tone::Good),
        RecordStatus::Missing => ("missing", Tone::Bad),
        RecordStatus::Wrong => ("wrong", Tone::Bad),
        RecordStatus::Surplus => ("remove", Tone::Bad),
        RecordStatus::Unknown => ("no answer", Tone::Busy),
    };
    let list = |values: &[String]| Cell::or_dash((!values.is_empty()).then(|| values.join(", ")));
    vec![
        Cell::toned(word, tone),
        row.kind.as_str().into(),
        row.name.as_str().into(),
        list(&row.found),
        list(&row.wanted),
    ]
}

fn state(domain: &DomainDetail) -> Cell {
    let tone = match domain.state {
        DomainState::Active => Tone::Good,
        DomainState::Pending | DomainState::Verified => Tone::Busy,
        DomainState::Released => Tone::Faint,
    };
    Cell::toned(domain.state.as_str(), tone)
}

fn role(domain: &DomainDetail) -> &'static str {
    match domain.state {
        DomainState::Active if domain.is_primary => "primary",
        DomainState::Active => "redirects",
        _ => "",
    }
}

/// Where the name led when the DNS last answered.
fn dns(domain: &DomainDetail) -> Cell {
    let Some(check) = &domain.check else {
        return Cell::or_dash(is_own(domain).then_some("not asked yet"));
    };
    let (word, tone) = match check.pointing {
        Pointing::Here => ("points here", Tone::Good),
        Pointing::OtherRegion => ("points to another region", Tone::Busy),
        Pointing::Mixed => ("points here and elsewhere", Tone::Bad),
        Pointing::Elsewhere => ("points elsewhere", Tone::Bad),
        Pointing::Nowhere => ("points nowhere", Tone::Bad),
        Pointing::Unknown => ("no answer", Tone::Busy),
    };
    Cell::toned(word, tone)
}

const fn proof(proof: DomainProof) -> &'static str {
    match proof {
        DomainProof::Txt => "TXT record",
        DomainProof::Cname => "CNAME record",
        DomainProof::Vouched => "operator's word",
    }
}

fn certificate(domain: &DomainDetail, now: OffsetDateTime) -> Cell {
    match &domain.certificate {
        None => {
            let failing = domain.certificate_failure.is_some();
            Cell::toned("none", if failing { Tone::Bad } else { Tone::Busy })
        }
        Some(certificate) => {
            let (_, tone) = ending(certificate.alarm);
            let when = when::relative(certificate.not_after, now);
            let word = match certificate.alarm {
                Some(CertificateAlarm::Ended) => "ended",
                _ => "ends",
            };
            Cell::toned(format!("{}, {word} {when}", certificate.issuer), tone)
        }
    }
}
