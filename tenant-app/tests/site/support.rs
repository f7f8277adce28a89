//! What every story stands on: a site with its database, its object store and its process, and a
//! browser without JavaScript.

pub mod browser;
pub mod instance;
pub mod postgres;
pub mod s3;
pub mod studio_bundle;

pub use browser::{Browser, Page};
pub use instance::{Site, Starting};
