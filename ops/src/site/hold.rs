//! `ta3lem site hold` and `release`: a pause that nobody sees as an error.

use clap::Args;
use provisioner_api::{
    routers::{HoldSite, RouterHold, SiteHold},
    sites::ChangeSite,
};

use super::{SiteArgs, with_hint};
use crate::{
    cli::words,
    connection::{Again, Connection},
    failure::{Code, Failure},
    output::{Cell, Output, Tone},
};

/// Which site, for how long, and why.
#[derive(Args)]
pub struct HoldArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Requests go on after so many seconds in any case
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=30))]
    seconds: u32,
    /// Why: it is kept in the audit trail
    #[arg(long, value_name = "TEXT", value_parser = words)]
    reason: Option<String>,
}

/// Which site, and why.
#[derive(Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Why: it is kept in the audit trail
    #[arg(long, value_name = "TEXT", value_parser = words)]
    reason: Option<String>,
}

/// Holds the site.
pub async fn hold(args: HoldArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let name = args.site.site.0;
    let hold = HoldSite { seconds: args.seconds, reason: args.reason };
    let send =
        async |client: &provisioner_api::client::Client| client.hold_site(&name, &hold).await;
    let held = match connection.change(Again::NotSent, send).await {
        Ok(held) => held,
        Err(failure) => return Err(with_hint(failure, &name, connection).await),
    };
    let seen = |router: &RouterHold| held.id.is_some_and(|id| router.is_held(id));
    if output.json {
        output.document(&held)?;
    } else {
        let text = format!("Requests of {} wait, for {} seconds at most.", held.site, args.seconds);
        output.print(&text)?;
        print(&held, seen, output)?;
        output.say(&format!("Let them go on: ta3lem site release {}", held.site));
    }
    all(&held, seen, "did not hear of the hold: requests that they take do not wait")
}

/// Lets its requests go on.
pub async fn release(
    args: ReleaseArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let name = args.site.site.0;
    let change = ChangeSite { reason: args.reason };
    let send =
        async |client: &provisioner_api::client::Client| client.release_site(&name, &change).await;
    let released = match connection.change(Again::NotSent, send).await {
        Ok(released) => released,
        Err(failure) => return Err(with_hint(failure, &name, connection).await),
    };
    let seen = |router: &RouterHold| router.problem.is_none() && router.hold.is_none();
    if output.json {
        output.document(&released)?;
    } else {
        output.print(&format!("Requests of {} go on.", released.site))?;
        print(&released, seen, output)?;
    }
    all(&released, seen, "did not hear of it: requests wait there until the hold's deadline")
}

fn print(
    hold: &SiteHold,
    seen: impl Fn(&RouterHold) -> bool,
    output: &Output,
) -> Result<(), Failure> {
    let rows: Vec<_> = hold
        .routers
        .iter()
        .map(|router| {
            let state = match &router.problem {
                Some(problem) => Cell::toned(problem.as_str(), Tone::Bad),
                None if router.hold.is_some() && seen(router) => Cell::toned("holds", Tone::Busy),
                None if seen(router) => Cell::toned("open", Tone::Good),
                None => Cell::toned("has not heard of it", Tone::Bad),
            };
            let number = |number: u64| Cell::from(number.to_string());
            vec![
                router.router.as_str().into(),
                router.region.as_str().into(),
                state,
                number(router.requests_in_flight),
                number(router.held),
                number(router.tunnels),
            ]
        })
        .collect();
    let header = ["router", "region", "state", "in flight", "waiting", "websockets"];
    output.table(&header, &rows, "There are no routers.")
}

/// Fails when a router has not heard.
fn all(hold: &SiteHold, seen: impl Fn(&RouterHold) -> bool, what: &str) -> Result<(), Failure> {
    let behind: Vec<_> =
        hold.routers.iter().filter(|router| !seen(router)).map(|router| &*router.router).collect();
    if behind.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Code::Unreachable, format!("{} {what}", behind.join(", "))))
}
