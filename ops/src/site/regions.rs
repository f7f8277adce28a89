//! `ta3lem site regions`.

use clap::Args;
use provisioner_api::{client::Client, sites::ChangeRegions};

use super::{SiteArgs, get, with_hint};
use crate::{
    cli::words,
    connection::{Again, Connection},
    failure::Failure,
    output::Output,
};

/// Where a site's data may be.
#[derive(Args)]
pub struct RegionsArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// A region where it may be from now on; may be repeated
    #[arg(long, value_name = "REGION")]
    allow: Vec<String>,
    /// A region where it may not be any more; refused while something of the site is there
    #[arg(long, value_name = "REGION")]
    forbid: Vec<String>,
    /// Why: who agreed, and where that is written; it is kept in the audit trail
    #[arg(long, value_name = "TEXT", value_parser = words)]
    reason: Option<String>,
}

/// Shows it, or changes it.
pub async fn run(
    args: RegionsArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let name = args.site.site.0;
    let site = if args.allow.is_empty() && args.forbid.is_empty() {
        get(&name, connection).await?
    } else {
        let change = ChangeRegions { allow: args.allow, forbid: args.forbid, reason: args.reason };
        let send = async |client: &Client| client.change_regions(&name, &change).await;
        match connection.change(Again::NotSent, send).await {
            Ok(site) => site,
            Err(failure) => return Err(with_hint(failure, &name, connection).await),
        }
    };
    if output.json {
        return output.document(&site.allowed_regions);
    }
    output.print(&format!("{} may be in {}", site.slug, site.allowed_regions.join(", ")))
}
