//! `ta3lem domain`.

mod shown;
mod wait;

use std::io::{self, IsTerminal};

use clap::{Args, Subcommand};
use control_types::{
    Hostname,
    state::{DomainKind, DomainState},
};
use provisioner_api::{
    client::Client,
    domains::{AddDomain, ChangeDomain, DomainDetail},
};

use crate::{
    cli::{SiteName, domain, site_name, words},
    connection::{Again, Connection},
    failure::{Code, Failure},
    output::{Output, Tone},
};

/// What can be done with domains.
#[derive(Subcommand)]
pub enum DomainCommand {
    /// Claim a hostname for a site, and show which DNS records it needs
    Add(AddArgs),
    /// Look into the DNS now, and at the certificate: what is wrong, and what to do
    Check(NameArgs),
    /// List the hostnames of a site
    List(SiteArg),
    /// Let the other hostnames of a site redirect to this one
    Primary(ChangeArgs),
    /// Give a hostname up
    Remove(RemoveArgs),
}

/// Which site.
#[derive(Args)]
pub struct SiteArg {
    /// The site's slug or id
    #[arg(value_name = "SITE", value_parser = site_name)]
    site: SiteName,
}

/// Which hostname of which site.
#[derive(Args)]
pub struct NameArgs {
    #[command(flatten)]
    site: SiteArg,
    /// The full hostname, as belajar.example.ac.id
    #[arg(value_name = "HOST", value_parser = domain)]
    host: Hostname,
}

/// What to claim.
#[derive(Args)]
#[command(after_help = "\
Ownership is shown by a TXT record, or by a CNAME record to the site's hostname on the platform; the
command prints both. The domain serves as soon as it has a certificate.

Exit code 1 says that something is left to be done; `ta3lem domain check` tells what.
")]
pub struct AddArgs {
    #[command(flatten)]
    name: NameArgs,
    /// Make it the primary hostname as soon as it serves: the others redirect to it
    #[arg(long)]
    primary: bool,
    /// Vouch that it is the institution's own: no record has to show it (kept in the audit trail)
    #[arg(long)]
    vouched: bool,
    /// Wait until the routers serve it, however long the records take
    #[arg(long)]
    wait: bool,
    /// Why: it is kept in the audit trail
    #[arg(long, value_name = "TEXT", value_parser = words)]
    reason: Option<String>,
}

/// Which hostname, and perhaps why.
#[derive(Args)]
pub struct ChangeArgs {
    #[command(flatten)]
    name: NameArgs,
    /// Why: it is kept in the audit trail
    #[arg(long, value_name = "TEXT", value_parser = words)]
    reason: Option<String>,
}

/// What to give up.
#[derive(Args)]
#[command(after_help = "\
The name stops serving at once and its certificate is deleted. Remove its DNS records too. Until they
are gone nobody else can take the name over with them.
")]
pub struct RemoveArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Does it.
pub async fn run(
    command: DomainCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        DomainCommand::Add(args) => add(args, connection, output).await,
        DomainCommand::Check(args) => check(&args, connection, output).await,
        DomainCommand::List(args) => list(&args.site.0, connection, output).await,
        DomainCommand::Primary(args) => primary(args, connection, output).await,
        DomainCommand::Remove(args) => remove(args, connection, output).await,
    }
}

async fn add(args: AddArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let (site, host) = (args.name.site.site.0, args.name.host);
    let add = AddDomain {
        hostname: host.to_string(),
        primary: args.primary,
        vouched: args.vouched,
        reason: args.reason,
    };
    let send = async |client: &Client| client.add_domain(&site, &add).await;
    let added = connection.change(Again::NotSent, send).await;
    added.map_err(|failure| with_hint(failure, &site, &host))?;
    let mut domain = look(&site, &host, connection).await?;
    if args.wait {
        if !domain.is_well() && output.talks() {
            shown::print(&domain, output)?;
        }
        domain = wait::until_routed(domain, connection, output).await?;
    }
    if output.json {
        output.document(&domain)?;
    } else {
        shown::print(&domain, output)?;
    }
    verdict(&domain, output)
}

async fn check(args: &NameArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let domain = look(&args.site.site.0, &args.host, connection).await?;
    if output.json {
        output.document(&domain)?;
    } else {
        shown::print(&domain, output)?;
    }
    verdict(&domain, output)
}

/// Something to be done is no success. With `--json` the document says it all.
fn verdict(domain: &DomainDetail, output: &Output) -> Result<(), Failure> {
    if domain.is_well() {
        return Ok(());
    }
    let (site, host) = (&domain.site, &domain.hostname);
    let is_unknown = domain.check.as_ref().is_some_and(|check| check.is_unknown());
    let failure = if is_unknown {
        let message = format!("the DNS did not answer all that is to be known of {host}");
        Failure::new(Code::Failed, message)
            .hint("nothing was changed; look at the DNS server of the provisioner, and try again")
    } else if domain.check.as_ref().is_none_or(|check| check.is_well())
        && domain.state != DomainState::Pending
    {
        let message = format!("the certificate of {host} needs somebody: see what is to be done");
        Failure::new(Code::Failed, message)
    } else {
        Failure::new(Code::Failed, format!("{host} is not ready: something is left to be done"))
            .hint(format!("when it is done: ta3lem domain check {site} {host}"))
    };
    if output.json { Err(failure.told()) } else { Err(failure) }
}

async fn list(site: &str, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let domains = match connection.answer(connection.client.domains(site).await) {
        Ok(domains) => domains,
        Err(failure) if failure.code == Code::NotFound => {
            return Err(failure.hint("`ta3lem site list` shows the sites"));
        }
        Err(failure) => return Err(failure),
    };
    if output.json {
        return output.document(&domains);
    }
    shown::table(&domains, output)
}

async fn primary(
    args: ChangeArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let (site, host) = (args.name.site.site.0, args.name.host);
    let change = ChangeDomain { reason: args.reason };
    let send =
        async |client: &Client| client.make_domain_primary(&site, host.as_str(), &change).await;
    let changed = connection.change(Again::NotSent, send).await;
    let domain = changed.map_err(|failure| with_hint(failure, &site, &host))?;
    if output.json {
        return output.document(&domain);
    }
    output.print(&format!("{} is the primary hostname of {}", domain.unicode, domain.site))?;
    output.say(&format!("It opens at {}; the others redirect to it", domain.url));
    Ok(())
}

async fn remove(args: RemoveArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let (site, host) = (args.change.name.site.site.0, args.change.name.host);
    if !args.yes {
        may_ask(&host)?;
        let asked = connection.answer(connection.client.domain(&site, host.as_str()).await);
        let domain = asked.map_err(|failure| with_hint(failure, &site, &host))?;
        confirm(&domain, output)?;
    }
    let change = ChangeDomain { reason: args.change.reason };
    let send = async |client: &Client| client.remove_domain(&site, host.as_str(), &change).await;
    let removed = connection.change(Again::NotSent, send).await;
    let domain = removed.map_err(|failure| with_hint(failure, &site, &host))?;
    if output.json {
        return output.document(&domain);
    }
    output.print(&format!("{} is no longer a hostname of {}", domain.unicode, domain.site))?;
    output.say("Remove its DNS records too: they lead to a page that says so");
    Ok(())
}

/// Without a terminal nobody can answer.
fn may_ask(host: &Hostname) -> Result<(), Failure> {
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        return Ok(());
    }
    Err(Failure::new(Code::Usage, format!("removing {host} needs a confirmation"))
        .hint("there is no terminal to ask on: add --yes"))
}

fn confirm(domain: &DomainDetail, output: &Output) -> Result<(), Failure> {
    let name = output.paint_err(&domain.unicode, Tone::Bad);
    let state = domain.state;
    output.complain(&format!("Remove {name} ({state}) from site {}.", domain.site));
    if domain.is_primary {
        output.complain("It is the primary hostname: the platform's name takes its place.");
    }
    output.complain("It stops serving at once, and its certificate is deleted. Go on? [y/N]");
    let mut typed = String::new();
    io::stdin().read_line(&mut typed).map_err(anyhow::Error::from)?;
    if matches!(typed.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Code::Usage, format!("{} was not removed", domain.hostname)))
}

/// Looks into the DNS now.
async fn look(
    site: &str,
    host: &Hostname,
    connection: &Connection,
) -> Result<DomainDetail, Failure> {
    let looked = connection.answer(connection.client.check_domain(site, host.as_str()).await);
    looked.map_err(|failure| with_hint(failure, site, host))
}

/// Adds what the user can do, where it is known.
fn with_hint(failure: Failure, site: &str, host: &Hostname) -> Failure {
    if failure.hint.is_some() {
        return failure;
    }
    let kind = failure.problem.as_ref().map(|problem| problem.kind.clone()).unwrap_or_default();
    match (failure.code, kind.as_str()) {
        (Code::NotFound, _) => failure.hint(format!(
            "`ta3lem site list` shows the sites, `ta3lem domain list {site}` the hostnames of one"
        )),
        (Code::Conflict, "/problems/hostname-claimed" | "/problems/not-active") => {
            failure.hint(format!("what is missing: ta3lem domain check {site} {host}"))
        }
        (Code::Conflict, "/problems/plan-limit") => {
            failure.hint(format!("those it has: ta3lem domain list {site}"))
        }
        _ => failure,
    }
}

/// What a hostname is to its site.
fn is_own(domain: &DomainDetail) -> bool {
    domain.kind == DomainKind::Custom
}
