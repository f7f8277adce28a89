//! Domains as tables.

use control_types::state::{DomainProof, DomainState};
use provisioner_api::domains::{DomainDetail, Pointing, RecordDiff, RecordStatus};
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
    if is_own(domain) && domain.state != DomainState::Pending {
        fields.push(("Certificate", certificate(domain, now)));
    }
    fields.push(("URL", domain.url.as_str().into()));
    output.fields(fields)?;
    let Some(check) = &domain.check else {
        if is_own(domain) {
            output.say("The DNS was not asked yet.");
        }
        return Ok(());
    };
    if !check.records.is_empty() {
        output.print("")?;
        let rows: Vec<_> = check.records.iter().map(record).collect();
        output.table(&["", "type", "name", "is there", "should be"], &rows, "")?;
    }
    if !check.to_do.is_empty() {
        output.print(&format!("\n{}", output.paint("To do:", Tone::Busy)))?;
        for sentence in &check.to_do {
            output.print(&format!("- {}", crate::output::printable(sentence)))?;
        }
    }
    for sentence in &check.warnings {
        let sentence = crate::output::printable(sentence);
        output.print(&format!("{} {sentence}", output.paint("Note:", Tone::Busy)))?;
    }
    if check.to_do.is_empty() && domain.state == DomainState::Verified {
        output.say("The DNS is as it should be. The domain serves when its certificate is there.");
    }
    Ok(())
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
        None => Cell::toned("none", if is_own(domain) { Tone::Busy } else { Tone::Faint }),
        Some(certificate) if certificate.not_after <= now => {
            let ended = format!("ended {}", when::relative(certificate.not_after, now));
            Cell::toned(ended, Tone::Bad)
        }
        Some(certificate) => {
            let ends = when::relative(certificate.not_after, now);
            format!("{}, ends {ends}", certificate.issuer).into()
        }
    }
}
