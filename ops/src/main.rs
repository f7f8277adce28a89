//! `ta3lem`: the command line of the platform. It only speaks HTTP to the provisioner, except for
//! `up`, `down` and `doctor`, which run the platform on one machine, and `cluster keep`, which makes the
//! backups beside a cluster.

mod cli;
mod asking;
mod connection;
mod site;
mod domain;
mod certificate;
mod operation;
mod region;
mod router;
mod cluster;
mod plan;
mod backup;
mod preview;
mod status;
mod completions;
mod progress;
mod output;
mod when;
mod failure;

use std::{ffi::OsString, process::ExitCode};

use clap::{ColorChoice, CommandFactory, FromArgMatches};
use ops::{doctor, down, keeper, up};

use crate::{
    cli::{Cli, Command},
    cluster::ClusterCommand,
    connection::Connection,
    failure::{Code, Failure},
    output::Output,
};

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let global = &cli.global;
    let output = Output::new(global.json, global.quiet, global.no_color);
    // Two providers are linked in; reqwest takes the one installed, and fails without.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(anyhow::Error::from(error)).report(&output),
    };
    match runtime.block_on(run(cli, &output)) {
        Ok(code) => code,
        Err(failure) => failure.report(&output),
    }
}

async fn run(cli: Cli, output: &Output) -> Result<ExitCode, Failure> {
    let connect = || Connection::open(&cli.global.connection);
    match cli.command {
        Command::Up(args) => return Ok(up::run(args).await),
        Command::Down(args) => return Ok(down::run(args).await),
        Command::Doctor(args) => return Ok(doctor::run(args).await),
        Command::Cluster(ClusterCommand::Keep(args)) => return Ok(keeper::run(args).await),
        Command::Site(command) => site::run(command, &connect()?, output).await,
        Command::Certificate(command) => certificate::run(command, &connect()?, output).await,
        Command::Domain(command) => domain::run(command, &connect()?, output).await,
        Command::Operation(command) => operation::run(command, &connect()?, output).await,
        Command::Region(command) => region::run(&command, &connect()?, output).await,
        Command::Router(command) => router::run(&command, &connect()?, output).await,
        Command::Cluster(ClusterCommand::List) => cluster::list(&connect()?, output).await,
        Command::Backup(command) => backup::run(&command, &connect()?, output).await,
        Command::Preview(command) => preview::run(command, &connect()?, output).await,
        Command::Plan(command) => plan::run(&command, &connect()?, output).await,
        Command::Status => status::run(&connect()?, output).await,
        Command::Completions(args) => completions::run(&args, output),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the arguments. Help, version and wrong usage end here.
fn parse() -> Result<Cli, ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let given = |flag: &str| arguments.iter().skip(1).any(|argument| argument == flag);
    let colour = if !ops::config::wants_colour() || given("--no-color") {
        ColorChoice::Never
    } else {
        ColorChoice::Auto
    };
    let parsed = Cli::command()
        .color(colour)
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        if error.use_stderr() && given("--json") {
            let text = error.render().to_string();
            let message = text.trim().trim_start_matches("error: ");
            let output = Output::new(true, true, true);
            return Failure::new(Code::Usage, message).report(&output);
        }
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Code::Usage as u8))
    })
}
