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
/// Answer, with [`REFUSED_MOVED`]: the generation as which the site is at home elsewhere, in decimal.
pub const MOVED_GENERATION: &str = "ta3lem-moved-generation";
/// Answer, with [`REFUSED_MOVED`]: the region where the site is at home as that generation.
pub const MOVED_REGION: &str = "ta3lem-moved-region";

/// Value of [`REFUSED`]: the instance serves another site. The status is 421.
pub const REFUSED_SITE: &str = "site";
/// Value of [`REFUSED`]: the instance serves another generation; the route is stale. The status
/// is 421.
pub const REFUSED_GENERATION: &str = "generation";
/// Value of [`REFUSED`]: the site is fenced here, writes go elsewhere. The status is 503: it may yet
/// be taken back, so whoever asks can only come again.
pub const REFUSED_FENCED: &str = "fenced";
/// Value of [`REFUSED`]: the site has gone from here for good, as its database says, to where
/// [`MOVED_GENERATION`] and [`MOVED_REGION`] name. Both are left out when the database does not say
/// where. The status is 421, as for a stale generation, which it is: the request came to the wrong
/// place and was not processed.
pub const REFUSED_MOVED: &str = "moved";

/// The id of a request: made by the router, in its log and the instance's.
pub const REQUEST_ID: &str = "x-request-id";
