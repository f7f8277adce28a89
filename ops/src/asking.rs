//! How work on a site is asked for, and followed to its end.

use clap::Args;
use provisioner_api::{
    client::{Client, ClientError},
    sites::{Accepted, DryRun},
};
use uuid::Uuid;

use crate::{
    cli::{key, words},
    connection::{Again, Connection},
    failure::{Code, Failure},
    output::{Output, Tone},
    progress::{self, Until},
    site::{print_plan, with_hint},
};

/// How an operation is asked for and followed.
#[derive(Args)]
pub struct Asking {
    /// Why: it is kept in the audit trail
    #[arg(long, value_name = "TEXT", value_parser = words)]
    pub reason: Option<String>,
    /// Return when the work has begun
    #[arg(long)]
    pub no_wait: bool,
    /// Only check, and show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// The same key again means the same request; made up when absent
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub idempotency_key: Option<String>,
}

/// Prints what would be done, and fails when something would stop it.
pub async fn plan_or_failure(
    plan: Result<DryRun, ClientError>,
    name: &str,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let plan = match connection.answer(plan) {
        Ok(plan) => plan,
        Err(failure) => return Err(with_hint(failure, name, connection).await),
    };
    print_plan(&plan, output)?;
    if !output.json {
        for wait in &plan.waits {
            let told = format!("would wait: {wait}");
            output.complain(&output.paint_err(&told, Tone::Busy).to_string());
        }
        for problem in &plan.problems {
            output.complain(&output.paint_err(problem, Tone::Bad).to_string());
        }
    }
    if plan.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Code::Failed, format!("this is not possible with {name} now")))
}

/// Asks for it and follows it to its end, unless that is not wanted.
pub async fn ask(
    doing: &str,
    name: &str,
    asking: &Asking,
    send: impl AsyncFn(&Client, &str) -> Result<Accepted, ClientError>,
    connection: &Connection,
    output: &Output,
) -> Result<Accepted, Failure> {
    let key = asking.idempotency_key.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let sent = connection.change(Again::SameKey, async |client: &Client| send(client, &key).await);
    let mut accepted = match sent.await {
        Ok(accepted) => accepted,
        Err(failure) => return Err(with_hint(failure.repeatable(&key), name, connection).await),
    };
    let id = accepted.operation.id;
    if asking.no_wait {
        output.say(&format!("Watch: ta3lem operation watch {id}"));
        return Ok(accepted);
    }
    output.say(&format!("{doing} {} (operation {id})", accepted.site.slug));
    accepted.operation =
        progress::follow(connection, output, &accepted.operation, Until::End).await?;
    if let Ok(site) = connection.client.site(&accepted.site.id.to_string()).await {
        accepted.site = site;
    }
    Ok(accepted)
}
