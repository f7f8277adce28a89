//! What must hold of every state, and what must be possible.

use stateright::Property;

use crate::{
    databases::{Database, Leg, Place, Row, Standing},
    model::{Moves, Phase, State, Wrong},
};

/// At most one database takes writes.
pub const ONE_HOME: &str = "at most one database takes writes, and only as the home";
/// What was acknowledged is there.
pub const NOTHING_LOST: &str = "a home holds every acknowledged write";
/// Nothing is there twice.
pub const NOTHING_TWICE: &str = "no write is made twice";
/// The marker is the end.
pub const MARKER_IS_LAST: &str = "nothing commits behind the marker";
/// An old home takes no writes.
pub const OLD_HOME_REFUSES: &str = "an old home accepts no write, whatever the route said";
/// The fence stays up.
pub const FENCE_STAYS: &str = "no home is un-fenced once the site opened elsewhere";
/// Generations grow.
pub const GENERATIONS_GROW: &str = "generations only grow";
/// The route names what was opened.
pub const ROUTE_IS_OPEN: &str = "the route names a placement that was opened";
/// Without an operation there is one home.
pub const REST_IS_HOME: &str = "without an operation there is one home, and the route names it";

/// All of them.
pub fn all() -> Vec<Property<Moves>> {
    let mut all = always();
    all.extend(sometimes());
    all
}

fn always() -> Vec<Property<Moves>> {
    vec![
        Property::always(ONE_HOME, |_, state: &State| {
            let homes = state.databases.iter().filter(|database| database.may_write).count();
            let as_home = |database: &Database| {
                database.may_write == (database.standing == Standing::Primary)
            };
            homes <= 1 && state.databases.iter().all(as_home)
        }),
        Property::always(NOTHING_LOST, |model, state: &State| {
            let has_all = |database: &Database| {
                (0..model.writes)
                    .filter(|write| state.acknowledged & 1 << write != 0)
                    .all(|write| database.holds(write))
            };
            let mut homes = state.databases.iter().filter(|database| database.may_write);
            homes.all(has_all)
        }),
        Property::always(NOTHING_TWICE, |_, state: &State| {
            let is_new = |rows: &[Row], at: usize| !rows[..at].contains(&rows[at]);
            let all_new = |rows: &[Row]| (0..rows.len()).all(|at| is_new(rows, at));
            state.wrong != Some(Wrong::WrittenTwice)
                && state.databases.iter().all(|database| all_new(&database.rows))
        }),
        Property::always(MARKER_IS_LAST, |_, state: &State| {
            state.wrong != Some(Wrong::CommittedBehindMarker)
        }),
        Property::always(OLD_HOME_REFUSES, |_, state: &State| {
            state.wrong != Some(Wrong::AcceptedByOldHome)
        }),
        Property::always(FENCE_STAYS, |_, state: &State| {
            state.wrong != Some(Wrong::UnfencedAfterOpen)
        }),
        Property::always(GENERATIONS_GROW, |_, state: &State| {
            state.wrong != Some(Wrong::GenerationShrank)
        }),
        Property::always(ROUTE_IS_OPEN, |_, state: &State| {
            state
                .databases
                .iter()
                .any(|database| database.was_opened() && database.generation >= state.route)
        }),
        Property::always(REST_IS_HOME, |_, state: &State| !state.rests() || state.home().is_some()),
    ]
}

/// Ends and detours that must be there: without them the rest would hold of nothing.
fn sometimes() -> Vec<Property<Moves>> {
    vec![
        Property::sometimes("the site moves", |_, state: &State| {
            state.phase == Phase::Moved(Leg::There) && state.home() == Some(Place::B)
        }),
        Property::sometimes("the site moves after an attempt that fenced", |_, state: &State| {
            let b = state.at(Place::B);
            state.phase == Phase::Moved(Leg::There) && b.has_marker(1) && b.has_marker(2)
        }),
        Property::sometimes("a move is unwound after its fence", |_, state: &State| {
            let a = state.at(Place::A);
            state.phase == Phase::Unwound(Leg::There) && a.has_marker(1)
        }),
        Property::sometimes("the site comes back with new writes", |_, state: &State| {
            let mut between = state.at(Place::A).rows.split(|row| matches!(row, Row::Marker(_)));
            state.phase == Phase::Moved(Leg::Back)
                && state.home() == Some(Place::A)
                && state.drawn[Leg::There as usize] == 1
                && between.nth(1).is_some_and(|writes| !writes.is_empty())
        }),
        Property::sometimes("a way back is unwound after its fence", |model, state: &State| {
            let marker = model.number(Leg::Back, 1);
            state.phase == Phase::Unwound(Leg::Back) && state.at(Place::B).has_marker(marker)
        }),
        Property::sometimes("a transaction is open behind the fence", |_, state: &State| {
            let a = state.at(Place::A);
            a.standing == Standing::Fenced && a.open_writes != 0
        }),
    ]
}
