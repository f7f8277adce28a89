//! The word of a site's old instance that the site has gone: with the control database out of reach it
//! is the only news. It is as good as any, since the instance has it from the site's own database, and
//! the router that it leads to must prove that it serves the hostname and know the site to be its own.

use std::sync::Arc;

use super::Forwarding;
use crate::{
    record::Way,
    rejection::Reason,
    route_table::{Home, Site},
};

impl Forwarding<'_> {
    /// The site where it has gone by what is remembered of its old instance's word. A request that
    /// was relayed waits for the news instead, since it is relayed to nobody.
    pub(super) fn gone(&self, site: &Site) -> Option<Arc<Site>> {
        let home = self.edge.routes.gone(site)?;
        (self.client.way != Way::Relayed).then(|| site.gone_to(home))
    }

    /// The site where its instance says that it has gone, if the request can follow at once. Where it
    /// cannot, it waits for the news: the table has newer already, the site is in the same region, at
    /// another address that only the table will know, or there is no way to the other region.
    pub(super) fn goes_by_word(
        &self,
        site: &Site,
        home: &Home,
        again: bool,
    ) -> Result<Option<Arc<Site>>, Reason> {
        let edge = self.edge;
        let table = edge.routes.load();
        let known = table.site(site.id).map_or(site.generation, |known| known.generation);
        if home.generation <= known.max(site.generation)
            || *home.region == *edge.region
            || table.edges(&home.region).is_empty()
        {
            return Ok(None);
        }
        drop(table);
        if edge.routes.remember_gone(site.id, home) {
            tracing::info!(site.id = %site.id, host = &*self.hostname, ?home,
                "a site has gone, its instance says; the control database has not said it yet");
            edge.note_gone();
        }
        edge.routes.nudge();
        if self.client.way == Way::Relayed || !again {
            return Ok(None);
        }
        if self.upload.as_ref().is_some_and(|upload| !upload.is_kept()) {
            return Err(Reason::Relocating);
        }
        Ok(Some(site.gone_to(home.clone())))
    }

    /// Whether the site is where it is by an instance's word alone.
    pub(super) fn is_by_word(&self, site: &Site) -> bool {
        let table = self.edge.routes.load();
        table.site(site.id).is_some_and(|known| known.generation < site.generation)
    }
}
