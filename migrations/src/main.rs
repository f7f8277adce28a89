//! `migrate control|site URL`: brings one database to the newest schema, for the scripts in `ops/`.

use std::process::ExitCode;

use migrations::Schema;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let schema = match arguments.next().as_deref() {
        Some("control") => Schema::Control,
        Some("site") => Schema::Site,
        _ => return usage(),
    };
    let Some(options) = arguments.next().and_then(|place| read_place(&place)) else {
        return usage();
    };
    let outcome = match PgConnection::connect_with(&options).await {
        Ok(mut connection) => {
            let outcome = schema.migrate(&mut connection).await;
            let _ = connection.close().await;
            outcome
        }
        Err(error) => Err(migrations::MigrateError::Prepare(error)),
    };
    match outcome {
        Ok(applied) => {
            println!("{schema:?}: version {}, applied {applied:?}", schema.latest_version());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                eprintln!("migrate: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// A URL, or words as `psql` takes them: `host=/run/postgres user=postgres dbname=control`.
fn read_place(place: &str) -> Option<PgConnectOptions> {
    if place.contains("://") {
        return place.parse().ok();
    }
    let mut options = PgConnectOptions::new_without_pgpass();
    for word in place.split_whitespace() {
        options = match word.split_once('=')? {
            ("host", value) if value.starts_with('/') => options.socket(value),
            ("host", value) => options.host(value),
            ("port", value) => options.port(value.parse().ok()?),
            ("user", value) => options.username(value),
            ("password", value) => options.password(value),
            ("dbname", value) => options.database(value),
            _ => return None,
        };
    }
    Some(options)
}

fn usage() -> ExitCode {
    eprintln!("usage: migrate control|site URL");
    ExitCode::from(64)
}
