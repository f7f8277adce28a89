//! `ta3lem region drain`: all sites of a region go elsewhere, some at a time. Each is a move of its own
//! that goes on whatever becomes of this command; asked again, it takes up what is left.

use clap::Args;
use control_types::state::{OperationState, SiteState};
use futures_util::{StreamExt as _, stream};
use provisioner_api::{
    Site,
    client::{Client, ClientError},
    sites::MoveSite,
};
use uuid::Uuid;

use crate::{
    cli::words,
    connection::Connection,
    failure::{Code, Failure},
    output::{Output, Tone, printable},
};

/// From where to where.
#[derive(Args)]
pub struct DrainArgs {
    /// The region whose sites go
    #[arg(value_name = "REGION")]
    region: String,
    /// The region that they go to
    #[arg(long, value_name = "REGION")]
    to: String,
    /// Sites that move at the same time: each takes a replication slot and some of both clusters' time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    parallel: u8,
    /// Why: it is kept in the audit trail of each
    #[arg(long, value_name = "TEXT", value_parser = words)]
    reason: Option<String>,
    /// Only check, and show what would stop which site
    #[arg(long)]
    dry_run: bool,
}

/// What became of a site.
enum Outcome {
    Moved,
    CouldMove,
    Not(String),
}

/// Drains it.
pub async fn run(
    args: &DrainArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let sites = connection.answer(connection.client.sites().await)?;
    let here: Vec<Site> = sites.into_iter().filter(|site| is_in(site, &args.region)).collect();
    if here.is_empty() {
        return output.print(&format!("No site is in {}.", args.region));
    }
    let wanted = MoveSite {
        region: Some(args.to.clone()),
        reason: args.reason.clone(),
        ..MoveSite::default()
    };
    let all = here.len();
    let moves = here.into_iter().map(|site| {
        let wanted = &wanted;
        async move {
            let outcome = one(&connection.client, &site, wanted, args.dry_run).await;
            (site, outcome)
        }
    });
    let mut moves = stream::iter(moves).buffer_unordered(usize::from(args.parallel));
    let (mut left, mut rows) = (0, Vec::new());
    while let Some((site, outcome)) = moves.next().await {
        let (told, tone) = match outcome.unwrap_or_else(|error| Outcome::Not(words_of(&error))) {
            Outcome::Moved => (format!("is in {}", args.to), Tone::Good),
            Outcome::CouldMove => (format!("can move to {}", args.to), Tone::Good),
            Outcome::Not(why) => {
                left += 1;
                (why, Tone::Bad)
            }
        };
        if !output.json {
            output.print(&format!("{}  {}", site.slug, output.paint(&printable(&told), tone)))?;
        }
        rows.push(serde_json::json!({ "site": site.slug, "outcome": told }));
    }
    if output.json {
        output.document(&rows)?;
    }
    if left == 0 {
        return Ok(());
    }
    let what = format!("{left} of {all} sites are still in {}", args.region);
    Err(Failure::new(Code::Failed, what).hint("mend what stops them, and ask again"))
}

fn is_in(site: &Site, region: &str) -> bool {
    let is_placed = site.placement.as_ref().is_some_and(|placement| placement.region == region);
    is_placed && !matches!(site.state, SiteState::Deleting | SiteState::Deleted)
}

async fn one(
    client: &Client,
    site: &Site,
    wanted: &MoveSite,
    dry_run: bool,
) -> Result<Outcome, ClientError> {
    let slug = site.slug.as_str();
    if dry_run {
        let plan = client.plan_move_site(slug, wanted).await?;
        return Ok(match plan.problems.is_empty() {
            true => Outcome::CouldMove,
            false => Outcome::Not(plan.problems.join("; ")),
        });
    }
    let accepted = client.move_site(slug, wanted, &Uuid::new_v4().to_string()).await?;
    let operation = client.wait_for(accepted.operation.id).await?;
    Ok(match operation.state {
        OperationState::Succeeded => Outcome::Moved,
        state => {
            let why = operation.last_error.unwrap_or_default();
            Outcome::Not(format!("operation {} {state}: {why}", operation.id))
        }
    })
}

fn words_of(error: &ClientError) -> String {
    error.problem().map_or_else(|| error.to_string(), |problem| problem.detail.clone())
}
