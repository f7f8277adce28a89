//! From what the DNS said to what it means, and what somebody has to do.

use std::net::IpAddr;

use provisioner_api::domains::{DomainCheck, Ownership, Pointing, RecordDiff, RecordStatus};
use time::OffsetDateTime;

use super::{Expected, Observed, TXT_KEY};
use crate::dns::{Answer, LookupError};

/// From how many seconds on it is worth saying that an old answer is remembered elsewhere.
const LONG_TTL: u32 = 600;

/// What the observation means. Nothing is decided on a question that got no answer.
pub fn decide(expected: &Expected, observed: &Observed, at: OffsetDateTime) -> DomainCheck {
    let mut check = DomainCheck {
        checked_at: at,
        ownership: ownership(expected, observed),
        pointing: Pointing::Here,
        records: Vec::new(),
        to_do: Vec::new(),
        warnings: Vec::new(),
    };
    if expected.is_local() {
        // It is this machine, and no DNS is asked for it.
        if check.ownership == Ownership::NotShown {
            check.to_do.push(format!(
                "'{}' is below localhost, which no DNS has records of: an operator has to vouch \
                 for it.",
                expected.hostname
            ));
        }
        return check;
    }
    ownership_records(expected, observed, &mut check);
    check.pointing = pointing(expected, observed, &mut check.records);
    issuers(expected, observed, &mut check);
    for record in check.records.iter().filter(|record| record.status != RecordStatus::Ok) {
        check.to_do.extend(record.advice.clone());
    }
    // Questions about one name mostly fail for one reason.
    check.to_do.dedup();
    check
}

fn ownership(expected: &Expected, observed: &Observed) -> Ownership {
    let wanted = expected.txt_value();
    if let Ok(txt) = &observed.txt
        && txt.records().iter().any(|text| text.trim() == wanted)
    {
        return Ownership::Txt;
    }
    if expected.cname_proves && is_direct_alias(expected, observed) {
        return Ownership::Cname;
    }
    if expected.owned {
        return Ownership::Before;
    }
    let unanswered = observed.txt.is_err() || (expected.cname_proves && observed.aliases.is_err());
    if unanswered && !expected.is_local() { Ownership::Unknown } else { Ownership::NotShown }
}

/// Whether the hostname itself is an alias of the site's platform name.
fn is_direct_alias(expected: &Expected, observed: &Observed) -> bool {
    let chain = observed.aliases.as_deref().unwrap_or_default();
    chain.first().is_some_and(|alias| alias.to == expected.platform_name)
}

fn ownership_records(expected: &Expected, observed: &Observed, check: &mut DomainCheck) {
    if matches!(check.ownership, Ownership::Cname | Ownership::Before) {
        return;
    }
    let (name, wanted) = (expected.txt_name(), expected.txt_value());
    let (status, advice) = match (&check.ownership, &observed.txt) {
        (Ownership::Txt, _) => (RecordStatus::Ok, None),
        (_, Err(error)) => (RecordStatus::Unknown, Some(unanswered(error))),
        (_, Ok(found)) => {
            let other = found.records().iter().any(|text| text.starts_with(TXT_KEY));
            let mut advice = format!("Add the TXT record '{wanted}' at '{name}'");
            if other {
                advice.push_str("; the one there belongs to another site or an earlier claim");
            }
            if expected.cname_proves && is_no_zone_top(expected) {
                advice.push_str(", or only the CNAME record, which shows ownership too");
            }
            let status = if other { RecordStatus::Wrong } else { RecordStatus::Missing };
            (status, Some(format!("{advice}.")))
        }
    };
    if !expected.cname_proves
        && check.ownership == Ownership::NotShown
        && is_direct_alias(expected, observed)
    {
        check.warnings.push(format!(
            "'{}' or the platform name that it leads to belonged to another site before, so that \
             the CNAME record alone does not show whose it is now.",
            expected.hostname
        ));
    }
    let (found, ttl_secs) = match &observed.txt {
        Ok(answer) => (answer.records().to_vec(), answer.ttl_secs()),
        Err(_) => (Vec::new(), None),
    };
    let kind = "TXT".to_owned();
    let wanted = vec![wanted];
    check.records.push(RecordDiff { name, kind, found, wanted, status, ttl_secs, advice });
}

fn pointing(expected: &Expected, observed: &Observed, rows: &mut Vec<RecordDiff>) -> Pointing {
    let chain = match &observed.aliases {
        Ok(chain) => chain,
        Err(error) => {
            rows.push(unknown_row(error));
            return Pointing::Unknown;
        }
    };
    if chain.iter().any(|alias| alias.to == expected.platform_name) {
        let first = &chain[0];
        rows.push(RecordDiff {
            name: first.from.clone(),
            kind: "CNAME".to_owned(),
            found: vec![first.to.clone()],
            wanted: vec![first.to.clone()],
            status: RecordStatus::Ok,
            ttl_secs: Some(first.ttl_secs),
            advice: None,
        });
        return Pointing::Here;
    }
    let (ipv4, ipv6) = match (&observed.ipv4, &observed.ipv6) {
        (Ok(ipv4), Ok(ipv6)) => (Family::new("A", ipv4), Family::new("AAAA", ipv6)),
        (Err(error), _) | (_, Err(error)) => {
            rows.push(unknown_row(error));
            return Pointing::Unknown;
        }
    };
    let all: Vec<IpAddr> = ipv4.found.iter().chain(&ipv6.found).copied().collect();
    let pointing = leads(&expected.edge, &expected.other_edges, &all);
    if let (Some(alias), true) = (chain.first(), pointing != Pointing::Here) {
        let advice = format!(
            "Change the CNAME record of '{}' to '{}'.{}{}",
            alias.from,
            expected.platform_name,
            proxies(pointing),
            remembered(Some(alias.ttl_secs)),
        );
        rows.push(RecordDiff {
            name: alias.from.clone(),
            kind: "CNAME".to_owned(),
            found: vec![alias.to.clone()],
            wanted: vec![expected.platform_name.clone()],
            status: RecordStatus::Wrong,
            ttl_secs: Some(alias.ttl_secs),
            advice: Some(advice),
        });
        return pointing;
    }
    if pointing == Pointing::Nowhere || expected.edge.is_empty() {
        absent_rows(expected, &[&ipv4, &ipv6], rows);
    } else {
        rows.extend([ipv4, ipv6].iter().filter_map(|family| family.row(expected, pointing)));
    }
    pointing
}

/// Where addresses lead: `edge` is where visitors of the site's region arrive, `other_edges` where
/// those of the other regions do.
pub fn leads(edge: &[IpAddr], other_edges: &[IpAddr], found: &[IpAddr]) -> Pointing {
    let here = found.iter().filter(|address| edge.contains(address)).count();
    let near = found.iter().filter(|address| other_edges.contains(address)).count();
    if found.is_empty() {
        Pointing::Nowhere
    } else if here == found.len() {
        Pointing::Here
    } else if found.iter().all(|a| edge.contains(a) || other_edges.contains(a)) {
        Pointing::OtherRegion
    } else if here + near > 0 {
        Pointing::Mixed
    } else {
        Pointing::Elsewhere
    }
}

/// The hostname has no address, or none that could be right: an alias is the better record, where
/// one is possible.
fn absent_rows(expected: &Expected, families: &[&Family], rows: &mut Vec<RecordDiff>) {
    let name = expected.hostname.as_str();
    let addresses: Vec<_> = expected.edge.iter().map(ToString::to_string).collect();
    if is_no_zone_top(expected) || addresses.is_empty() {
        // Beside an alias nothing else can be.
        for family in families.iter().filter(|family| !family.found.is_empty()) {
            rows.push(RecordDiff {
                name: name.to_owned(),
                kind: family.kind.to_owned(),
                found: family.texts(),
                wanted: Vec::new(),
                status: RecordStatus::Surplus,
                ttl_secs: family.ttl_secs,
                advice: Some(format!("Remove the {} record of '{name}'.", family.kind)),
            });
        }
        let instead = match addresses.as_slice() {
            [] => String::new(),
            some => format!(
                " A name that cannot have one, as the top of a domain, takes its address: {}.",
                some.join(", ")
            ),
        };
        let wanted = expected.platform_name.clone();
        let advice = format!("Add a CNAME record from '{name}' to '{wanted}'.{instead}");
        rows.push(missing_row(name, "CNAME", vec![wanted], advice));
        return;
    }
    for kind in ["A", "AAAA"] {
        let wanted = Family::wanted(expected, kind);
        if !wanted.is_empty() {
            let advice = add(kind, name, &wanted);
            rows.push(missing_row(name, kind, wanted, advice));
        }
    }
}

/// The addresses of one kind that the hostname has.
struct Family {
    kind: &'static str,
    found: Vec<IpAddr>,
    ttl_secs: Option<u32>,
}

impl Family {
    fn new<T: Copy + Into<IpAddr>>(kind: &'static str, answer: &Answer<T>) -> Self {
        let mut found: Vec<IpAddr> =
            answer.records().iter().map(|address| (*address).into()).collect();
        found.sort();
        found.dedup();
        Self { kind, found, ttl_secs: answer.ttl_secs() }
    }

    fn texts(&self) -> Vec<String> {
        self.found.iter().map(ToString::to_string).collect()
    }

    fn wanted(expected: &Expected, kind: &str) -> Vec<String> {
        let of_kind = |address: &&IpAddr| address.is_ipv4() == (kind == "A");
        expected.edge.iter().filter(of_kind).map(ToString::to_string).collect()
    }

    /// The row of a hostname that has addresses; none when neither has nor needs any of this kind.
    fn row(&self, expected: &Expected, pointing: Pointing) -> Option<RecordDiff> {
        let name = expected.hostname.as_str();
        let wanted = Self::wanted(expected, self.kind);
        let foreign: Vec<_> = self
            .found
            .iter()
            .filter(|address| !expected.edge.contains(address))
            .map(ToString::to_string)
            .collect();
        if self.found.is_empty() && (wanted.is_empty() || pointing == Pointing::Here) {
            return None;
        }
        let kept: Vec<_> =
            self.texts().into_iter().filter(|text| !foreign.contains(text)).collect();
        let (status, wanted, advice) = if self.found.is_empty() {
            let advice = add(self.kind, name, &wanted);
            (RecordStatus::Missing, wanted, Some(advice))
        } else if foreign.is_empty() {
            (RecordStatus::Ok, kept, None)
        } else if !kept.is_empty() || wanted.is_empty() {
            let status = if kept.is_empty() { RecordStatus::Surplus } else { RecordStatus::Wrong };
            (status, kept, Some(self.removal(name, &foreign)))
        } else {
            let advice = self.replacement(expected, pointing, &foreign, &wanted);
            (RecordStatus::Wrong, wanted, Some(advice))
        };
        Some(RecordDiff {
            name: name.to_owned(),
            kind: self.kind.to_owned(),
            found: self.texts(),
            wanted,
            status,
            ttl_secs: self.ttl_secs,
            advice,
        })
    }

    fn removal(&self, name: &str, foreign: &[String]) -> String {
        format!(
            "Remove {} from the {} records of '{name}': it leads elsewhere.{}",
            foreign.join(", "),
            self.kind,
            remembered(self.ttl_secs)
        )
    }

    fn replacement(
        &self,
        expected: &Expected,
        pointing: Pointing,
        foreign: &[String],
        wanted: &[String],
    ) -> String {
        let what = if pointing == Pointing::OtherRegion {
            "it leads to another region of the platform, which passes visitors on"
        } else {
            "it leads elsewhere"
        };
        let instead = if is_no_zone_top(expected) {
            format!(", or replace it by a CNAME record to '{}'", expected.platform_name)
        } else {
            String::new()
        };
        format!(
            "Change the {} record of '{}' from {} to {} ({what}){instead}.{}{}",
            self.kind,
            expected.hostname,
            foreign.join(", "),
            wanted.join(", "),
            proxies(pointing),
            remembered(self.ttl_secs),
        )
    }
}

fn add(kind: &str, name: &str, wanted: &[String]) -> String {
    format!("Add an {kind} record for '{name}' with {}.", wanted.join(", "))
}

/// Whether one of our authorities may issue for the name.
fn issuers(expected: &Expected, observed: &Observed, check: &mut DomainCheck) {
    if expected.authorities.is_empty() {
        return;
    }
    let set = match &observed.caa {
        Ok(set) => set,
        Err(error) => {
            check.warnings.push(format!(
                "{} An authority issues no certificate until it gets an answer.",
                unanswered(error)
            ));
            return;
        }
    };
    if expected.authorities.iter().any(|authority| set.permits(authority)) {
        return;
    }
    let name = set.at.clone().unwrap_or_else(|| expected.hostname.to_string());
    let wanted: Vec<_> =
        expected.authorities.iter().map(|name| format!("0 issue \"{name}\"")).collect();
    check.records.push(RecordDiff {
        name: name.clone(),
        kind: "CAA".to_owned(),
        found: set.records.iter().map(ToString::to_string).collect(),
        advice: Some(format!(
            "Add a CAA record at '{name}' that lets {} issue: those there forbid it, so no \
             certificate can be had.",
            expected.authorities.join(" or ")
        )),
        wanted,
        status: RecordStatus::Missing,
        ttl_secs: None,
    });
}

fn missing_row(name: &str, kind: &str, wanted: Vec<String>, advice: String) -> RecordDiff {
    RecordDiff {
        name: name.to_owned(),
        kind: kind.to_owned(),
        found: Vec::new(),
        wanted,
        status: RecordStatus::Missing,
        ttl_secs: None,
        advice: Some(advice),
    }
}

fn unknown_row(error: &LookupError) -> RecordDiff {
    RecordDiff {
        name: error.name.clone(),
        kind: error.kind.to_owned(),
        found: Vec::new(),
        wanted: Vec::new(),
        status: RecordStatus::Unknown,
        ttl_secs: None,
        advice: Some(unanswered(error)),
    }
}

fn unanswered(error: &LookupError) -> String {
    format!(
        "The DNS did not say which {} records '{}' has: {}. Nothing was changed.",
        error.kind, error.name, error.reason
    )
}

/// The top of a registered domain cannot be an alias. Two labels are one in all likelihood; a name
/// with more may be one too, which only its owner knows.
fn is_no_zone_top(expected: &Expected) -> bool {
    expected.hostname.as_str().split('.').count() > 2
}

const fn proxies(pointing: Pointing) -> &'static str {
    match pointing {
        Pointing::Elsewhere | Pointing::Mixed => {
            " If a CDN or proxy is switched on for the name, switch it off: TLS ends here."
        }
        _ => "",
    }
}

fn remembered(ttl_secs: Option<u32>) -> String {
    match ttl_secs {
        Some(secs) if secs >= LONG_TTL => format!(
            " What is there now may be remembered elsewhere for {} minutes more.",
            secs.div_ceil(60)
        ),
        _ => String::new(),
    }
}
