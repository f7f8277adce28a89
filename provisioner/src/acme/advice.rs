//! What somebody has to do about a hostname's certificate: a pure function of what is known of it.

use control_types::{
    Hostname, Slug,
    state::{CertificateFault as Fault, CertificateSource, DomainKind},
};
use provisioner_api::{
    certificates::{CertificateAlarm, CertificateFailure},
    domains::DomainCertificate,
};
use time::OffsetDateTime;

/// Which hostname, of which site.
pub struct Named<'a> {
    /// The site.
    pub site: &'a Slug,
    /// The name.
    pub hostname: &'a Hostname,
    /// Whose records lead to it.
    pub kind: DomainKind,
}

/// What somebody has to do, a sentence each; nothing where waiting is all.
pub fn to_do(
    named: &Named<'_>,
    certificate: Option<&DomainCertificate>,
    failure: Option<&CertificateFailure>,
    now: OffsetDateTime,
) -> Vec<String> {
    // What is tried again just now may be mended already.
    let failure = failure.filter(|failure| failure.next_at > now);
    let mut todo: Vec<String> =
        failure.and_then(|failure| after(named, failure)).into_iter().collect();
    let alarming =
        certificate.and_then(|certificate| certificate.alarm.map(|alarm| (certificate, alarm)));
    if let Some((certificate, alarm)) = alarming {
        todo.extend(about(named, certificate, alarm, todo.is_empty()));
    }
    todo
}

/// What may mend the cause of a failure.
fn after(named: &Named<'_>, failure: &CertificateFailure) -> Option<String> {
    let Named { site, hostname, kind } = named;
    let again = format!("to try at once: ta3lem certificate renew {site} {hostname}");
    match (failure.fault?, kind) {
        (Fault::Name, DomainKind::Custom) => Some(format!(
            "Mend what the last attempt found wrong with '{hostname}'; it is tried again as soon as \
             `ta3lem domain check {site} {hostname}` finds the records right ({again})."
        )),
        (Fault::Name, DomainKind::Platform) => {
            Some(format!("An operator has to mend the DNS of the platform's own domain ({again})."))
        }
        // Another way to prove the name is tried first.
        (Fault::Proof, _) if failure.failures == 0 => None,
        (Fault::Proof, _) => Some(format!(
            "Let everybody reach the platform at port 80 (http://{hostname}/.well-known/acme-\
             challenge/) and at port 443 of '{hostname}': no firewall, CDN or proxy may answer \
             there ({again})."
        )),
        (Fault::Authority, _) => Some(format!(
            "An operator has to look at what the authority says: at the account there, and at \
             `acme` in the provisioner's configuration ({again})."
        )),
        (Fault::Here, _) => Some(
            "An operator has to look at the provisioner's log: the cause is the platform's own."
                .to_owned(),
        ),
        (Fault::Unreachable | Fault::Limited | Fault::Unfinished, _) => None,
    }
}

/// What an alarm asks for. That renewing failed is said by the failure, where there is one.
fn about(
    named: &Named<'_>,
    certificate: &DomainCertificate,
    alarm: CertificateAlarm,
    is_alone: bool,
) -> Option<String> {
    let Named { site, hostname, .. } = named;
    let when = match alarm {
        CertificateAlarm::EndsSoon => "ends soon",
        CertificateAlarm::Ended => "has ended, and browsers refuse it",
    };
    match certificate.source {
        CertificateSource::Uploaded if certificate.hostname.starts_with('*') => Some(format!(
            "The uploaded certificate of {} {when}: upload a new one with ta3lem certificate \
             wildcard upload --chain FILE --key FILE.",
            certificate.hostname
        )),
        CertificateSource::Uploaded => Some(format!(
            "The uploaded certificate of '{hostname}' {when}: upload a new one with ta3lem \
             certificate upload {site} {hostname} --chain FILE --key FILE."
        )),
        CertificateSource::Acme | CertificateSource::Local if is_alone => Some(format!(
            "The certificate of '{hostname}' {when} and should have been renewed by itself: an \
             operator has to look at `ta3lem status` and the provisioner's log."
        )),
        CertificateSource::Acme | CertificateSource::Local => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about_a_name(
        kind: DomainKind,
        failed: Option<(Fault, i32)>,
        held: Option<(CertificateSource, Option<CertificateAlarm>)>,
    ) -> Vec<String> {
        about_at(kind, failed, held, OffsetDateTime::UNIX_EPOCH)
    }

    fn about_at(
        kind: DomainKind,
        failed: Option<(Fault, i32)>,
        held: Option<(CertificateSource, Option<CertificateAlarm>)>,
        now: OffsetDateTime,
    ) -> Vec<String> {
        let at = OffsetDateTime::UNIX_EPOCH;
        let failure = failed.map(|(fault, failures)| CertificateFailure {
            reason: "so".to_owned(),
            fault: Some(fault),
            at,
            failures,
            next_at: at + time::Duration::MINUTE,
        });
        let certificate = held.map(|(source, alarm)| DomainCertificate {
            hostname: "a.example".to_owned(),
            issuer: "x".to_owned(),
            source,
            not_before: at,
            not_after: at,
            alarm,
        });
        let (site, hostname) =
            ("acme".parse().expect("a slug"), "a.example".parse().expect("a name"));
        let named = Named { site: &site, hostname: &hostname, kind };
        to_do(&named, certificate.as_ref(), failure.as_ref(), now)
    }

    #[test]
    fn who_can_do_something_is_told_what() {
        let custom = DomainKind::Custom;
        let soon = Some(CertificateAlarm::EndsSoon);
        let says = |fault, failures| about_a_name(custom, Some((fault, failures)), None).join(" ");
        assert!(says(Fault::Name, 1).contains("ta3lem domain check acme a.example"));
        assert!(says(Fault::Proof, 1).contains("port 80"));
        assert!(says(Fault::Proof, 0).is_empty());
        assert!(says(Fault::Authority, 3).contains("operator"));
        assert!(says(Fault::Unreachable, 9).is_empty() && says(Fault::Limited, 0).is_empty());
        let later = OffsetDateTime::UNIX_EPOCH + time::Duration::HOUR;
        assert!(about_at(custom, Some((Fault::Name, 1)), None, later).is_empty());
        let ours = about_a_name(DomainKind::Platform, Some((Fault::Name, 1)), None);
        assert!(ours[0].contains("platform's own domain"), "{ours:?}");

        assert!(about_a_name(custom, None, Some((CertificateSource::Acme, None))).is_empty());
        let uploaded = about_a_name(custom, None, Some((CertificateSource::Uploaded, soon)));
        assert!(uploaded[0].contains("certificate upload acme a.example"), "{uploaded:?}");
        let stale = about_a_name(custom, None, Some((CertificateSource::Acme, soon)));
        assert!(stale[0].contains("ta3lem status"), "{stale:?}");
        let known = Some((Fault::Proof, 2));
        let failing = about_a_name(custom, known, Some((CertificateSource::Acme, soon)));
        assert_eq!(failing.len(), 1, "the failure says it: {failing:?}");
    }
}
