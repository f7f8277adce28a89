//! `ta3lem site create`.

use clap::{Args, ValueEnum};
use control_types::{Hostname, Slug};
use provisioner_api::{
    CreateSite,
    sites::{Accepted, NewAccount, Role},
};
use uuid::Uuid;

use super::{print_plan, url};
use crate::{
    cli::{domain, email, key, words},
    connection::{Again, Connection},
    failure::{Code, Failure},
    output::Output,
    progress::{self, Until},
    when,
};

/// The site to make.
#[derive(Args)]
#[command(after_help = "\
Example:
  ta3lem site create acme --name \"Acme Academy\" --region id-jakarta --admin admin@acme.test
")]
pub struct CreateArgs {
    /// The first label of its hostname on the platform's domain
    #[arg(value_name = "SLUG")]
    slug: Slug,
    /// The institution's name
    #[arg(long, value_parser = words)]
    name: String,
    /// Where it is to live: `ta3lem region list` shows the regions
    #[arg(long, value_parser = words)]
    region: String,
    /// Its limits: `ta3lem plan list` shows the plans
    #[arg(long, default_value = "professional", value_parser = words)]
    plan: String,
    /// The address of its first administrator, who is given an invitation link
    #[arg(long, value_name = "EMAIL", value_parser = email)]
    admin: String,
    /// The administrator's name; the part of the address before '@' when absent
    #[arg(long, value_name = "NAME", value_parser = words)]
    admin_name: Option<String>,
    /// The language that it begins with
    #[arg(long, value_enum, default_value_t = Language::Id)]
    language: Language,
    /// A hostname of the institution's own, which becomes the primary one
    #[arg(long, value_name = "HOST", value_parser = domain)]
    domain: Option<Hostname>,
    /// A region where its data may be; repeat it for several. Only --region when absent
    #[arg(long = "allowed-region", value_name = "REGION", value_parser = words)]
    allowed_regions: Vec<String>,
    /// Why: it is kept in the audit trail
    #[arg(long, value_name = "TEXT", value_parser = words)]
    reason: Option<String>,
    /// Return when the work has begun
    #[arg(long)]
    no_wait: bool,
    /// Only check, and show what would be done
    #[arg(long)]
    dry_run: bool,
    /// The same key again means the same request; made up when absent
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
}

/// The languages that a site can begin with.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Language {
    /// Indonesian
    Id,
    /// English
    En,
}

impl CreateArgs {
    fn request(&self) -> CreateSite {
        let language = match self.language {
            Language::Id => "id",
            Language::En => "en",
        };
        CreateSite {
            slug: self.slug.as_str().to_owned(),
            name: self.name.clone(),
            region: self.region.clone(),
            plan: self.plan.clone(),
            allowed_regions: Some(self.allowed_regions.clone())
                .filter(|regions| !regions.is_empty()),
            default_language: Some(language.to_owned()),
            domain: self.domain.as_ref().map(|domain| domain.as_str().to_owned()),
            administrator: NewAccount {
                email: self.admin.clone(),
                name: self.admin_name.clone(),
                role: Role::Admin,
                password: None,
            },
            accounts: Vec::new(),
            reason: self.reason.clone(),
            dry_run: false,
        }
    }
}

/// Makes it.
pub async fn run(
    args: CreateArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let site = args.request();
    if args.dry_run {
        return match connection.answer(connection.client.plan_create_site(&site).await) {
            Ok(plan) => print_plan(&plan, output),
            Err(failure) => Err(explained(failure, &args, connection).await),
        };
    }
    let key = args.idempotency_key.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let send =
        async |client: &provisioner_api::client::Client| client.create_site(&site, &key).await;
    let mut accepted = match connection.change(Again::SameKey, send).await {
        Ok(accepted) => accepted,
        Err(failure) => {
            return Err(explained(failure.repeatable(&key), &args, connection).await);
        }
    };
    let id = accepted.operation.id;
    if args.no_wait {
        begun(&accepted, output)?;
        output.say(&format!("Watch: ta3lem operation watch {id}"));
        return Ok(());
    }
    output.say(&format!("Creating {} in {} (operation {id})", args.slug, args.region));
    match progress::follow(connection, output, &accepted.operation, Until::End).await {
        Ok(ended) => accepted.operation = ended,
        Err(failure) => {
            // The link is shown once: it must not be lost with the watching.
            begun(&accepted, output)?;
            return Err(failure);
        }
    }
    if let Ok(site) = connection.client.site(&accepted.site.id.to_string()).await {
        accepted.site = site;
    }
    if output.json {
        output.document(&accepted)?;
        return progress::verdict(&accepted.operation);
    }
    if let Err(failure) = progress::verdict(&accepted.operation) {
        if failure.code == Code::Stuck {
            print_links(&accepted, output)?;
        }
        return Err(failure);
    }
    let operation = &accepted.operation;
    let end = operation.finished_at.unwrap_or(operation.created_at);
    let took = when::took(when::between(operation.created_at, end));
    output.print(&format!("{} is ready after {took}", accepted.site.slug))?;
    print_links(&accepted, output)
}

/// For who does not wait for the end.
fn begun(accepted: &Accepted, output: &Output) -> Result<(), Failure> {
    if output.json {
        return output.document(accepted);
    }
    let id = accepted.operation.id;
    output.print(&format!("{} is being created by operation {id}", accepted.site.slug))?;
    print_links(accepted, output)
}

fn print_links(accepted: &Accepted, output: &Output) -> Result<(), Failure> {
    if let Some(url) = url(&accepted.site) {
        output.link("Site", url)?;
    }
    if let Some(url) = &accepted.invitation_url {
        output.link("Administrator's invitation", url)?;
        output.say("It leads to the first password, once, within seven days.");
    }
    Ok(())
}

/// Adds what else the user could have said.
async fn explained(failure: Failure, args: &CreateArgs, connection: &Connection) -> Failure {
    if failure.hint.is_some() {
        return failure;
    }
    let field = failure.problem.as_ref().and_then(|problem| problem.field.clone());
    match field.as_deref().unwrap_or_default() {
        field if field.contains("region") => match connection.client.regions().await {
            Ok(regions) => known(failure, "region", regions.into_iter().map(|r| r.name)),
            Err(_) => failure,
        },
        "plan" => match connection.client.plans().await {
            Ok(plans) => known(failure, "plan", plans.into_iter().map(|p| p.name)),
            Err(_) => failure,
        },
        "slug" if failure.code == Code::Conflict => {
            failure.hint(format!("`ta3lem site show {}` shows who has it", args.slug))
        }
        "domain" if failure.code == Code::Conflict => {
            failure.hint("a hostname belongs to one site: `ta3lem site list` shows them")
        }
        _ => failure,
    }
}

/// Says which ones there are, unless the refusal does.
fn known(failure: Failure, noun: &str, names: impl Iterator<Item = String>) -> Failure {
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        failure.hint(format!("there is no {noun} yet"))
    } else if names.iter().all(|name| failure.message.contains(name)) {
        failure
    } else {
        failure.hint(format!("known {noun}s: {}", names.join(", ")))
    }
}
