//! The command line: what can be typed, and what is checked before anybody is asked.

use clap::{Args, Parser, Subcommand};
use control_types::{Hostname, SiteId, Slug};

use crate::{
    backup::BackupCommand, certificate::CertificateCommand, cluster::ClusterCommand,
    completions::CompletionsArgs, connection::ConnectionArgs, domain::DomainCommand, failure::Code,
    operation::OperationCommand, plan::PlanCommand, preview::PreviewCommand, region::RegionCommand,
    router::RouterCommand, site::SiteCommand,
};

/// Learning platforms for institutions, each with a database, files and domains of its own
#[derive(Parser)]
#[command(name = "ta3lem", version, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = Code::help())]
pub struct Cli {
    /// What goes with every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The options that every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// How to reach the provisioner.
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// Print JSON: the API's types, one document (watch: one a line); a failure on stderr
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Only print results and errors
    #[arg(long, short, global = true, help_heading = "Output")]
    pub quiet: bool,
    /// No colours and no moving lines (also NO_COLOR, and when there is no terminal)
    #[arg(long, global = true, help_heading = "Output")]
    pub no_color: bool,
}

/// The nouns.
#[derive(Subcommand)]
pub enum Command {
    /// Create, look at, close, open and delete sites
    #[command(subcommand)]
    Site(SiteCommand),
    /// List, renew and upload the certificates of hostnames
    #[command(subcommand)]
    Certificate(CertificateCommand),
    /// Add, check, prefer and remove hostnames of sites
    #[command(subcommand)]
    Domain(DomainCommand),
    /// Look at, follow and cancel operations: the pieces of work on sites
    #[command(subcommand)]
    Operation(OperationCommand),
    /// The regions where sites can live
    #[command(subcommand)]
    Region(RegionCommand),
    /// What the routers are doing
    #[command(subcommand)]
    Router(RouterCommand),
    /// The Postgres servers that hold sites' databases
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// How the backups of the clusters are
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Sites as they were at some moment: list and remove them (see `site restore`)
    #[command(subcommand)]
    Preview(PreviewCommand),
    /// The sets of limits that sites can have
    #[command(subcommand)]
    Plan(PlanCommand),
    /// How the platform is: its parts, and the work under way
    Status,
    /// Start the whole platform on this machine
    Up(ops::up::UpArgs),
    /// Stop what `ta3lem up` runs
    Down(ops::down::DownArgs),
    /// Say what is missing or wrong on this machine
    Doctor(ops::doctor::DoctorArgs),
    /// Print a script that completes commands in a shell
    Completions(CompletionsArgs),
}

/// A site that exists, by slug or id.
#[derive(Clone, Debug)]
pub struct SiteName(pub String);

/// Reads [`SiteName`].
pub fn site_name(text: &str) -> Result<SiteName, String> {
    if text.parse::<SiteId>().is_ok() {
        return Ok(SiteName(text.to_owned()));
    }
    match text.parse::<Slug>() {
        Ok(slug) => Ok(SiteName(slug.into())),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads a hostname of the institution's own, in canonical form.
pub fn domain(text: &str) -> Result<Hostname, String> {
    let name: Hostname = text.parse().map_err(|error| format!("{error}"))?;
    if name.as_str().contains('.') {
        Ok(name)
    } else {
        Err("a full hostname is wanted, as belajar.example.ac.id".into())
    }
}

/// Reads an address that mail could reach. The site will find out whether it does.
pub fn email(text: &str) -> Result<String, String> {
    let Some((local, host)) = text.rsplit_once('@') else {
        return Err("an email address has an '@', as admin@example.ac.id".into());
    };
    let strange = |c: char| c.is_whitespace() || c.is_control() || "@<>(),;:\\\"[]".contains(c);
    if local.is_empty() || local.len() > 64 || local.chars().any(strange) {
        return Err("the part before '@' is not that of an email address".into());
    }
    match host.parse::<Hostname>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("the part after '@': {error}")),
    }
}

/// Reads a text that says something.
pub fn words(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        Err("must not be empty".into())
    } else if text.chars().any(char::is_control) {
        Err("must be one line of text".into())
    } else {
        Ok(text.to_owned())
    }
}

/// Reads an idempotency key.
pub fn key(text: &str) -> Result<String, String> {
    if (1..=200).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("a key has 1 to 200 visible ASCII characters".into())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn every_help(command: &mut clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        found.push((path.to_owned(), command.render_help().to_string()));
        found.push((path.to_owned(), command.render_long_help().to_string()));
        for child in command.get_subcommands_mut() {
            let path = format!("{path} {}", child.get_name());
            every_help(child, &path, found);
        }
    }

    #[test]
    fn every_help_fits_100_columns() {
        let mut command = Cli::command();
        command.build();
        Cli::command().debug_assert();
        let mut found = Vec::new();
        every_help(&mut command, "ta3lem", &mut found);
        assert!(found.len() > 30);
        for (path, help) in found {
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{path}: {line}");
            }
        }
    }

    #[test]
    fn what_is_typed_is_checked() {
        assert!(email("admin@acme.test").is_ok());
        for bad in ["", "admin", "@acme.test", "a b@acme.test", "a@b@c.test", "a@-b", "<a@b.c>"] {
            assert!(email(bad).is_err(), "{bad:?}");
        }
        assert_eq!(domain("Belajar.Acme.Test.").map(String::from), Ok("belajar.acme.test".into()));
        assert!(domain("acme").is_err() && domain("10.0.0.1").is_err());
        assert!(site_name("acme").is_ok() && site_name("../x").is_err());
        assert!(site_name("0192f0c1-2c3d-7000-8000-000000000001").is_ok());
        assert_eq!(words("  Acme "), Ok("Acme".into()));
        assert!(words(" ").is_err() && words("a\nb").is_err() && key("").is_err());
    }
}
