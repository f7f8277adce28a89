//! The stories: what the platform promises, told over the real binaries. The list below is the list
//! of features.

use std::{pin::Pin, process::ExitCode, sync::Arc};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use tests::{Stack, dns_server::DnsServer, stack::Start};
use tokio::{runtime::Runtime, sync::OnceCell};

mod acme;
mod backups;
mod browser_flow;
mod certificate_uploads;
mod certificates;
mod crash;
mod custom_domains;
mod demo_sites;
mod disturbed_moves;
mod enums;
mod hold;
mod inside_a_region;
mod instances;
mod isolation;
mod killed;
mod moves;
mod other_region;
mod places_down;
mod previews;
mod proofs;
mod public;
mod refusals;
mod secrets;
mod site_life;
mod up_and_down;
mod uploads_meanwhile;

/// A story on the platform that all of them share.
type Shared = fn(Arc<Stack>) -> Pin<Box<dyn Future<Output = Result<()>>>>;
/// A story that starts what it needs by itself.
type Own = fn() -> Pin<Box<dyn Future<Output = Result<()>>>>;

macro_rules! shared {
    ($($module:ident :: $story:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($story)),
             |stack| Box::pin(async move { $module::$story(&stack).await }))),*]
    };
}
macro_rules! own {
    ($($module:ident :: $story:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($story)),
             || Box::pin($module::$story()))),*]
    };
}

const SHARED: &[(&str, Shared)] = shared![
    demo_sites::a_learner_reads_a_course,
    demo_sites::a_custom_domain_is_the_primary_one,
    site_life::created_opened_and_deleted,
    site_life::suspended_and_resumed,
    site_life::a_deletion_is_cancelled,
    site_life::ten_at_once,
    site_life::the_same_key_is_the_same_operation,
    custom_domains::from_the_record_to_the_router,
    custom_domains::a_name_that_still_points_here_is_not_taken_over,
    custom_domains::many_claim_and_one_owns,
    custom_domains::what_is_refused,
    custom_domains::a_resolver_that_fails_changes_nothing,
    custom_domains::an_operator_vouches,
    custom_domains::nobody_has_to_ask,
    certificate_uploads::uploads_are_refused_in_words,
    refusals::bad_input_names_the_field,
    refusals::the_api_wants_a_token,
    refusals::the_api_describes_itself,
    isolation::a_site_reaches_only_its_own,
    instances::a_sleeping_site_wakes_once,
    instances::a_site_is_replaced_while_people_write,
    other_region::opens_at_every_address,
    hold::nobody_sees_a_held_site,
    hold::who_writes_to_a_fenced_site_waits,
    uploads_meanwhile::survive_a_move_or_are_sent_again,
    secrets::no_secret_is_anywhere_to_be_read,
    browser_flow::a_learner_with_a_browser,
    enums::sql_and_rust_agree,
    crash::every_step_of_creating_and_deleting,
    crash::every_step_of_moving,
    crash::every_step_of_previewing,
    crash::every_step_of_restoring,
];

const OWN: &[(&str, Own)] = own![
    acme::certificates_come_from_a_public_authority,
    backups::make_themselves_and_hold_every_moment,
    certificates::what_is_wrong_with_a_name_is_said_and_mended,
    certificates::a_site_that_waits_for_its_certificate_says_so_and_gives_up_whole,
    certificate_uploads::a_wildcard_serves_and_its_end_is_told_in_time,
    killed::the_provisioner_is_killed_during_creates,
    moves::a_site_moves_while_people_use_it,
    moves::a_broken_file_stops_the_move,
    inside_a_region::a_site_changes_its_cluster_inside_its_region,
    disturbed_moves::whatever_happens_in_the_middle,
    places_down::the_part_that_is_down_is_named,
    previews::any_moment_beside_the_site,
    proofs::what_is_broken_is_found,
    up_and_down::comes_up_again_and_leaves_nothing_behind,
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime: &'static Runtime = match Runtime::new() {
        Ok(runtime) => Box::leak(Box::new(runtime)),
        Err(error) => {
            eprintln!("no runtime for the stories: {error}");
            return ExitCode::FAILURE;
        }
    };
    let stack: &'static OnceCell<Arc<Stack>> = Box::leak(Box::new(OnceCell::new()));
    let shared = SHARED.iter().map(|(name, story)| {
        Trial::test(*name, move || {
            runtime.block_on(async {
                let start = || async {
                    let dns = DnsServer::start().await?;
                    let start = Start { demo: true, dns: Some(dns.address), ..Start::default() };
                    let started = tokio::task::spawn_blocking(move || Stack::start(start));
                    let mut stack = started.await??;
                    stack.dns = Some(dns);
                    anyhow::Ok(Arc::new(stack))
                };
                let stack = stack.get_or_try_init(start).await.map_err(failed)?;
                story(Arc::clone(stack)).await.map_err(failed)
            })
        })
    });
    let own = OWN
        .iter()
        .map(|(name, story)| Trial::test(*name, move || runtime.block_on(story()).map_err(failed)));
    let conclusion = libtest_mimic::run(&arguments, shared.chain(own).collect());
    // The platform must stop whatever became of the stories.
    if let Some(stack) = stack.get() {
        stack.terminate();
    }
    conclusion.exit_code()
}

fn failed(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:?}"))
}
