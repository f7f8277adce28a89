//! `ta3lem site restore`: a preview of the site as it was at some moment.

use clap::{ArgGroup, Args};
use control_types::OperationId;
use provisioner_api::{
    client::Client,
    previews::{AcceptedPreview, CreatePreview},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{SiteArgs, with_hint};
use crate::{
    asking::{Asking, plan_or_failure},
    connection::{Again, Connection},
    failure::Failure,
    output::Output,
    progress::{self, Until},
    when::{self, moment},
};

/// Of which moment.
#[derive(Args)]
#[command(group = ArgGroup::new("moment").required(true).args(["at", "before_operation"]))]
#[command(after_help = "\
The preview is a copy that can only be looked at, behind a link that is printed, for a day. The site
and all others go on untouched. `ta3lem site show` says which moments can be brought back.

A moment without a zone is one of this machine's zone; what it was taken for is printed.
")]
pub struct RestoreArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// As it was then: '2026-11-22 10:42', 'yesterday 10:42', '15 minutes ago', 2026-11-22T03:42:00Z
    #[arg(long, value_name = "WHEN", value_parser = moment::parse)]
    at: Option<OffsetDateTime>,
    /// As it was right before this operation on it
    #[arg(long, value_name = "ID")]
    before_operation: Option<OperationId>,
    /// How long the preview is kept, as 8h or 3d
    #[arg(long, value_name = "LENGTH", default_value = "1d", value_parser = when::parse_secs)]
    keep: i32,
    #[command(flatten)]
    asking: Asking,
}

/// Makes it.
pub async fn run(
    args: RestoreArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let name = args.site.site.0;
    let wanted = CreatePreview {
        at: args.at,
        before_operation: args.before_operation,
        keep_secs: u32::try_from(args.keep).ok(),
        reason: args.asking.reason.clone(),
        dry_run: false,
    };
    if let Some(at) = args.at {
        output.say(&format!("{name} as it was at {}", moment::both_zones(at)));
    }
    if args.asking.dry_run {
        let plan = connection.client.plan_create_preview(&name, &wanted).await;
        return plan_or_failure(plan, &name, connection, output).await;
    }
    let key = args.asking.idempotency_key.unwrap_or_else(|| Uuid::new_v4().to_string());
    let send = async |client: &Client| client.create_preview(&name, &wanted, &key).await;
    let mut accepted = match connection.change(Again::SameKey, send).await {
        Ok(accepted) => accepted,
        Err(failure) => return Err(with_hint(failure.repeatable(&key), &name, connection).await),
    };
    let id = accepted.operation.id;
    if args.asking.no_wait {
        output.say(&format!("Watch: ta3lem operation watch {id}"));
        return shown(&accepted, output);
    }
    output.say(&format!("Making {} (operation {id})", accepted.preview.slug));
    accepted.operation =
        progress::follow(connection, output, &accepted.operation, Until::End).await?;
    shown(&accepted, output)
}

fn shown(accepted: &AcceptedPreview, output: &Output) -> Result<(), Failure> {
    let AcceptedPreview { operation, preview } = accepted;
    if output.json {
        output.document(accepted)?;
        return progress::verdict(operation);
    }
    progress::verdict(operation)?;
    if let Some(end) = operation.finished_at {
        let took = when::took(when::between(operation.created_at, end));
        output.print(&format!("{} is ready after {took}", preview.slug))?;
    }
    output.link("Preview", &preview.link)?;
    let until = when::both(preview.expires_at, OffsetDateTime::now_utc());
    output.say(&format!(
        "Whoever has this link sees everything in it. It goes {until}, or with: ta3lem preview \
         remove {}",
        preview.slug
    ));
    Ok(())
}
