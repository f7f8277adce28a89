//! The request of a client whose connection is older than its site's move: on to the region where the
//! site is at home now.

use super::Forwarding;
use crate::{
    record::Way,
    rejection::Reason,
    route_table::Site,
    upstream::{
        Connection,
        relay::{RelayError, Relayed},
    },
};

impl Forwarding<'_> {
    /// Whether the site is at home in another region.
    pub(super) fn is_elsewhere(&self, site: &Site) -> bool {
        *site.region != *self.edge.region
    }

    /// A connection to a router of the site's region.
    pub(super) async fn relay(&self, site: &Site) -> Result<Connection, Reason> {
        // The client comes back by a new connection, which is passed on as it is.
        self.client.send_away();
        if self.client.way == Way::Relayed {
            return Err(Reason::Misdirected);
        }
        let routers = self.edge.routes.load().edges(&site.region).to_vec();
        let relayed = Relayed {
            site: site.id,
            region: &site.region,
            routers: &routers,
            hostname: &self.hostname,
            client: self.client.address,
        };
        let edge = self.edge;
        match edge.relays.connection(&edge.neighbours, &relayed).await {
            Ok(connection) => {
                edge.metrics.relayed.increment(1);
                Ok(connection)
            }
            Err(RelayError::Busy) => Err(Reason::Busy),
            Err(error) => {
                // The control database may have another word, or the other router none yet.
                let by_word = self.is_by_word(site);
                tracing::warn!(site.id = %site.id, host = %self.hostname, region = &*site.region,
                    error = &error as &dyn std::error::Error, "a request cannot be relayed");
                Err(if by_word { Reason::Relocating } else { Reason::UpstreamFailed })
            }
        }
    }
}
