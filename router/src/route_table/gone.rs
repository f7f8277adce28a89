//! Sites of which their old instance says that they have gone elsewhere, and the table does not know it
//! yet. In memory, until the table has caught up: a router that is cut off from the control database
//! goes by it. That costs other sites one look at a number.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use control_types::{Generation, SiteId};

use super::{Site, Table};

/// Most sites of which this is kept. For more the instance is asked each time.
const MOST: usize = 10_000;

/// Where a site is, as the instance says that it has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// As which generation.
    pub generation: Generation,
    /// In which region.
    pub region: Arc<str>,
}

/// What is remembered.
#[derive(Debug, Default)]
pub struct Gone {
    // To be read without looking at the rest.
    number: AtomicUsize,
    homes: ArcSwap<HashMap<SiteId, Home>>,
    // Whoever makes the next map holds it.
    changing: Mutex<()>,
}

impl Gone {
    /// Where the site went after what the table has of it.
    pub fn home(&self, site: &Site) -> Option<Home> {
        if self.number.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let homes = self.homes.load();
        homes.get(&site.id).filter(|home| home.generation > site.generation).cloned()
    }

    /// Of how many sites this is kept.
    pub fn number(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }

    /// Remembers it, unless there is newer word. Whether it is news.
    pub fn remember(&self, id: SiteId, home: &Home) -> bool {
        self.change(|homes| {
            let known = homes.get(&id);
            if known.is_some_and(|known| known.generation >= home.generation)
                || (known.is_none() && homes.len() >= MOST)
            {
                return false;
            }
            homes.insert(id, home.clone());
            true
        })
    }

    /// Forgets what the table knows, and sites that it knows nothing of.
    pub fn forget(&self, table: &Table) {
        if self.number() == 0 {
            return;
        }
        self.change(|homes| {
            let before = homes.len();
            homes.retain(|id, home| {
                table.site(*id).is_some_and(|site| site.generation < home.generation)
            });
            homes.len() < before
        });
    }

    /// Makes the next map, if `change` says that there is one.
    fn change(&self, change: impl FnOnce(&mut HashMap<SiteId, Home>) -> bool) -> bool {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = HashMap::clone(&self.homes.load());
        let changed = change(&mut next);
        if changed {
            self.number.store(next.len(), Ordering::Relaxed);
            self.homes.store(Arc::new(next));
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_kept_of_any_number_of_sites() {
        let gone = Gone::default();
        let home = |generation| Home { generation: Generation(generation), region: "r".into() };
        // Not one after the other, which would copy all of them each time.
        let ids: Vec<_> = (0..MOST).map(|_| SiteId::generate()).collect();
        gone.change(|homes| {
            homes.extend(ids.iter().map(|id| (*id, home(2))));
            true
        });
        assert!(!gone.remember(SiteId::generate(), &home(2)));
        assert!(gone.remember(ids[0], &home(3)));
        assert_eq!(gone.number(), MOST);
    }
}
