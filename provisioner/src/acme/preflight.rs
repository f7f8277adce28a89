//! What a name's DNS must say before anything is ordered: an order that cannot succeed costs budget
//! at the authority, and its error says less.

use std::net::IpAddr;

use control_types::state::AcmeChallengeKind;
use provisioner_api::domains::Pointing;

use crate::{
    acme::{
        Acme,
        failure::{Failure, Fault},
    },
    control_db::{
        certificate_orders::Claimed,
        places::{self, Edges},
    },
    dns::{Answer, CaaSet, LookupError},
    domain_check,
};

impl Acme {
    /// Whether the name leads to routers, as far as that can be told; its CAA records.
    pub(super) async fn preflight(&self, claimed: &Claimed) -> Result<CaaSet, Failure> {
        let name = &claimed.hostname;
        let dns = &self.parts.dns;
        let (ipv4, ipv6) = tokio::join!(dns.ipv4(name), dns.ipv6(name));
        let (ipv4, ipv6) = (ipv4.map_err(unknown)?, ipv6.map_err(unknown)?);
        let found: Vec<IpAddr> = (ipv4.records().iter().copied().map(IpAddr::from))
            .chain(ipv6.records().iter().copied().map(IpAddr::from))
            .collect();
        if found.is_empty() {
            let nothing = matches!(ipv4, Answer::NoName) && matches!(ipv6, Answer::NoName);
            let reason = if nothing { "there is no such name" } else { "it has no address" };
            return Err(Failure::new(
                Fault::Name,
                format!("the DNS leads nobody to '{name}': {reason}"),
            ));
        }
        if self.options.checks_addresses {
            self.leads_to_routers(claimed, &found).await?;
        }
        dns.caa(name).await.map_err(unknown)
    }

    /// Routers of all regions answer challenges, so that a name may still lead to the region where
    /// its site was before. An alias of the site's platform name leads where the operator lets that
    /// one lead, whatever addresses are registered.
    async fn leads_to_routers(&self, claimed: &Claimed, found: &[IpAddr]) -> Result<(), Failure> {
        let edges = places::edges(self.pool(), &claimed.region, claimed.site).await?;
        // Where addresses are missing, nothing follows from one that is not among them.
        if !edges.is_complete {
            return Ok(());
        }
        let Err(elsewhere) = judge(claimed, &edges, found) else { return Ok(()) };
        let Some(platform_name) = &edges.platform_name else { return Err(elsewhere) };
        let aliases = self.parts.dns.aliases(&claimed.hostname).await.map_err(unknown)?;
        let is_alias = aliases.iter().any(|alias| alias.to == *platform_name);
        if is_alias { Ok(()) } else { Err(elsewhere) }
    }
}

/// Whether all addresses are those of routers.
fn judge(claimed: &Claimed, edges: &Edges, found: &[IpAddr]) -> Result<(), Failure> {
    let addresses = |texts: &[String]| -> Vec<IpAddr> {
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    };
    let (home, others) = (addresses(&edges.home), addresses(&edges.others));
    let also = match domain_check::leads(&home, &others, found) {
        Pointing::Here | Pointing::OtherRegion => return Ok(()),
        Pointing::Mixed => ", besides addresses of the platform",
        Pointing::Elsewhere | Pointing::Nowhere | Pointing::Unknown => "",
    };
    let strange: Vec<_> = found
        .iter()
        .filter(|address| !home.contains(address) && !others.contains(address))
        .map(ToString::to_string)
        .collect();
    Err(Failure::new(
        Fault::Name,
        format!(
            "the DNS leads '{}' to {}, where no router of the platform listens{also}; those of \
             region {} listen at {}. Nothing was ordered",
            claimed.hostname,
            strange.join(", "),
            claimed.region,
            edges.home.join(", "),
        ),
    ))
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
