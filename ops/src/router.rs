//! `ta3lem router`: what the routers are doing.

use std::time::Duration;

use clap::{Args, Subcommand};
use provisioner_api::routers::{RouterProcess, RouterStatus, SiteTraffic};
use serde::Serialize;

use crate::{
    connection::Connection,
    failure::{Code, Failure},
    output::{Cell, Output, Tone},
};

/// Clears the screen and begins at its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What can be done with routers.
#[derive(Subcommand)]
pub enum RouterCommand {
    /// List the routers and how they are
    List,
    /// Show what the routers are doing, and their busiest sites, again and again
    ///
    /// With --json, a line for each look.
    Top(TopArgs),
}

/// What to show.
#[derive(Args)]
pub struct TopArgs {
    /// Only this router
    #[arg(value_name = "ROUTER")]
    router: Option<String>,
    /// Look once
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// A router, and how it is if it tells.
#[derive(Serialize)]
struct Seen {
    name: String,
    region: String,
    https_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<RouterStatus>,
}

/// Does it.
pub async fn run(
    command: &RouterCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        RouterCommand::List => list(connection, output).await,
        RouterCommand::Top(args) => top(args, connection, output).await,
    }
}

async fn look(only: Option<&str>, connection: &Connection) -> Result<Vec<Seen>, Failure> {
    let mut routers = connection.answer(connection.client.routers().await)?;
    if let Some(only) = only {
        routers.retain(|router| router.name == only);
        if routers.is_empty() {
            return Err(Failure::new(Code::NotFound, format!("there is no router '{only}'"))
                .hint("`ta3lem router list` shows the routers"));
        }
    }
    let mut seen = Vec::new();
    for router in routers {
        let (status, problem) = match connection.client.router_status(&router.name).await {
            Ok(status) => (Some(status), None),
            Err(error) => match error.problem() {
                Some(problem) if problem.status == 503 => (None, Some(problem.detail.clone())),
                _ => return Err(connection.explain(error)),
            },
        };
        let (name, region, https_address) = (router.name, router.region, router.https_address);
        seen.push(Seen { name, region, https_address, problem, status });
    }
    Ok(seen)
}

async fn list(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let routers = look(None, connection).await?;
    if output.json {
        return output.document(&routers);
    }
    print_routers(&routers, output)
}

async fn top(args: &TopArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    loop {
        let routers = look(args.router.as_deref(), connection).await?;
        if output.json {
            output.line(&routers)?;
        } else {
            if output.live && !args.once {
                output.print(CLEAR)?;
            }
            print_routers(&routers, output)?;
            for router in &routers {
                if let Some(status) = &router.status {
                    output.print("")?;
                    print_sites(&router.name, &status.top_sites, output)?;
                }
            }
        }
        if args.once {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(args.interval)).await;
    }
}

fn print_routers(routers: &[Seen], output: &Output) -> Result<(), Failure> {
    let rows: Vec<_> = routers
        .iter()
        .map(|router| {
            let number = |number: Option<u64>| Cell::or_dash(number.map(|n| n.to_string()));
            let status = router.status.as_ref();
            vec![
                router.name.as_str().into(),
                router.region.as_str().into(),
                state(router),
                Cell::or_dash(status.map(|status| span(status.uptime_secs))),
                number(status.map(|status| status.table.sites)),
                Cell::or_dash(status.map(|status| age(status.table.age_secs))),
                number(status.map(|status| status.connections)),
                number(status.map(|status| status.requests_last_minute)),
                number(status.map(|status| status.requests_in_flight)),
                number(status.map(|status| status.held)),
                number(status.map(|status| status.tunnels)),
            ]
        })
        .collect();
    let header = [
        "router",
        "region",
        "state",
        "up",
        "sites",
        "table age",
        "connections",
        "requests/min",
        "in flight",
        "waiting",
        "websockets",
    ];
    output.table(&header, &rows, "There are no routers.")
}

fn print_sites(router: &str, sites: &[SiteTraffic], output: &Output) -> Result<(), Failure> {
    let rows: Vec<_> = sites
        .iter()
        .map(|site| {
            let state = if site.failing {
                Cell::toned("its instance cannot be reached", Tone::Bad)
            } else if site.is_held {
                Cell::toned("on hold", Tone::Busy)
            } else {
                Cell::toned("open", Tone::Good)
            };
            vec![
                site.slug.as_str().into(),
                site.requests_last_minute.to_string().into(),
                site.requests_in_flight.to_string().into(),
                site.held.to_string().into(),
                site.tunnels.to_string().into(),
                state,
            ]
        })
        .collect();
    let header = [router, "requests/min", "in flight", "waiting", "websockets", "state"];
    output.table(&header, &rows, &format!("No site has requests at {router}."))
}

fn state(router: &Seen) -> Cell {
    match &router.status {
        None => Cell::toned(router.problem.as_deref().unwrap_or("does not answer"), Tone::Bad),
        Some(status) if status.stopping => Cell::toned("stopping", Tone::Busy),
        Some(status) => {
            let others = &status.other_processes;
            let silent = others.iter().find_map(|process| process.problem.as_ref());
            match status.table.problem.as_ref().or(silent) {
                Some(problem) => Cell::toned(problem.as_str(), Tone::Bad),
                None if others.is_empty() => Cell::toned("fine", Tone::Good),
                None => Cell::toned(changing(others), Tone::Busy),
            }
        }
    }
}

/// What processes do beside the one that tells.
fn changing(others: &[RouterProcess]) -> String {
    let stopping: Vec<_> = others.iter().filter(|process| process.stopping).collect();
    if stopping.is_empty() {
        return "another process starts".to_owned();
    }
    let left = stopping.iter().map(|process| process.requests_in_flight + process.tunnels).sum();
    match (left, stopping.len()) {
        (0_u64, _) => "the one before ends".to_owned(),
        (left, 1) => format!("the one before finishes {left}"),
        (left, before) => format!("{before} before finish {left}"),
    }
}

fn age(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "never read".to_owned(), |seconds| format!("{seconds:.1} s"))
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
