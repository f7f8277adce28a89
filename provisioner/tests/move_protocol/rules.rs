//! The rules that make the protocol safe, each of which the model can do without: so a test can show
//! that the check finds what happens then.

/// A rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The source is un-fenced only by who has won the abort in the target.
    AbortBeforeUnfence,
    /// The fence falls only for the attempt that the source is armed for.
    FenceNamesItsAttempt,
    /// The target opens only once the marker has arrived.
    OpenWaitsForMarker,
    /// The statement that opens the target looks for the marker itself: that it was seen before is
    /// not enough, since what replication applied is lost in a crash and comes again.
    OpenReadsMarkerItself,
    /// The marker bears the attempt's number, and not only the generation that it opens.
    MarkerNamesItsAttempt,
    /// The marker is written only once no transaction is open that may have written before the fence.
    BarrierWaits,
    /// The source is armed only for numbers that it has not seen.
    NumbersGrowAtSource,
    /// The target is armed only for numbers that it has not seen.
    NumbersGrowAtTarget,
    /// Un-fencing a source that is not fenced (yet) takes the attempt its right to fence it.
    UnfenceDisarms,
    /// An unwound operation ends only once the source has been told the last number, even if nothing
    /// was fenced.
    UnwindTellsSource,
    /// An abort, and the un-fencing after it, holds for all earlier numbers too.
    AbortCoversOlder,
    /// The route changes only once the target is the home.
    RouteFollowsOpen,
    /// The route changes only under the claim of a live operation.
    RouteHoldsClaim,
}

/// The rules that hold: all, or all but some.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Those that do not.
    pub without: &'static [Rule],
}

impl Rules {
    /// Whether one does not hold.
    pub fn lack(self, rule: Rule) -> bool {
        self.without.contains(&rule)
    }
}
