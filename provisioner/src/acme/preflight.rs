//! What a name's DNS must say before anything is ordered: an order that cannot succeed costs budget
//! at the authority, and its error says less.

use control_types::state::AcmeChallengeKind;

use crate::{
    acme::{
        Acme,
        failure::{Failure, Fault},
    },
    control_db::certificate_orders::Claimed,
    dns::{Answer, CaaSet, LookupError},
};

impl Acme {
    /// Whether the name leads anywhere; its CAA records.
    pub(super) async fn preflight(&self, claimed: &Claimed) -> Result<CaaSet, Failure> {
        let name = &claimed.hostname;
        let dns = &self.parts.dns;
        let (ipv4, ipv6) = tokio::join!(dns.ipv4(name), dns.ipv6(name));
        let (ipv4, ipv6) = (ipv4.map_err(unknown)?, ipv6.map_err(unknown)?);
        if ipv4.records().is_empty() && ipv6.records().is_empty() {
            let nothing = matches!(ipv4, Answer::NoName) && matches!(ipv6, Answer::NoName);
            let reason = if nothing { "there is no such name" } else { "it has no address" };
            return Err(Failure::new(
                Fault::Name,
                format!("the DNS leads nobody to '{name}': {reason}"),
            ));
        }
        dns.caa(name).await.map_err(unknown)
    }
}

fn unknown(error: LookupError) -> Failure {
    Failure::new(Fault::Name, error.to_string())
}

/// Whether the records let an authority, that goes by any of `identities`, issue after a challenge
/// of one of these kinds (RFC 8659, RFC 8657). An authority that does not tell what it goes by is
/// asked.
///
/// # Errors
/// Says what the records say instead.
pub fn permits(
    caa: &CaaSet,
    authority: &str,
    identities: &[String],
    account: &str,
    kinds: &[AcmeChallengeKind],
) -> Result<(), String> {
    let Some(at) = &caa.at else { return Ok(()) };
    let Some(first) = identities.first() else { return Ok(()) };
    let records = || caa.records.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if !identities.iter().any(|identity| caa.permits(identity)) {
        return Err(format!(
            "the CAA records of '{at}' ({}) do not let {authority} issue; add: 0 issue \"{first}\"",
            records()
        ));
    }
    let ours = |issuer: Option<String>| {
        issuer.is_some_and(|name| identities.iter().any(|own| own.eq_ignore_ascii_case(&name)))
    };
    let issue: Vec<_> = caa.records.iter().filter(|record| record.tag == "issue").collect();
    let fits = issue.iter().filter(|record| ours(record.issuer())).any(|record| {
        let methods = record.parameter("validationmethods");
        let method_fits = methods.is_none_or(|methods| {
            methods
                .split(',')
                .any(|method| kinds.iter().any(|kind| method.trim() == name_of(*kind)))
        });
        method_fits && record.parameter("accounturi").is_none_or(|uri| uri == account)
    });
    if issue.is_empty() || fits {
        return Ok(());
    }
    Err(format!(
        "the CAA records of '{at}' ({}) let {authority} issue only for another account or by \
         another way to prove the name",
        records()
    ))
}

fn name_of(kind: AcmeChallengeKind) -> &'static str {
    match kind {
        AcmeChallengeKind::Http01 => "http-01",
        AcmeChallengeKind::TlsAlpn01 => "tls-alpn-01",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::CaaRecord;

    fn set(values: &[(&str, &str)]) -> CaaSet {
        let record = |(tag, value): &(&str, &str)| CaaRecord {
            critical: false,
            tag: (*tag).to_owned(),
            value: (*value).to_owned(),
        };
        CaaSet { at: Some("example.org".to_owned()), records: values.iter().map(record).collect() }
    }

    #[test]
    fn caa_records_are_obeyed_with_their_parameters() {
        let may = |values: &[(&str, &str)]| {
            let kinds = [AcmeChallengeKind::Http01];
            permits(&set(values), "a", &["a.test".to_owned()], "https://a.test/1", &kinds)
        };
        assert!(may(&[("issuewild", ";")]).is_ok());
        assert!(may(&[("issue", "A.test")]).is_ok());
        assert!(may(&[("issue", "a.test; validationmethods=dns-01,http-01")]).is_ok());
        assert!(may(&[("issue", "a.test; accounturi=https://a.test/1")]).is_ok());
        assert!(may(&[("issue", "b.test")]).is_err_and(|text| text.contains("a.test")));
        assert!(may(&[("issue", "a.test; validationmethods=dns-01")]).is_err());
        assert!(
            may(&[("issue", "a.test; accounturi=https://a.test/2"), ("issue", "b.test")]).is_err()
        );
    }
}
