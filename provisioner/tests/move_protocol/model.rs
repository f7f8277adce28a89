//! The model: the two databases, the control database, the writers, and all that can happen next.

use stateright::{Model, Property};

use crate::{
    databases::{Database, Generation, Leg, Number, Place, Row, STATEMENTS, Standing, Statement},
    properties,
    rules::{Rule, Rules},
};

/// What there is to explore.
#[derive(Clone, Debug)]
pub struct Moves {
    /// The rules that hold.
    pub rules: Rules,
    /// How many writes there are.
    pub writes: u8,
    /// How many transactions are open in a database at most.
    pub writers: u32,
    /// How many numbers the operation there draws at most, and the one back.
    pub attempts: [Number; 2],
}

/// How far the operations are, as the control database has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// An operation is under way.
    Live(Leg),
    /// It ended; the site moved.
    Moved(Leg),
    /// It ended; the site is where it was.
    Unwound(Leg),
}

/// Something that must never happen and that a state does not show by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// A transaction committed although the marker that should come after it was there.
    CommittedBehindMarker,
    /// A write was made a second time.
    WrittenTwice,
    /// A write was accepted where the site is not at home any more.
    AcceptedByOldHome,
    /// A home was un-fenced after the site had opened elsewhere.
    UnfencedAfterOpen,
    /// A generation became smaller.
    GenerationShrank,
}

/// All of it at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The databases at A and B.
    pub databases: [Database; 2],
    /// How far the operations are.
    pub phase: Phase,
    /// How many numbers each operation drew.
    pub drawn: [Number; 2],
    /// The generation that routers are told.
    pub route: Generation,
    /// The writes that somebody was told are done, as bits.
    pub acknowledged: u8,
    /// The writes that were committed somewhere, as bits.
    pub committed: u8,
    /// The numbers of which an abort was won at some time, as bits.
    pub aborted: u8,
    /// The numbers whose marker was seen in the target at some time, as bits. Only noted where it matters.
    pub marker_seen: u8,
    /// What went wrong.
    pub wrong: Option<Wrong>,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Who holds the claim draws the next number.
    Draw(Leg),
    /// Who holds the claim sends a statement.
    Now(Statement, Leg, Number),
    /// A statement arrives from one who held the claim once.
    Late(Statement, Leg, Number),
    /// The route changes.
    Route(Leg),
    /// The operation ends.
    End(Phase),
    /// The next operation begins.
    Begin,
    /// A transaction writes; it can still roll back.
    Write(u8, Place),
    /// It commits, and its client hears of it or does not.
    Commit(u8, Place, bool),
    /// The next row of the stream arrives.
    Arrive(Place),
    /// The server crashes and is back: open transactions are gone.
    Crash(Place),
    /// The server crashes and is back without the last row that replication applied.
    LoseRow(Place),
}

impl Event {
    /// Whether it is something to count on: who holds the claim works, open transactions end, rows
    /// arrive. Nobody may need a late statement or a crash to get out of where they are.
    pub fn is_to_be_expected(self) -> bool {
        !matches!(
            self,
            Self::Late(..) | Self::Write(..) | Self::Crash(_) | Self::LoseRow(_) | Self::Begin
        )
    }
}

impl State {
    /// A place's database.
    pub fn at(&self, place: Place) -> &Database {
        &self.databases[place as usize]
    }

    fn at_mut(&mut self, place: Place) -> &mut Database {
        &mut self.databases[place as usize]
    }

    /// Whether no operation is under way.
    pub fn rests(&self) -> bool {
        !matches!(self.phase, Phase::Live(_))
    }

    /// The one home, if there is one and the route names it.
    pub fn home(&self) -> Option<Place> {
        let mut homes = [Place::A, Place::B].into_iter().filter(|place| self.at(*place).may_write);
        let home = homes.next()?;
        (homes.next().is_none() && self.at(home).generation == self.route).then_some(home)
    }

    fn mark(&mut self, wrong: Wrong) {
        self.wrong.get_or_insert(wrong);
    }

    /// Whether the site was opened elsewhere after it was here.
    fn is_old(&self, place: Place) -> bool {
        let other = self.at(place.other());
        other.was_opened() && other.generation > self.at(place).generation
    }
}

fn bit(n: u8) -> u8 {
    1 << n
}

impl Moves {
    /// The `n`th number of an operation: those of the way back are above those of the way there.
    pub fn number(&self, leg: Leg, n: Number) -> Number {
        match leg {
            Leg::There => n,
            Leg::Back => self.attempts[Leg::There as usize] + n,
        }
    }

    /// Of a number that the one who holds the claim has at hand, late statements do what theirs do:
    /// they are there once.
    fn statements(&self, state: &State, events: &mut Vec<Event>) {
        for leg in [Leg::There, Leg::Back] {
            let drawn = state.drawn[leg as usize];
            for n in 1..=drawn {
                let number = self.number(leg, n);
                let is_held = n == drawn && state.phase == Phase::Live(leg);
                for statement in STATEMENTS {
                    let event = match is_held {
                        true => Event::Now(statement, leg, number),
                        false => Event::Late(statement, leg, number),
                    };
                    let has_reason = match statement {
                        Statement::Unfence => {
                            state.aborted & bit(number) != 0
                                || self.rules.lack(Rule::AbortBeforeUnfence)
                        }
                        Statement::Open if self.rules.lack(Rule::OpenReadsMarkerItself) => {
                            state.marker_seen & bit(number) != 0
                        }
                        _ => true,
                    };
                    if has_reason {
                        events.push(event);
                    }
                }
            }
        }
    }

    fn control(&self, state: &State, events: &mut Vec<Event>) {
        let leg = match state.phase {
            Phase::Live(leg) => leg,
            Phase::Moved(Leg::There) => {
                events.push(Event::Begin);
                return;
            }
            Phase::Moved(Leg::Back) | Phase::Unwound(_) => return,
        };
        let drawn = state.drawn[leg as usize];
        if drawn < self.attempts[leg as usize] {
            events.push(Event::Draw(leg));
        }
        let (source, target) = (state.at(leg.source()), state.at(leg.source().other()));
        let generation = leg.source_generation() + 1;
        let is_open = target.standing == Standing::Primary && target.generation == generation;
        if is_open || self.rules.lack(Rule::RouteFollowsOpen) {
            events.push(Event::Route(leg));
        }
        if state.route == generation {
            events.push(Event::End(Phase::Moved(leg)));
        }
        let last = self.number(leg, drawn);
        let is_dead = target.standing == Standing::Aborted && target.seen == last;
        let is_told = source.seen == last || self.rules.lack(Rule::UnwindTellsSource);
        let is_free = (is_told && !source.armed) || self.rules.lack(Rule::UnfenceDisarms);
        if source.standing == Standing::Primary && (drawn == 0 || (is_dead && is_free)) {
            events.push(Event::End(Phase::Unwound(leg)));
        }
    }

    fn databases(&self, state: &State, events: &mut Vec<Event>) {
        for place in [Place::A, Place::B] {
            let database = state.at(place);
            for write in 0..self.writes {
                if database.open_writes & bit(write) != 0 {
                    events.push(Event::Commit(write, place, true));
                    events.push(Event::Commit(write, place, false));
                } else if database.may_write && state.acknowledged & bit(write) == 0 {
                    // Writes are alike, so they come in order.
                    let known = state.committed | database.open_writes;
                    let is_next = write == 0 || known & bit(write - 1) != 0;
                    if is_next && database.open_writes.count_ones() < self.writers {
                        events.push(Event::Write(write, place));
                    }
                }
            }
            if database.open_writes != 0 {
                events.push(Event::Crash(place));
            }
            let other = state.at(place.other());
            if database.follows(other) {
                if database.rows.len() < other.rows.len() {
                    events.push(Event::Arrive(place));
                }
                if database.rows.len() > database.flushed {
                    events.push(Event::LoseRow(place));
                }
            }
        }
    }

    fn apply(&self, state: &mut State, event: Event) {
        match event {
            Event::Draw(leg) => state.drawn[leg as usize] += 1,
            Event::Now(statement, leg, number) | Event::Late(statement, leg, number) => {
                let place = leg.place_of(statement);
                state.at_mut(place).run(statement, leg, number, self.rules);
                let database = state.at(place);
                if statement == Statement::Abort
                    && database.standing == Standing::Aborted
                    && database.seen == number
                {
                    state.aborted |= bit(number);
                }
            }
            Event::Route(leg) => state.route = leg.source_generation() + 1,
            Event::End(phase) => state.phase = phase,
            Event::Begin => state.phase = Phase::Live(Leg::Back),
            Event::Write(write, place) => {
                if state.is_old(place) {
                    state.mark(Wrong::AcceptedByOldHome);
                }
                // A client that did not hear finds by the key of its write that it is done.
                if state.at(place).holds(write) {
                    state.acknowledged |= bit(write);
                } else {
                    state.at_mut(place).open_writes |= bit(write);
                }
            }
            Event::Commit(write, place, heard) => self.commit(state, write, place, heard),
            Event::Arrive(place) => {
                let next = state.at(place).rows.len();
                let row = state.at(place.other()).rows[next];
                state.at_mut(place).rows.push(row);
                if let Row::Marker(number) = row
                    && self.rules.lack(Rule::OpenReadsMarkerItself)
                {
                    state.marker_seen |= bit(number);
                }
            }
            Event::Crash(place) => state.at_mut(place).open_writes = 0,
            Event::LoseRow(place) => {
                state.at_mut(place).rows.pop();
            }
        }
    }

    fn commit(&self, state: &mut State, write: u8, place: Place, heard: bool) {
        if state.committed & bit(write) != 0 {
            state.mark(Wrong::WrittenTwice);
        }
        let database = state.at(place);
        if !database.may_write && database.has_marker(database.seen) {
            state.mark(Wrong::CommittedBehindMarker);
        }
        if state.is_old(place) {
            state.mark(Wrong::AcceptedByOldHome);
        }
        let database = state.at_mut(place);
        database.open_writes &= !bit(write);
        database.rows.push(Row::Write(write));
        database.flushed = database.rows.len();
        state.committed |= bit(write);
        if heard {
            state.acknowledged |= bit(write);
        }
    }
}

impl Model for Moves {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            databases: [Database::home(), Database::standby()],
            phase: Phase::Live(Leg::There),
            drawn: [0, 0],
            route: Leg::There.source_generation(),
            acknowledged: 0,
            committed: 0,
            aborted: 0,
            marker_seen: 0,
            wrong: None,
        }]
    }

    fn actions(&self, state: &State, events: &mut Vec<Event>) {
        self.control(state, events);
        self.statements(state, events);
        self.databases(state, events);
        if self.rules.lack(Rule::RouteHoldsClaim) && state.rests() && state.route > 1 {
            events.push(Event::Route(Leg::There));
        }
    }

    fn next_state(&self, before: &State, event: Event) -> Option<State> {
        let mut state = before.clone();
        self.apply(&mut state, event);
        for place in [Place::A, Place::B] {
            if state.at(place).generation < before.at(place).generation {
                state.mark(Wrong::GenerationShrank);
            }
            let unfenced = before.at(place).standing == Standing::Fenced
                && state.at(place).standing == Standing::Primary;
            if unfenced && before.is_old(place) {
                state.mark(Wrong::UnfencedAfterOpen);
            }
        }
        if state.route < before.route {
            state.mark(Wrong::GenerationShrank);
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
