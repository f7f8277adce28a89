//! `ta3lem site move`, `move-back`, `settle` and `records`.

use clap::Args;
use provisioner_api::{
    client::{Client, ClientError},
    sites::{Accepted, ChangeMove, DryRun, MoveSite, SiteRecord},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{SiteArgs, print_plan, with_hint};
use crate::{
    cli::{key, words},
    connection::{Again, Connection},
    failure::{Code, Failure},
    output::{Output, Tone},
    progress::{self, Until},
    when,
};

/// How an operation is asked for and followed.
#[derive(Args)]
pub(super) struct Asking {
    /// Why: it is kept in the audit trail
    #[arg(long, value_name = "TEXT", value_parser = words)]
    pub(super) reason: Option<String>,
    /// Return when the work has begun
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Only check, and show what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The same key again means the same request; made up when absent
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub(super) idempotency_key: Option<String>,
}

/// Where to.
#[derive(Args)]
#[command(after_help = "\
People use the site meanwhile: for the switch its requests wait for a moment, and none fails. Until the
switch `ta3lem operation cancel` leaves everything as it was. Afterwards `ta3lem site move-back`
returns the site with all that was written since, as long as its plan keeps the old place.
")]
pub struct MoveArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// The region that it goes to
    #[arg(long, value_name = "REGION", required_unless_present = "to_cluster")]
    to: Option<String>,
    /// The cluster that it goes to, in that region or in its own
    #[arg(long, value_name = "CLUSTER")]
    to_cluster: Option<String>,
    /// Switch no earlier than this, as 2026-11-30T02:00:00+07:00
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<OffsetDateTime>,
    /// Switch when no request has been under way for some seconds
    #[arg(long)]
    when_quiet: bool,
    /// Copy as fast as it goes: other sites of both clusters notice
    #[arg(long)]
    fast: bool,
    #[command(flatten)]
    asking: Asking,
}

/// Which site.
#[derive(Args)]
pub struct BackArgs {
    #[command(flatten)]
    site: SiteArgs,
    #[command(flatten)]
    asking: Asking,
}

/// Which site.
#[derive(Args)]
pub struct SettleArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Do not ask: there is no way back afterwards
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    asking: Asking,
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "a time is written as 2026-11-30T02:00:00+07:00".to_owned())
}

/// Moves it.
pub async fn run(args: MoveArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let wanted = MoveSite {
        region: args.to,
        cluster: args.to_cluster,
        not_before: args.at,
        when_quiet: args.when_quiet,
        fast: args.fast,
        reason: args.asking.reason.clone(),
        dry_run: false,
    };
    let name = args.site.site.0;
    if args.asking.dry_run {
        let plan = connection.client.plan_move_site(&name, &wanted).await;
        return plan_or_failure(plan, &name, connection, output).await;
    }
    let send = async |client: &Client, key: &str| client.move_site(&name, &wanted, key).await;
    let accepted = ask("Moving", &name, &args.asking, send, connection, output).await?;
    done(accepted, connection, output).await
}

/// Moves it back.
pub async fn back(args: BackArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let change = ChangeMove { reason: args.asking.reason.clone(), dry_run: false };
    let name = args.site.site.0;
    if args.asking.dry_run {
        let plan = connection.client.plan_move_site_back(&name).await;
        return plan_or_failure(plan, &name, connection, output).await;
    }
    let send = async |client: &Client, key: &str| client.move_site_back(&name, &change, key).await;
    let accepted = ask("Moving back", &name, &args.asking, send, connection, output).await?;
    done(accepted, connection, output).await
}

/// Removes what was left.
pub async fn settle(
    args: SettleArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let change = ChangeMove { reason: args.asking.reason.clone(), dry_run: false };
    let name = args.site.site.0;
    if args.asking.dry_run {
        let plan = connection.client.plan_settle_site(&name).await;
        return plan_or_failure(plan, &name, connection, output).await;
    }
    if !args.yes {
        let hint = format!(
            "the site can be moved back until then; say --yes to `ta3lem site settle {name}` if \
             nobody will want that"
        );
        let what = format!("what {name} left at its old place would be removed for good");
        return Err(Failure::new(Code::Usage, what).hint(hint));
    }
    let send = async |client: &Client, key: &str| client.settle_site(&name, &change, key).await;
    let accepted = ask("Settling", &name, &args.asking, send, connection, output).await?;
    done(accepted, connection, output).await
}

/// Shows what was proven.
pub async fn records(
    args: SiteArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let name = args.site.0;
    let records = match connection.answer(connection.client.site_records(&name).await) {
        Ok(records) => records,
        Err(failure) => return Err(with_hint(failure, &name, connection).await),
    };
    if output.json {
        return output.document(&records);
    }
    let rows: Vec<_> = records
        .iter()
        .map(|record: &SiteRecord| {
            vec![
                when::absolute(record.created_at).into(),
                progress::words(record.kind.as_str()).into(),
                record.operation.to_string().into(),
                record.document.as_str().into(),
            ]
        })
        .collect();
    output.table(&["when", "record", "operation", "document"], &rows, "There are no records.")
}

async fn plan_or_failure(
    plan: Result<DryRun, ClientError>,
    name: &str,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let plan = match connection.answer(plan) {
        Ok(plan) => plan,
        Err(failure) => return Err(with_hint(failure, name, connection).await),
    };
    print_plan(&plan, output)?;
    if !output.json {
        for wait in &plan.waits {
            let told = format!("would wait: {wait}");
            output.complain(&output.paint_err(&told, Tone::Busy).to_string());
        }
        for problem in &plan.problems {
            output.complain(&output.paint_err(problem, Tone::Bad).to_string());
        }
    }
    if plan.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Code::Failed, format!("{name} cannot be moved now")))
}

/// Asks for it and follows it to its end, unless that is not wanted.
async fn ask(
    doing: &str,
    name: &str,
    asking: &Asking,
    send: impl AsyncFn(&Client, &str) -> Result<Accepted, ClientError>,
    connection: &Connection,
    output: &Output,
) -> Result<Accepted, Failure> {
    let key = asking.idempotency_key.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let sent = connection.change(Again::SameKey, async |client: &Client| send(client, &key).await);
    let mut accepted = match sent.await {
        Ok(accepted) => accepted,
        Err(failure) => return Err(with_hint(failure.repeatable(&key), name, connection).await),
    };
    let id = accepted.operation.id;
    if asking.no_wait {
        output.say(&format!("Watch: ta3lem operation watch {id}"));
        return Ok(accepted);
    }
    output.say(&format!("{doing} {} (operation {id})", accepted.site.slug));
    accepted.operation =
        progress::follow(connection, output, &accepted.operation, Until::End).await?;
    if let Ok(site) = connection.client.site(&accepted.site.id.to_string()).await {
        accepted.site = site;
    }
    Ok(accepted)
}

async fn done(accepted: Accepted, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let Accepted { operation, site, .. } = &accepted;
    if output.json {
        output.document(&accepted)?;
        return progress::verdict(operation);
    }
    progress::verdict(operation)?;
    if !operation.state.is_final() {
        return output.print(&format!("{} is at work", progress::subject(operation)));
    }
    let news = connection.client.operation_news(operation.id, 0, std::time::Duration::ZERO).await;
    let held = news.ok().and_then(|news| {
        let notes = news.events.into_iter().filter(|event| event.step == "switch");
        notes.filter_map(|event| progress::remark(&event)).next_back()
    });
    let place = site.placement.as_ref();
    let place =
        place.map_or_else(|| "nowhere".to_owned(), |p| format!("{} on {}", p.region, p.cluster));
    let held = held.map_or_else(String::new, |held| format!("; {held}"));
    output.print(&format!("{} is in {place}{held}", site.slug))?;
    if let Some(back) = &site.way_back {
        let until = when::both(back.until, OffsetDateTime::now_utc());
        output.say(&format!(
            "It can return to {} until {until}: ta3lem site move-back {}",
            back.region, site.slug
        ));
    }
    Ok(())
}
