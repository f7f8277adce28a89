//! A model of the protocol by which a site moves between two databases, checked by going through all
//! that can happen at small bounds. What it says of the code holds as long as the two say the same,
//! so whoever changes one changes the other:
//!
//! | here | there |
//! |---|---|
//! | `Database::{standing, generation}` | `platform.site_authority.{state, generation}` |
//! | `seen`, `armed` | `moving_to`: its last word, and whether the words before it name a place |
//! | `may_write` | the login role is in the group that writes |
//! | `Row::Marker` | a row of `platform.move_marker`; it comes in the stream, behind all that was written |
//! | `ArmSource`, `ArmTarget` | `site_database/fence.rs`: `arm`, `stand_by` |
//! | `Standing::Fenced` of an older generation | `retired` |
//! | `Fence`, `Barrier` | the two transactions of `Switch::fence` |
//! | `Open`, `Abort`, `Unfence` | `Switch::open`, `abort`, `unfence` |
//! | `Draw`, `Route`, `End` | `operations/changeover/switch.rs`: the control database, under the claim |
//!
//! What the model lets happen is more than what can:
//!
//! - **Provisioners.** Who holds the claim of the operation may send any statement in any order. A
//!   statement that bears a number that was drawn once may arrive from anybody at any later time, any
//!   number of times, also when the operation has ended: so there are zombies without bound, and each
//!   may have been on its way to any statement. Only two things need a reason that was true at some
//!   time before: to un-fence, that the abort of that number was won; to change the route, the claim.
//! - **Routers and instances.** A write may be tried in both databases at every moment, so routers
//!   know anything, late or never; all that refuses it is the database.
//! - **Crashes.** A server that is down is a server at which nothing happens for a while. Its open
//!   transactions are gone. What was committed stays, but for the rows that replication applied, which
//!   may be lost until something else is flushed, and come again. So all statements must commit with
//!   `synchronous_commit` on, and a source that fails over must not forget its fence.
//! - **Clients.** They may hear of a commit or not, and write again with the same key if not.
//!
//! What it leaves out: the copy before the stream, sequences, the position from which the way back
//! streams, roles other than the app's, and files.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "this is a test")]

#[path = "move_protocol/databases.rs"]
mod databases;
#[path = "move_protocol/ends.rs"]
mod ends;
#[path = "move_protocol/model.rs"]
mod model;
#[path = "move_protocol/properties.rs"]
mod properties;
#[path = "move_protocol/rules.rs"]
mod rules;

use std::{collections::BTreeSet, time::Instant};

use model::{Event, Moves};
use rules::{Rule, Rules};
use stateright::{Checker, HasDiscoveries, Model};

/// Two attempts there and two back, and a write at each end of anything.
const ATTEMPTS: Moves =
    Moves { rules: Rules { without: &[] }, writes: 2, writers: 2, attempts: [2, 2] };
/// More writes, so that some lie before, between and behind the markers of two attempts.
const WRITES: Moves =
    Moves { rules: Rules { without: &[] }, writes: 3, writers: 2, attempts: [2, 1] };

fn holds(moves: Moves) {
    let started = Instant::now();
    let checker = moves.checker().threads(2).spawn_bfs().join();
    println!("{} states, {:?}", checker.unique_state_count(), started.elapsed());
    checker.assert_properties();
}

#[test]
fn nothing_goes_wrong_in_two_attempts_each_way() {
    holds(ATTEMPTS);
}

#[test]
fn nothing_goes_wrong_with_three_writes() {
    holds(WRITES);
}

#[test]
fn there_is_a_way_out_of_everything() {
    let started = Instant::now();
    let (states, dead_end) = ends::dead_end(&ATTEMPTS);
    println!("{states} states, {:?}", started.elapsed());
    assert_eq!(dead_end, None);
}

/// A way to what must not happen, when rules do not hold.
fn finds(property: &'static str, without: &'static [Rule]) {
    let moves = Moves { rules: Rules { without }, ..ATTEMPTS };
    let found = HasDiscoveries::AllOf(BTreeSet::from([property]));
    let checker = moves.checker().finish_when(found).spawn_bfs().join();
    let way = checker.assert_any_discovery(property).into_actions();
    println!("without {without:?}, not so: {property}\n    {way:?}");
}

/// A check that finds nothing says something only if it finds what is there: every rule is needed.
#[test]
fn without_any_of_its_rules_the_protocol_fails() {
    finds(properties::ONE_HOME, &[Rule::AbortBeforeUnfence]);
    finds(properties::FENCE_STAYS, &[Rule::AbortBeforeUnfence]);
    finds(properties::REST_IS_HOME, &[Rule::FenceNamesItsAttempt]);
    finds(properties::NOTHING_LOST, &[Rule::OpenWaitsForMarker]);
    finds(properties::NOTHING_LOST, &[Rule::OpenReadsMarkerItself]);
    finds(properties::NOTHING_LOST, &[Rule::MarkerNamesItsAttempt]);
    finds(properties::MARKER_IS_LAST, &[Rule::BarrierWaits]);
    finds(properties::NOTHING_LOST, &[Rule::BarrierWaits]);
    finds(properties::REST_IS_HOME, &[Rule::NumbersGrowAtSource]);
    finds(properties::ONE_HOME, &[Rule::NumbersGrowAtTarget]);
    finds(properties::REST_IS_HOME, &[Rule::UnfenceDisarms]);
    finds(properties::REST_IS_HOME, &[Rule::UnwindTellsSource]);
    finds(properties::NOTHING_TWICE, &[Rule::NumbersGrowAtTarget]);
    finds(properties::OLD_HOME_REFUSES, &[Rule::NumbersGrowAtTarget]);
    finds(properties::ROUTE_IS_OPEN, &[Rule::RouteFollowsOpen]);
    finds(properties::GENERATIONS_GROW, &[Rule::RouteHoldsClaim]);
}

/// The number of an attempt is used once, also by the one who holds the claim and finds it noted when
/// it takes over: armed again after it was aborted, it finds the marker that it left, and does not
/// wait for what was written since.
#[test]
fn an_attempt_that_is_armed_twice_loses_writes() {
    use databases::{Leg::There, Place, Statement::*};
    let now = |statement| Event::Now(statement, There, 1);
    let attempt = [ArmSource, ArmTarget, Fence, Barrier].map(now);
    let given_up = [Event::Arrive(Place::B), now(Abort), now(Unfence)];
    let written = [Event::Write(0, Place::A), Event::Commit(0, Place::A, true)];
    let events = [&[Event::Draw(There)], &attempt[..], &given_up, &written, &attempt, &[now(Open)]];
    let events = events.concat();

    let run = |without| {
        let moves = Moves { rules: Rules { without }, ..ATTEMPTS };
        let mut state = moves.init_states().remove(0);
        for event in &events {
            state = moves.next_state(&state, *event).unwrap_or(state);
        }
        let is_kept = moves.property(properties::NOTHING_LOST).condition;
        (state.home(), is_kept(&moves, &state))
    };
    assert_eq!(run(&[]), (Some(Place::A), true));
    let (_, is_kept) = run(&[Rule::NumbersGrowAtSource, Rule::NumbersGrowAtTarget]);
    assert!(!is_kept);
}

/// Two attempts that cross, so that the source is fenced by the older one: if an abort did not hold
/// for older ones too, nobody could un-fence it.
#[test]
fn an_abort_that_holds_for_one_number_only_leads_into_a_dead_end() {
    let rules = Rules { without: &[Rule::AbortCoversOlder] };
    let (_, dead_end) = ends::dead_end(&Moves { rules, writes: 1, ..ATTEMPTS });
    println!("{:?}", dead_end.expect("there is one"));
}
