//! `ta3lem site delete`.

use std::io::{self, IsTerminal};

use clap::Args;
use control_types::state::{OperationState, SiteState};
use provisioner_api::{DeleteSite, Site, sites::Accepted};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{SiteArgs, get, print_plan, url, with_hint};
use crate::{
    cli::{key, words},
    connection::{Again, Connection},
    failure::{Code, Failure},
    output::{Output, Tone, printable},
    progress::{self, Until},
    when,
};

/// The site to delete.
#[derive(Args)]
#[command(after_help = "\
The site closes at once. Its data is dropped when the grace period is over; until then
`ta3lem site undelete` brings it back as it was.
")]
pub struct DeleteArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// How long it can be brought back, as 7d, 12h or 0s; the plan says it when absent
    #[arg(long, value_name = "TIME", value_parser = when::parse_secs)]
    grace: Option<i32>,
    /// Why: it is kept in the audit trail
    #[arg(long, value_name = "TEXT", value_parser = words)]
    reason: Option<String>,
    /// Do not ask for the slug to be typed
    #[arg(long, short)]
    yes: bool,
    /// Wait for the end of the grace period too, until the data is dropped
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Return when the work has begun
    #[arg(long)]
    no_wait: bool,
    /// Only check, and show what would be done
    #[arg(long)]
    dry_run: bool,
    /// The same key again means the same request; made up when absent
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
}

/// Deletes it.
pub async fn run(
    args: DeleteArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let name = args.site.site.0.as_str();
    let delete =
        DeleteSite { grace_period_secs: args.grace, reason: args.reason.clone(), dry_run: false };
    if args.dry_run {
        return match connection.answer(connection.client.plan_delete_site(name, &delete).await) {
            Ok(plan) => print_plan(&plan, output),
            Err(failure) => Err(with_hint(failure, name, connection).await),
        };
    }
    if !args.yes {
        may_ask(name)?;
        let site = get(name, connection).await?;
        confirm(&site, args.grace, output)?;
    }
    let key = args.idempotency_key.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let send = async |client: &provisioner_api::client::Client| {
        client.delete_site(name, &delete, &key).await
    };
    let mut accepted = match connection.change(Again::SameKey, send).await {
        Ok(accepted) => accepted,
        Err(failure) => return Err(with_hint(failure.repeatable(&key), name, connection).await),
    };
    if !args.no_wait {
        let until = if args.wait { Until::End } else { Until::GraceBegins };
        let id = accepted.operation.id;
        output.say(&format!("Deleting {} (operation {id})", accepted.site.slug));
        match progress::follow(connection, output, &accepted.operation, until).await {
            Ok(operation) => accepted.operation = operation,
            Err(failure) => {
                if output.json {
                    output.document(&accepted)?;
                }
                return Err(failure);
            }
        }
        if let Ok(site) = connection.client.site(&accepted.site.id.to_string()).await {
            accepted.site = site;
        }
    }
    if output.json {
        output.document(&accepted)?;
        return progress::verdict(&accepted.operation);
    }
    progress::verdict(&accepted.operation)?;
    print_standing(&accepted, output)
}

/// Brings it back within its grace period.
pub async fn undo(args: SiteArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let site = get(&args.site.0, connection).await?;
    let (slug, state) = (&site.slug, site.state);
    let id = match (state, site.live_operation) {
        (SiteState::Deleting, Some(id)) => id,
        _ => {
            let message = format!("site '{slug}' is {state}: it is not being deleted");
            return Err(with_hint(
                Failure::new(Code::Conflict, message),
                slug.as_str(),
                connection,
            )
            .await);
        }
    };
    let asked =
        connection.change(Again::NotSent, async |client| client.cancel_operation(id).await).await?;
    output.say(&format!("Bringing {slug} back (operation {id})"));
    let ended = progress::follow(connection, output, &asked, Until::End).await?;
    if ended.state == OperationState::Succeeded {
        let message = format!("it was too late: {slug} is deleted");
        return Err(Failure::new(Code::Conflict, message));
    }
    if ended.state != OperationState::Cancelled {
        return progress::verdict(&ended);
    }
    let site = get(slug.as_str(), connection).await?;
    if output.json {
        return output.document(&site);
    }
    output.print(&format!("{slug} is {} again, as it was", site.state))
}

/// Says how far it is, and what can still be done.
fn print_standing(accepted: &Accepted, output: &Output) -> Result<(), Failure> {
    let Accepted { operation, site, .. } = accepted;
    let (slug, id) = (&site.slug, operation.id);
    if operation.state == OperationState::Succeeded {
        return output.print(&format!("{slug} is deleted: its database, files and hostnames"));
    }
    match site.delete_after {
        Some(at) => {
            let at = when::both(at, OffsetDateTime::now_utc());
            output.print(&format!("{slug} is closed; its data is dropped at {at}"))?;
        }
        None => output.print(&format!("{slug} is being deleted by operation {id}"))?,
    }
    output.say(&format!("Bring it back: ta3lem site undelete {slug}"));
    Ok(())
}

/// Without a terminal nobody can answer.
fn may_ask(name: &str) -> Result<(), Failure> {
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        return Ok(());
    }
    Err(Failure::new(Code::Usage, format!("deleting {name} needs a confirmation"))
        .hint("there is no terminal to ask on: add --yes"))
}

fn confirm(site: &Site, grace: Option<i32>, output: &Output) -> Result<(), Failure> {
    let slug = site.slug.as_str();
    let place = site.placement.as_ref().map_or("no region", |placement| &placement.region);
    let at = url(site).unwrap_or("no hostname");
    output.complain(&format!(
        "{} {} ({}), {at}, in {place}",
        output.paint_err("Delete", Tone::Bad),
        output.paint_err(slug, Tone::Bad),
        printable(&site.name)
    ));
    output.complain(&match grace {
        Some(0) => "Its database and files are dropped at once. There is no way back.".to_owned(),
        Some(secs) => format!(
            "It closes now. Its database and files are dropped in {}; until then it can be \
             brought back.",
            when::took(std::time::Duration::from_secs(u64::try_from(secs).unwrap_or(0)))
        ),
        None => "It closes now. Its database and files are dropped after its plan's grace \
                 period; until then it can be brought back."
            .to_owned(),
    });
    output.complain("Type its slug to go on:");
    let mut typed = String::new();
    io::stdin().read_line(&mut typed).map_err(anyhow::Error::from)?;
    if typed.trim() == slug {
        return Ok(());
    }
    Err(Failure::new(Code::Usage, format!("{slug} was not deleted: its slug was not typed")))
}
