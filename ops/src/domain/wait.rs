//! Waiting until a domain serves: the DNS is other people's, and has no way to tell us.

use std::time::Duration;

use control_types::state::DomainState;
use provisioner_api::domains::DomainDetail;

use super::look;
use crate::{connection::Connection, failure::Failure, output::Output};

/// Between two looks into the DNS.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Between two questions whether the routers have it.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Waits until all routers of the site's region serve the domain.
pub async fn until_routed(
    mut domain: DomainDetail,
    connection: &Connection,
    output: &Output,
) -> Result<DomainDetail, Failure> {
    let mut said = None;
    loop {
        if said != Some(domain.state) {
            said = Some(domain.state);
            output.say(match domain.state {
                DomainState::Pending => "Waiting for the records (Ctrl-C: the claim stays)",
                DomainState::Verified => "Ownership is shown; waiting for the certificate",
                DomainState::Active => "It has a certificate; waiting for the routers",
                DomainState::Released => "It was removed",
            });
        }
        if domain.state == DomainState::Pending {
            tokio::time::sleep(LOOK_AGAIN).await;
            domain = look(domain.site.as_str(), &domain.hostname, connection).await?;
            continue;
        }
        let (site, host) = (domain.site.to_string(), domain.hostname.to_string());
        domain = connection.answer(connection.client.domain(&site, &host).await)?;
        if domain.routed == Some(true) {
            // As it is now, records included.
            let routed = look(&site, &domain.hostname, connection).await?;
            return Ok(DomainDetail { routed: Some(true), ..routed });
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}
