//! The two places of a site that changes its place, with what they are reached by.

use control_types::{Generation, SiteId};
use uuid::Uuid;

use super::Pace;
use crate::{
    control_db::placements::{self, Placement},
    engine::StepError,
    operations::placed,
    site_database::{Attempt, SiteDatabaseName, SiteDatabases},
    site_storage::{SitePrefix, SiteStorage},
    world::World,
};

/// One place.
pub struct Side {
    /// As the control database has it.
    pub placement: Placement,
    /// Its cluster.
    pub cluster: SiteDatabases,
    /// Its database there.
    pub database: SiteDatabaseName,
}

impl Side {
    /// The place of this placement.
    pub async fn of(world: &World, placement: Placement) -> Result<Self, StepError> {
        let cluster = world.clusters.get(placement.cluster).await?;
        let database = placed::database(&placement)?;
        Ok(Self { placement, cluster, database })
    }

    /// The place with this id; none when it is not there.
    pub async fn find(world: &World, id: Uuid) -> Result<Option<Self>, StepError> {
        let mut connection = world.db.pool.acquire().await?;
        match placements::get(&mut connection, id).await? {
            Some(placement) => Ok(Some(Self::of(world, placement).await?)),
            None => Ok(None),
        }
    }

    /// The place with this id.
    pub async fn get(world: &World, id: Uuid) -> Result<Self, StepError> {
        let missing = || StepError::fail(format!("placement {id} is gone"));
        Self::find(world, id).await?.ok_or_else(missing)
    }

    /// The place that serves the site.
    pub async fn current(world: &World, site: SiteId) -> Result<Self, StepError> {
        let mut connection = world.db.pool.acquire().await?;
        let current = placements::current(&mut connection, site).await?;
        let placement = current.ok_or_else(|| StepError::fail("the site is nowhere"))?;
        Self::of(world, placement).await
    }

    /// Its files.
    pub async fn store(&self, world: &World) -> Result<SiteStorage, StepError> {
        Ok(world.object_stores.get(self.placement.object_store).await?)
    }

    /// Where its files are.
    pub const fn prefix(&self) -> SitePrefix {
        SitePrefix::of(self.placement.site)
    }
}

/// How what is in the target comes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It follows the source: nothing is lost.
    Follows,
    /// It is the site as it was: what was written since stays in the source.
    Past,
}

/// From where to where.
pub struct Sides {
    /// Where the site is.
    pub source: Side,
    /// Where it shall be.
    pub target: Side,
    /// How fast everything is copied and compared.
    pub pace: Pace,
    /// How what is in the target comes there.
    pub content: Content,
}

impl Sides {
    /// A try to give the site from the one to the other.
    pub fn attempt(&self, number: i64) -> Attempt {
        Attempt {
            generation: self.target.placement.generation,
            region: self.target.placement.region.clone(),
            number,
        }
    }

    /// The generation that is left.
    pub const fn left(&self) -> Generation {
        self.source.placement.generation
    }

    /// Whether both have the same files.
    pub fn share_objects(&self) -> bool {
        self.source.placement.object_store == self.target.placement.object_store
    }
}
