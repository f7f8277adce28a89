//! Looks at a domain and draws the consequences: a pending claim whose ownership is shown is
//! verified, and what was seen is kept.

use std::net::IpAddr;

use control_types::{
    Hostname,
    state::{DomainProof, DomainState, SiteState},
};
use provisioner_api::domains::{DomainCheck, Ownership, Pointing};
use serde_json::json;
use time::{Duration, OffsetDateTime};
use tracing::info;

use super::{Expected, decide, observe};
use crate::{
    control_db::{
        audit::{self, AuditEvent},
        certificate_orders,
        domains::{self, ClaimHostnameError, checks, checks::Target},
        sites,
    },
    world::World,
};

/// When there was no answer, it is asked again after this.
const AFTER_SILENCE: Duration = Duration::minutes(5);
/// How often a domain that serves is looked at.
const ACTIVE: Duration = Duration::days(1);
/// The shortest and the longest pause before a claim is looked at again.
const CLAIM: (Duration, Duration) = (Duration::seconds(30), Duration::hours(6));

/// Looks at a domain on behalf of `actor`. A resolver that fails is told in the check, and changes
/// nothing.
///
/// # Errors
/// When the control database does not answer.
pub async fn look(world: &World, target: &Target, actor: &str) -> Result<DomainCheck, sqlx::Error> {
    let hostname: Hostname =
        target.hostname.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let expected = expected(world, target, hostname);
    let observed = observe(&world.dns, &expected).await;
    let mut check = decide(&expected, &observed, OffsetDateTime::now_utc());
    let proof = match check.ownership {
        Ownership::Txt => Some(DomainProof::Txt),
        Ownership::Cname => Some(DomainProof::Cname),
        Ownership::Before | Ownership::NotShown | Ownership::Unknown => None,
    };
    let mut state = target.state;
    if let (DomainState::Pending, Some(proof)) = (state, proof) {
        match verify(world, target, &expected.hostname, proof, actor).await {
            Ok(true) => state = DomainState::Verified,
            Ok(false) => {}
            Err(ClaimHostnameError::Database(error)) => return Err(error),
            Err(ClaimHostnameError::Taken(name) | ClaimHostnameError::Repeated(name)) => {
                check.to_do.push(format!(
                    "'{name}' serves another site of this platform; it has to be removed there \
                     first."
                ));
            }
        }
    }
    let pool = &world.db.pool;
    if check.is_unknown() {
        checks::put_off(pool, target.id, check.checked_at + AFTER_SILENCE).await?;
    } else {
        let here = matches!(check.pointing, Pointing::Here | Pointing::OtherRegion);
        let next = check.checked_at + pause(state, check.checked_at - target.created_at);
        if check.is_well() && !target.was_well {
            // A certificate that waited for the records need not wait any longer.
            certificate_orders::dns_changed(pool, target.site, &target.hostname).await?;
            if let Some(acme) = &world.acme {
                acme.nudge();
            }
        }
        checks::store(pool, target.id, &check, here, next).await?;
    }
    Ok(check)
}

fn expected(world: &World, target: &Target, hostname: Hostname) -> Expected {
    let addresses = |texts: &[String]| -> Vec<IpAddr> {
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    };
    Expected {
        hostname,
        platform_name: format!("{}.{}", target.slug, world.platform_domain),
        token: target.token.clone(),
        cname_proves: target.cname_proves,
        owned: target.state != DomainState::Pending,
        edge: addresses(&target.edge),
        other_edges: addresses(&target.other_edges),
        authorities: world.caa_identities(),
    }
}

/// Takes a claim as shown, unless the site is going or another site has the name.
async fn verify(
    world: &World,
    target: &Target,
    hostname: &Hostname,
    proof: DomainProof,
    actor: &str,
) -> Result<bool, ClaimHostnameError> {
    let mut tx = world.db.pool.begin().await?;
    let state = sites::lock_state(&mut tx, target.site).await?;
    if !matches!(state, Some(SiteState::Active | SiteState::Suspended)) {
        return Ok(false);
    }
    if !domains::verify(&mut tx, target.id, hostname, proof).await? {
        return Ok(false);
    }
    // Another site may have given the name up since it was read; now none can.
    let now = checks::target(&mut *tx, target.id).await?;
    if !now.is_some_and(|now| proof != DomainProof::Cname || now.cname_proves) {
        return Ok(false);
    }
    let event = AuditEvent {
        actor,
        action: "domain.verify",
        site: Some(target.site),
        operation: None,
        reason: None,
        detail: json!({ "hostname": hostname, "proof": proof }),
    };
    audit::append(&mut tx, event).await?;
    tx.commit().await?;
    info!(hostname = hostname.as_str(), site = %target.slug, proof = %proof, "domain verified");
    world.nudges.all();
    Ok(true)
}

/// When to look again at a domain that was claimed `age` ago. Somebody who sets up a record does so
/// soon or much later.
fn pause(state: DomainState, age: Duration) -> Duration {
    match state {
        DomainState::Active | DomainState::Released => ACTIVE,
        DomainState::Pending | DomainState::Verified => (age / 4_i32).clamp(CLAIM.0, CLAIM.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_the_age_of_a_claim() {
        let pending = |age| pause(DomainState::Pending, age);
        assert_eq!(pending(Duration::ZERO), Duration::seconds(30));
        assert_eq!(pending(Duration::hours(1)), Duration::minutes(15));
        assert_eq!(pending(Duration::days(29)), Duration::hours(6));
        assert_eq!(pause(DomainState::Active, Duration::ZERO), Duration::days(1));
    }
}
