//! The vocabulary that every crate shares: ids, hostnames, state enums, the internal headers and
//! what an instance is told at its start. It does no I/O, so it is safe in the router's tree.
//! The SQL that it mirrors lies beside it in `migrations/control`.

pub mod ids;
pub mod hostname;
pub mod slug;
pub mod state;
pub mod headers;
pub mod instance_config;
pub mod upstream;
#[cfg(feature = "seal")]
pub mod seal;

pub use hostname::Hostname;
pub use ids::{DomainId, Generation, InstanceId, OperationId, SiteId};
pub use instance_config::InstanceConfig;
pub use slug::Slug;
pub use upstream::Upstream;
