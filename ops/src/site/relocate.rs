//! `ta3lem site move`, `move-back`, `settle` and `records`.

use clap::Args;
use provisioner_api::{
    client::Client,
    sites::{Accepted, ChangeMove, MoveSite, SiteRecord},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{SiteArgs, with_hint};
use crate::{
    asking::{Asking, ask, plan_or_failure},
    connection::Connection,
    failure::{Code, Failure},
    output::Output,
    progress, when,
};

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

/// Makes it again what it was before it was put back.
pub async fn undo_restore(
    args: BackArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let change = ChangeMove { reason: args.asking.reason.clone(), dry_run: false };
    let name = args.site.site.0;
    if args.asking.dry_run {
        let plan = connection.client.plan_undo_restore(&name).await;
        return plan_or_failure(plan, &name, connection, output).await;
    }
    let send = async |client: &Client, key: &str| client.undo_restore(&name, &change, key).await;
    let doing = "Undoing the restore of";
    let accepted = ask(doing, &name, &args.asking, send, connection, output).await?;
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

/// What came of it.
pub async fn done(
    accepted: Accepted,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
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
    if let Some(until) = site.undo_restore_until {
        let until = when::both(until, OffsetDateTime::now_utc());
        output.say(&format!(
            "What it was before is kept until {until}: ta3lem site undo-restore {}",
            site.slug
        ));
    }
    if let Some(back) = &site.way_back {
        let until = when::both(back.until, OffsetDateTime::now_utc());
        output.say(&format!(
            "It can return to {} until {until}: ta3lem site move-back {}",
            back.region, site.slug
        ));
    }
    Ok(())
}
