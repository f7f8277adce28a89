//! Header names between a router and an instance. The router sets them on every request and takes
//! them out of every answer; from outside they never come in, to outside they never go.

/// Begins every internal name, so that one rule keeps all of them out.
pub const INTERNAL_PREFIX: &str = "ta3lem-";

/// Request: the id of the site that the router routed to.
pub const SITE: &str = "ta3lem-site";
/// Request: the generation that the router routed to, in decimal.
pub const GENERATION: &str = "ta3lem-generation";
/// Answer: the instance refused without processing; one of the values below.
pub const REFUSED: &str = "ta3lem-refused";
/// Answer, with [`REFUSED_GENERATION`]: the generation that the instance serves, in decimal.
pub const SERVES_GENERATION: &str = "ta3lem-serves-generation";

/// Value of [`REFUSED`]: the instance serves another site. The status is 421.
pub const REFUSED_SITE: &str = "site";
/// Value of [`REFUSED`]: the instance serves another generation; the route is stale. The status
/// is 421.
pub const REFUSED_GENERATION: &str = "generation";
/// Value of [`REFUSED`]: the site is fenced here, writes go elsewhere. The status is 503.
pub const REFUSED_FENCED: &str = "fenced";

/// The id of a request: made by the router, in its log and the instance's.
pub const REQUEST_ID: &str = "x-request-id";
