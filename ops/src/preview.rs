//! `ta3lem preview`.

use clap::{Args, Subcommand};
use control_types::state::SiteState;
use provisioner_api::{
    client::Client,
    previews::{Change, Preview},
    sites::{ChangeMove, DeleteSite},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    asking::{Asking, ask, plan_or_failure},
    cli::{SiteName, site_name, words},
    connection::{Again, Connection},
    failure::{Code, Failure},
    output::{Cell, Output, Tone},
    progress::{self, Until},
    site::relocate,
    when,
};

/// What can be done with previews.
#[derive(Subcommand)]
pub enum PreviewCommand {
    /// List the previews that are there, with their links
    List(ListArgs),
    /// Show what differs between a preview and its site as it is now
    Compare(CompareArgs),
    /// Make the site what its preview shows; what was written since is kept, to undo it
    Promote(PromoteArgs),
    /// Remove a preview before its time
    Remove(RemoveArgs),
}

/// Whose previews.
#[derive(Args)]
pub struct ListArgs {
    /// Only those of this site, by slug or id
    #[arg(value_name = "SITE", value_parser = site_name)]
    site: Option<SiteName>,
}

/// Which preview.
#[derive(Args)]
pub struct CompareArgs {
    /// Its name, as `ta3lem preview list` shows it
    #[arg(value_name = "PREVIEW", value_parser = site_name)]
    preview: SiteName,
    /// How many differences of each kind are named
    #[arg(long, value_name = "N", default_value_t = 20)]
    list: u32,
}

/// Which preview, and how.
#[derive(Args)]
#[command(after_help = "\
Requests wait for a moment, and none fails. What was written since that moment is not in the site any
more: it is kept, and `ta3lem site undo-restore` makes it the site again. See what that is before:
`ta3lem preview compare`. Access that was taken away since then stays taken away.
")]
pub struct PromoteArgs {
    /// Its name, as `ta3lem preview list` shows it
    #[arg(value_name = "PREVIEW", value_parser = site_name)]
    preview: SiteName,
    /// Do not ask: the site goes back to that moment
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    asking: Asking,
}

/// Which preview.
#[derive(Args)]
pub struct RemoveArgs {
    /// Its name, as `ta3lem preview list` shows it
    #[arg(value_name = "PREVIEW", value_parser = site_name)]
    preview: SiteName,
    /// Why: it is kept in the audit trail
    #[arg(long, value_name = "TEXT", value_parser = words)]
    reason: Option<String>,
}

/// Does it.
pub async fn run(
    command: PreviewCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        PreviewCommand::List(args) => list(args, connection, output).await,
        PreviewCommand::Compare(args) => compare(args, connection, output).await,
        PreviewCommand::Promote(args) => promote(args, connection, output).await,
        PreviewCommand::Remove(args) => remove(args, connection, output).await,
    }
}

async fn list(args: ListArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let previews = match &args.site {
        Some(site) => connection.client.site_previews(&site.0).await,
        None => connection.client.previews().await,
    };
    let previews = connection.answer(previews)?;
    if output.json {
        return output.document(&previews);
    }
    let now = OffsetDateTime::now_utc();
    let rows: Vec<_> = previews.iter().map(|preview| row(preview, now)).collect();
    let header = ["preview", "of", "as it was", "state", "goes", "made by", "link"];
    output.table(&header, &rows, "There are no previews.")
}

fn row(preview: &Preview, now: OffsetDateTime) -> Vec<Cell> {
    let tone = match preview.state {
        SiteState::Active => Tone::Good,
        _ => Tone::Busy,
    };
    vec![
        preview.slug.as_str().into(),
        preview.of_slug.as_str().into(),
        when::both(preview.moment, now).into(),
        Cell::toned(preview.state.as_str(), tone),
        when::relative(preview.expires_at, now).into(),
        preview.created_by.as_str().into(),
        preview.link.as_str().into(),
    ]
}

async fn compare(
    args: CompareArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let compared = connection.client.compare_preview(&args.preview.0, args.list).await;
    let compared = connection.answer(compared).map_err(with_hint)?;
    if output.json {
        return output.document(&compared);
    }
    output.print(&format!(
        "{} as it was at {}, beside how it is now",
        compared.of_slug,
        when::moment::both_zones(compared.moment)
    ))?;
    let count = |number: u64, tone| match number {
        0 => Cell::toned("0", Tone::Faint),
        number => Cell::toned(number.to_string(), tone),
    };
    let rows: Vec<_> = compared
        .nouns
        .iter()
        .map(|noun| {
            vec![
                noun.noun.as_str().into(),
                noun.then.to_string().into(),
                noun.now.to_string().into(),
                count(noun.lost, Tone::Bad),
                count(noun.changed, Tone::Busy),
                count(noun.added, Tone::Good),
            ]
        })
        .collect();
    output.table(&["", "then", "now", "lost", "changed", "added since"], &rows, "Nothing.")?;
    let named =
        compared.nouns.iter().flat_map(|noun| noun.items.iter().map(move |item| (noun, item)));
    let rows: Vec<_> = named
        .map(|(noun, item)| {
            let (change, tone) = match item.change {
                Change::Lost => ("lost", Tone::Bad),
                Change::Changed => ("changed", Tone::Busy),
                Change::Added => ("added since", Tone::Good),
            };
            vec![
                noun.noun.as_str().into(),
                Cell::toned(change, tone),
                item.name.as_str().into(),
                item.id.as_str().into(),
            ]
        })
        .collect();
    output.print("")?;
    output.table(&["", "change", "name", "id"], &rows, "Nothing differs.")
}

async fn promote(
    args: PromoteArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let name = args.preview.0;
    if args.asking.dry_run {
        let plan = connection.client.plan_promote_preview(&name).await;
        return plan_or_failure(plan, &name, connection, output).await;
    }
    if !args.yes {
        let what = format!("the site of {name} would go back to the moment that it shows");
        let hint = format!(
            "`ta3lem preview compare {name}` shows what that changes; say --yes if that is wanted"
        );
        return Err(Failure::new(Code::Usage, what).hint(hint));
    }
    let change = ChangeMove { reason: args.asking.reason.clone(), dry_run: false };
    let send = async |client: &Client, key: &str| client.promote_preview(&name, &change, key).await;
    let accepted = ask("Putting back", &name, &args.asking, send, connection, output).await;
    relocate::done(accepted.map_err(with_hint)?, connection, output).await
}

fn with_hint(failure: Failure) -> Failure {
    match failure.code {
        Code::NotFound => failure.hint("`ta3lem preview list` shows the previews"),
        _ => failure,
    }
}

async fn remove(args: RemoveArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let name = args.preview.0;
    let site = connection.answer(connection.client.site(&name).await).map_err(with_hint)?;
    // A site is not deleted by a slip.
    if site.preview_of.is_none() {
        return Err(Failure::new(Code::Usage, format!("{name} is a site and no preview"))
            .hint("`ta3lem preview list` shows the previews"));
    }
    let delete = DeleteSite { grace_period_secs: Some(0), reason: args.reason, dry_run: false };
    let key = Uuid::new_v4().to_string();
    let send = async |client: &Client| client.delete_site(&name, &delete, &key).await;
    let accepted = connection.change(Again::SameKey, send).await?;
    let operation = progress::follow(connection, output, &accepted.operation, Until::End).await?;
    if output.json {
        output.document(&operation)?;
        return progress::verdict(&operation);
    }
    progress::verdict(&operation)?;
    output.print(&format!("{name} is gone"))
}
