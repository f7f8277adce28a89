//! The databases of a site, and the statements that the protocol sends them. Each statement is one
//! transaction in one database: its condition is what its `where` says, and whoever sends it learns
//! nothing by sending it but whether it took effect.

use crate::rules::{Rule, Rules};

/// A number of an attempt. They are drawn from the control database under the operation's claim, for
/// a site and not for an operation, so that each is above all that were there before.
pub type Number = u8;

/// The generation of a placement.
pub type Generation = u8;

/// One of the two places that the site moves between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Where it is at first.
    A,
    /// Where it moves to.
    B,
}

/// What the authority row says of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The site's home.
    Primary,
    /// It was the home; a move is under way or went through.
    Fenced,
    /// It follows the home.
    Standby,
    /// It follows, and the attempt of that number cannot open it any more.
    Aborted,
}

/// A row of the stream of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    /// What a user wrote.
    Write(u8),
    /// The end of the stream, as the attempt of this number saw it.
    Marker(Number),
}

/// A site's database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    /// What the authority row says.
    pub standing: Standing,
    /// The generation that it has, or would open with.
    pub generation: Generation,
    /// The highest number that it was told.
    pub seen: Number,
    /// Whether the attempt of that number may fence it.
    pub armed: bool,
    /// Whether the app's role is in the group that writes.
    pub may_write: bool,
    /// What was committed, in order.
    pub rows: Vec<Row>,
    /// How much of that a crash leaves: what replication applies is not flushed by itself.
    pub flushed: usize,
    /// The writes of transactions that are open, as bits.
    pub open_writes: u8,
}

/// The way of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leg {
    /// From A to B.
    There,
    /// From B to A.
    Back,
}

/// A statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// In the source: the attempt may fence.
    ArmSource,
    /// In the target: the attempt may open.
    ArmTarget,
    /// In the source: nobody writes from here on.
    Fence,
    /// In the source: nothing is in flight any more; the marker is the last row.
    Barrier,
    /// In the target: it is the home. The commit point.
    Open,
    /// In the target: the attempt, and all before it, can never open it.
    Abort,
    /// In the source: it is the home again, and the attempt cannot fence it.
    Unfence,
}

/// All of them, in the order in which a move without mishap sends the first five.
pub const STATEMENTS: [Statement; 7] = [
    Statement::ArmSource,
    Statement::ArmTarget,
    Statement::Fence,
    Statement::Barrier,
    Statement::Open,
    Statement::Abort,
    Statement::Unfence,
];

impl Place {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl Leg {
    /// Where the site moves from.
    pub fn source(self) -> Place {
        match self {
            Self::There => Place::A,
            Self::Back => Place::B,
        }
    }

    /// The generation that the source has.
    pub fn source_generation(self) -> Generation {
        match self {
            Self::There => 0,
            Self::Back => 1,
        }
    }

    /// The database that a statement goes to.
    pub fn place_of(self, statement: Statement) -> Place {
        match statement {
            Statement::ArmSource | Statement::Fence | Statement::Barrier | Statement::Unfence => {
                self.source()
            }
            Statement::ArmTarget | Statement::Open | Statement::Abort => self.source().other(),
        }
    }
}

impl Database {
    /// The home before the first move.
    pub fn home() -> Self {
        Self {
            standing: Standing::Primary,
            generation: Leg::There.source_generation(),
            seen: 0,
            armed: false,
            may_write: true,
            rows: Vec::new(),
            flushed: 0,
            open_writes: 0,
        }
    }

    /// The target of the first move, ready and following.
    pub fn standby() -> Self {
        Self {
            standing: Standing::Standby,
            generation: Leg::There.source_generation() + 1,
            may_write: false,
            ..Self::home()
        }
    }

    /// Whether it is or was the home of its generation.
    pub fn was_opened(&self) -> bool {
        matches!(self.standing, Standing::Primary | Standing::Fenced)
    }

    /// Whether a write is in it.
    pub fn holds(&self, write: u8) -> bool {
        self.rows.contains(&Row::Write(write))
    }

    /// Whether the marker of an attempt is in it.
    pub fn has_marker(&self, number: Number) -> bool {
        self.rows.contains(&Row::Marker(number))
    }

    /// Whether it follows the other database.
    pub fn follows(&self, other: &Self) -> bool {
        match self.standing {
            Standing::Standby | Standing::Aborted => true,
            Standing::Fenced => other.was_opened() && other.generation > self.generation,
            Standing::Primary => false,
        }
    }

    /// Once the other database has opened, the old home becomes the target of the way back: with the first
    /// thing that it hears of it.
    fn follow(&mut self, leg: Leg) {
        if self.standing == Standing::Fenced && self.generation < leg.source_generation() {
            self.standing = Standing::Standby;
            self.generation = leg.source_generation() + 1;
            self.armed = false;
        }
    }

    /// Does what the statement says if its condition holds.
    pub fn run(&mut self, statement: Statement, leg: Leg, number: Number, rules: Rules) {
        let generation = match self.is_target(statement) {
            true => leg.source_generation() + 1,
            false => leg.source_generation(),
        };
        if matches!(statement, Statement::ArmTarget | Statement::Abort) {
            self.follow(leg);
        }
        if self.generation != generation {
            return;
        }
        let marker = match rules.lack(Rule::MarkerNamesItsAttempt) {
            true => leg.source_generation() + 1,
            false => number,
        };
        match statement {
            Statement::ArmSource => self.arm_source(number, rules),
            Statement::ArmTarget => self.arm_target(number, rules),
            Statement::Fence => {
                let named = self.armed && self.seen == number;
                if self.standing == Standing::Primary
                    && (named || rules.lack(Rule::FenceNamesItsAttempt))
                {
                    self.standing = Standing::Fenced;
                    self.may_write = false;
                    self.flushed = self.rows.len();
                }
            }
            Statement::Barrier => {
                let ended = self.open_writes == 0 || rules.lack(Rule::BarrierWaits);
                if self.standing == Standing::Fenced
                    && self.seen == number
                    && ended
                    && !self.has_marker(marker)
                {
                    self.rows.push(Row::Marker(marker));
                    self.flushed = self.rows.len();
                }
            }
            Statement::Open => {
                let arrived = self.has_marker(marker)
                    || rules.lack(Rule::OpenWaitsForMarker)
                    || rules.lack(Rule::OpenReadsMarkerItself);
                if self.standing == Standing::Standby && self.seen == number && arrived {
                    self.standing = Standing::Primary;
                    self.may_write = true;
                    self.flushed = self.rows.len();
                }
            }
            Statement::Abort => {
                let covered = match rules.lack(Rule::AbortCoversOlder) {
                    true => self.seen == number,
                    false => self.seen <= number,
                };
                if matches!(self.standing, Standing::Standby | Standing::Aborted) && covered {
                    self.standing = Standing::Aborted;
                    self.seen = number;
                }
            }
            Statement::Unfence => self.unfence(number, rules),
        }
    }

    fn is_target(&self, statement: Statement) -> bool {
        matches!(statement, Statement::ArmTarget | Statement::Open | Statement::Abort)
    }

    fn arm_source(&mut self, number: Number, rules: Rules) {
        let fresh = number > self.seen || rules.lack(Rule::NumbersGrowAtSource);
        if self.standing == Standing::Primary && fresh {
            self.seen = number;
            self.armed = true;
        }
    }

    fn arm_target(&mut self, number: Number, rules: Rules) {
        let fresh = number > self.seen || rules.lack(Rule::NumbersGrowAtTarget);
        if matches!(self.standing, Standing::Standby | Standing::Aborted) && fresh {
            self.standing = Standing::Standby;
            self.seen = number;
        }
    }

    fn unfence(&mut self, number: Number, rules: Rules) {
        let covered = match rules.lack(Rule::AbortCoversOlder) {
            true => self.seen == number,
            false => self.seen <= number,
        };
        let standing = match self.standing {
            Standing::Fenced => true,
            Standing::Primary => !rules.lack(Rule::UnfenceDisarms),
            Standing::Standby | Standing::Aborted => false,
        };
        if standing && covered {
            self.standing = Standing::Primary;
            self.may_write = true;
            self.seen = number;
            self.armed = false;
        }
    }
}
