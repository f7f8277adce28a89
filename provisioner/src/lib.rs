//! The control plane: the only writer of the control database. Modules in the order in which a
//! request for work meets them.

pub mod config;
pub mod world;
pub mod http;
pub mod control_db;
pub mod engine;
pub mod operations;
pub mod reconcilers;
pub mod instances;
pub mod backups;
pub mod previews;
pub mod proofs;
pub mod site_database;
pub mod site_storage;
pub mod certificate_authority;
pub mod certificate_check;
pub mod acme;
pub mod dns;
pub mod domain_check;
pub mod routers;
pub mod secrets;
pub mod durations;
