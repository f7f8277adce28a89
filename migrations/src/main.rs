//! `migrate control|site URL`: brings one database to the newest schema, for the scripts in `ops/`.

use std::process::ExitCode;

use migrations::Schema;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let schema = match arguments.next().as_deref() {
        Some("control") => Schema::Control,
        Some("site") => Schema::Site,
        _ => return usage(),
    };
    let Some(url) = arguments.next() else { return usage() };
    let (mut client, connection) = match tokio_postgres::connect(&url, tokio_postgres::NoTls).await
    {
        Ok(pair) => pair,
        Err(error) => {
            eprintln!("migrate: cannot connect: {error}");
            return ExitCode::FAILURE;
        }
    };
    let connection = tokio::spawn(connection);
    let outcome = schema.migrate(&mut client).await;
    drop(client);
    let _ = connection.await;
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

fn usage() -> ExitCode {
    eprintln!("usage: migrate control|site URL");
    ExitCode::from(64)
}
