//! The control database: every table has one file here with its SQL. The provisioner is the only
//! writer. Routers read the views of schema `routing`, which are made from these tables.
//!
//! What is stored: where sites are, which names they have, what runs them, what was done to them and
//! by whom. What is not: anything of a site's learners, and any secret that is not sealed.

use std::time::Duration;

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub mod acme_accounts;
pub mod acme_challenges;
pub mod audit;
pub mod certificate_orders;
pub mod certificates;
pub mod cluster_backups;
pub mod clusters;
pub mod domains;
pub mod holds;
pub mod instances;
pub mod object_stores;
pub mod operations;
pub mod placement_terms;
pub mod placements;
pub mod places;
pub mod previews;
pub mod restore_orders;
pub mod restore_proofs;
pub mod route_changes;
pub mod site_records;
pub mod sites;
pub mod tokens;

/// The control database.
#[derive(Clone, Debug)]
pub struct ControlDb {
    /// Its connections.
    pub pool: PgPool,
}

impl ControlDb {
    /// Connects when first used.
    ///
    /// # Errors
    /// When `url` is no Postgres URL.
    pub fn new(url: &str) -> Result<Self, sqlx::Error> {
        let options: PgConnectOptions = url.parse()?;
        let options = options.application_name("provisioner");
        let pool = PgPoolOptions::new()
            .max_connections(24)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(options);
        Ok(Self { pool })
    }
}

/// The name of the constraint that a statement broke, if it broke one.
pub fn broken_constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|error| error.constraint())
}
