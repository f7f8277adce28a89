//! `ta3lem site`.

mod create;
mod delete;
mod hold;
mod regions;
pub mod relocate;
mod restore;

use clap::{Args, Subcommand};
use control_types::state::{DomainState, InstanceObserved, SiteState};
use provisioner_api::{
    Site,
    backups::RestoreProof,
    sites::{ChangeSite, DryRun},
};
use time::OffsetDateTime;

use crate::{
    cli::{SiteName, site_name, words},
    connection::{Again, Connection},
    failure::{Code, Failure},
    output::{Cell, Output, Tone},
    progress, when,
};

/// What can be done with sites.
#[derive(Subcommand)]
pub enum SiteCommand {
    /// Create a site and wait until it serves
    Create(create::CreateArgs),
    /// List the sites
    List,
    /// Show one site
    Show(SiteArgs),
    /// Close a site to its people; everything is kept
    Suspend(SuspendArgs),
    /// Open a suspended site again
    Resume(ResumeArgs),
    /// Let a site's requests wait for a moment at all routers; nobody sees an error
    Hold(hold::HoldArgs),
    /// Let the requests of a held site go on
    Release(hold::ReleaseArgs),
    /// Show or change the regions where a site's data may be
    Regions(regions::RegionsArgs),
    /// Move a site to another region or cluster while people use it
    Move(relocate::MoveArgs),
    /// Return a site to where it was before its last move, with all that was written since
    MoveBack(relocate::BackArgs),
    /// Make a site that was put back to an earlier moment what it was before that
    UndoRestore(relocate::BackArgs),
    /// Remove what a moved site left at its old place; it cannot be moved back afterwards
    Settle(relocate::SettleArgs),
    /// Show what was proven of a site's moves and removals, as signed
    Records(SiteArgs),
    /// Show a site as it was at any moment, beside the site; nothing is changed
    Restore(restore::RestoreArgs),
    /// Delete a site after a grace period
    Delete(delete::DeleteArgs),
    /// Bring a site back that is being deleted, within its grace period
    Undelete(SiteArgs),
}

/// Which site.
#[derive(Args)]
pub struct SiteArgs {
    /// The site's slug or id
    #[arg(value_name = "SLUG", value_parser = site_name)]
    site: SiteName,
}

/// Which site, and why.
#[derive(Args)]
pub struct SuspendArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Why: it is kept in the audit trail and shown to operators
    #[arg(long, value_name = "TEXT", value_parser = words)]
    reason: String,
}

/// Which site, and perhaps why.
#[derive(Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Why: it is kept in the audit trail
    #[arg(long, value_name = "TEXT", value_parser = words)]
    reason: Option<String>,
}

/// Does it.
pub async fn run(
    command: SiteCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        SiteCommand::Create(args) => create::run(args, connection, output).await,
        SiteCommand::List => list(connection, output).await,
        SiteCommand::Show(args) => show(&args.site.0, connection, output).await,
        SiteCommand::Suspend(args) => suspend(args, connection, output).await,
        SiteCommand::Resume(args) => resume(args, connection, output).await,
        SiteCommand::Hold(args) => hold::hold(args, connection, output).await,
        SiteCommand::Release(args) => hold::release(args, connection, output).await,
        SiteCommand::Regions(args) => regions::run(args, connection, output).await,
        SiteCommand::Move(args) => relocate::run(args, connection, output).await,
        SiteCommand::MoveBack(args) => relocate::back(args, connection, output).await,
        SiteCommand::UndoRestore(args) => relocate::undo_restore(args, connection, output).await,
        SiteCommand::Settle(args) => relocate::settle(args, connection, output).await,
        SiteCommand::Records(args) => relocate::records(args, connection, output).await,
        SiteCommand::Restore(args) => restore::run(args, connection, output).await,
        SiteCommand::Delete(args) => delete::run(args, connection, output).await,
        SiteCommand::Undelete(args) => delete::undo(args, connection, output).await,
    }
}

async fn list(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let sites = connection.answer(connection.client.sites().await)?;
    if output.json {
        return output.document(&sites);
    }
    let now = OffsetDateTime::now_utc();
    let rows: Vec<_> = sites
        .iter()
        .map(|site| {
            vec![
                site.slug.as_str().into(),
                state(site),
                Cell::or_dash(site.placement.as_ref().map(|placement| placement.region.as_str())),
                site.plan.as_str().into(),
                instance(site),
                when::relative(site.created_at, now).into(),
                Cell::or_dash(url(site)),
                site.name.as_str().into(),
            ]
        })
        .collect();
    let header = ["site", "state", "region", "plan", "instance", "created", "url", "name"];
    let empty = "There are no sites. `ta3lem site create --help` says how to make one.";
    output.table(&header, &rows, empty)
}

async fn show(name: &str, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let site = get(name, connection).await?;
    if output.json {
        return output.document(&site);
    }
    let now = OffsetDateTime::now_utc();
    let mut fields = vec![
        ("Site", Cell::from(site.slug.as_str())),
        ("Name", site.name.as_str().into()),
        ("State", state(&site)),
    ];
    if let Some(reason) = &site.suspended_reason {
        fields.push(("Suspended", reason.as_str().into()));
    }
    if let Some(at) = site.delete_after {
        let at = when::both(at, now);
        fields.push(("Data dropped", Cell::toned(at, Tone::Bad)));
    }
    if let Some(operation) = site.live_operation {
        fields.push(("In progress", format!("operation {operation}").into()));
    }
    fields.extend([
        ("Plan", Cell::from(site.plan.as_str())),
        ("Language", site.default_language.as_str().into()),
        ("Data may be in", site.allowed_regions.join(", ").into()),
    ]);
    fields.extend(places(&site, now));
    if let Some(running) = &site.instance {
        let process = running.process_id.map_or_else(String::new, |id| format!(", process {id}"));
        let starts = format!("started {} times{process}", running.starts);
        fields.extend([("Instance", instance(&site)), ("", starts.into())]);
        if let Some(error) = &running.last_error {
            fields.push(("", Cell::toned(error.as_str(), Tone::Bad)));
        }
    }
    fields.push(("Created", when::both(site.created_at, now).into()));
    fields.push(("Id", site.id.to_string().into()));
    output.fields(fields)?;
    output.print("")?;
    let domains: Vec<_> = site
        .domains
        .iter()
        .map(|domain| {
            let primary = match (domain.state, domain.is_primary) {
                (DomainState::Active, true) => "primary",
                (DomainState::Active, false) => "redirects",
                _ => "",
            };
            vec![
                domain.url.as_str().into(),
                domain.kind.as_str().into(),
                domain.state.as_str().into(),
                primary.into(),
            ]
        })
        .collect();
    output.table(&["url", "kind", "state", ""], &domains, "It has no hostnames.")
}

/// Where it is, and where it can return to.
fn places(site: &Site, now: OffsetDateTime) -> Vec<(&'static str, Cell)> {
    let mut fields = Vec::new();
    if let Some(of) = site.preview_of {
        fields.push(("Preview of", of.to_string().into()));
    }
    if let Some(placement) = &site.placement {
        fields.extend([
            ("Region", Cell::from(placement.region.as_str())),
            ("Database", format!("{} on {}", placement.database, placement.cluster).into()),
            ("Files", format!("{} on {}", placement.prefix, placement.object_store).into()),
            ("Generation", placement.generation.to_string().into()),
        ]);
    }
    if let Some(window) = &site.restorable {
        let from = when::both(window.from, now);
        let until = when::relative(window.until, now);
        fields.push(("Restorable", format!("any moment since {from}, until {until}").into()));
        fields.push(("At risk", format!("writes of the last {} s", window.at_risk_secs).into()));
        fields.push(("Proved", proved(window.proof.as_ref(), now)));
    }
    if let Some(until) = site.undo_restore_until {
        let until = when::both(until, now);
        let undo = format!("what it was before it was put back is kept until {until}");
        fields.push(("Undo", undo.into()));
    }
    if let Some(back) = &site.way_back {
        let until = when::both(back.until, now);
        let place = format!("to {} on {} until {until}", back.region, back.cluster);
        fields.push(("Way back", place.into()));
    }
    fields
}

/// Whether it was tried to put the site back.
fn proved(proof: Option<&RestoreProof>, now: OffsetDateTime) -> Cell {
    let Some(proof) = proof else { return Cell::toned("not tried yet", Tone::Faint) };
    let tried = when::relative(proof.tried_at, now);
    match (&proof.problem, proof.took_ms) {
        (Some(problem), _) => Cell::toned(format!("failed {tried}: {problem}"), Tone::Bad),
        (None, took) => {
            let took = when::took(std::time::Duration::from_millis(took.unwrap_or_default()));
            Cell::toned(format!("put back and looked at {tried}, in {took}"), Tone::Good)
        }
    }
}

async fn suspend(
    args: SuspendArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let name = args.site.site.0;
    let change = ChangeSite { reason: Some(args.reason) };
    let send =
        async |client: &provisioner_api::client::Client| client.suspend_site(&name, &change).await;
    let site = match connection.change(Again::NotSent, send).await {
        Ok(site) => site,
        Err(failure) => return Err(with_hint(failure, &name, connection).await),
    };
    if output.json {
        return output.document(&site);
    }
    output.print(&format!("{} is closed to its people. Everything is kept.", site.slug))?;
    output.say(&format!("Open it again: ta3lem site resume {}", site.slug));
    Ok(())
}

async fn resume(args: ResumeArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let name = args.site.site.0;
    let change = ChangeSite { reason: args.reason };
    let send =
        async |client: &provisioner_api::client::Client| client.resume_site(&name, &change).await;
    let site = match connection.change(Again::NotSent, send).await {
        Ok(site) => site,
        Err(failure) => return Err(with_hint(failure, &name, connection).await),
    };
    if output.json {
        return output.document(&site);
    }
    let at = url(&site).map_or_else(String::new, |url| format!(": {url}"));
    output.print(&format!("{} is open{at}", site.slug))
}

/// The site of this name.
async fn get(name: &str, connection: &Connection) -> Result<Site, Failure> {
    match connection.answer(connection.client.site(name).await) {
        Ok(site) => Ok(site),
        Err(failure) => Err(with_hint(failure, name, connection).await),
    }
}

/// Adds what the user can do, where the provisioner knows it.
pub async fn with_hint(failure: Failure, name: &str, connection: &Connection) -> Failure {
    if failure.hint.is_some() {
        return failure;
    }
    match failure.code {
        Code::NotFound => failure.hint("`ta3lem site list` shows the sites"),
        Code::Conflict => {
            match connection.client.site(name).await.map(|site| site.live_operation) {
                Ok(Some(id)) => {
                    failure.hint(format!("operation {id} is on it: `ta3lem operation watch {id}`"))
                }
                _ => failure.hint(format!("`ta3lem site show {name}` shows its state")),
            }
        }
        _ => failure,
    }
}

/// What a dry run found.
pub fn print_plan(plan: &DryRun, output: &Output) -> Result<(), Failure> {
    if output.json {
        return output.document(plan);
    }
    let rows: Vec<_> = plan
        .steps
        .iter()
        .map(|step| {
            let pivot = plan.pivot.as_ref() == Some(&step.step);
            let note = if pivot { Cell::toned("no way back", Tone::Busy) } else { "".into() };
            vec![progress::words(&step.step).into(), step.description.as_str().into(), note]
        })
        .collect();
    output.table(&["step", "what it would do", ""], &rows, "There is nothing to do.")?;
    let long = plan.estimated_ms.map(std::time::Duration::from_millis).map(when::took);
    let long = long.map(|long| format!("It would take about {long}. ")).unwrap_or_default();
    let moved = plan.bytes.map(|bytes| when::bytes(i64::try_from(bytes).unwrap_or(i64::MAX)));
    let moved = moved.map(|bytes| format!("{bytes} would be moved. ")).unwrap_or_default();
    let pause = plan.pause_ms.map(|ms| format!("Requests would wait for about {ms} ms. "));
    output.print(&format!("\n{moved}{long}{}Nothing was changed.", pause.unwrap_or_default()))
}

/// Where a site opens.
fn url(site: &Site) -> Option<&str> {
    let primary = site.domains.iter().find(|domain| domain.is_primary);
    primary.or(site.domains.first()).map(|domain| domain.url.as_str())
}

/// A site's state in words and colour.
fn state(site: &Site) -> Cell {
    let tone = match site.state {
        SiteState::Active => Tone::Good,
        SiteState::Creating | SiteState::Suspended => Tone::Busy,
        SiteState::Deleting => Tone::Bad,
        SiteState::Deleted => Tone::Faint,
    };
    Cell::toned(site.state.as_str(), tone)
}

/// What its instance does, in words and colour.
fn instance(site: &Site) -> Cell {
    let Some(instance) = &site.instance else { return Cell::or_dash(None::<String>) };
    let tone = match instance.observed {
        InstanceObserved::Running => Tone::Good,
        InstanceObserved::Failing => Tone::Bad,
        _ => Tone::Plain,
    };
    Cell::toned(instance.observed.as_str(), tone)
}
