//! State enums. Each mirrors a Postgres enum of the same name in `migrations/control`; a test
//! holds the two together.

use serde::{Deserialize, Serialize};

macro_rules! state {
    ($(#[$doc:meta])* $name:ident = $sql:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "sqlx", derive(sqlx::Type))]
        #[cfg_attr(feature = "sqlx", sqlx(type_name = $sql))]
        pub enum $name {
            $(
                $(#[$vdoc])*
                // Said for each: no rule makes `http_01` of `Http01`.
                #[cfg_attr(feature = "sqlx", sqlx(rename = $text))]
                #[serde(rename = $text)]
                $variant,
            )+
        }

        impl $name {
            /// The name of the Postgres enum.
            pub const SQL_TYPE: &'static str = $sql;
            /// All states, in the order of the Postgres enum.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The text that the database and the API use.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

state!(
    /// What a site is to the people who use it.
    ///
    /// ```text
    /// creating ──create_site──> active <──resume / suspend──> suspended
    ///    │                        └───────────┬──────────────────┘
    ///    │ (unwound)                     delete_site
    ///    v                                    v
    /// deleted <──grace period over──────── deleting ──cancel──> as before
    /// ```
    SiteState = "site_state" {
        /// `create_site` has not reached its pivot.
        Creating = "creating",
        /// Serves.
        Active = "active",
        /// Closed by an operator; everything is kept.
        Suspended = "suspended",
        /// `delete_site` runs or waits for the end of the grace period; everything is kept.
        Deleting = "deleting",
        /// Gone; the row stays as the record.
        Deleted = "deleted",
    }
);

state!(
    /// Whose a hostname is.
    DomainKind = "domain_kind" {
        /// `<slug>.<platform>`.
        Platform = "platform",
        /// A name of the institution's own.
        Custom = "custom",
    }
);

state!(
    /// How far a domain is on its way to serving.
    DomainState = "domain_state" {
        /// Claimed, ownership not shown yet.
        Pending = "pending",
        /// Ownership shown, no certificate yet.
        Verified = "verified",
        /// Serves.
        Active = "active",
        /// Given up; the row stays as a tombstone.
        Released = "released",
    }
);

state!(
    /// How it was shown that a hostname is the site's own.
    DomainProof = "domain_proof" {
        /// By a TXT record with the site's token.
        Txt = "txt",
        /// By a CNAME record to the site's platform hostname.
        Cname = "cname",
        /// An operator vouched for it.
        Vouched = "vouched",
    }
);

state!(
    /// What a placement is to its site.
    PlacementState = "placement_state" {
        /// An operation builds it.
        Preparing = "preparing",
        /// Serves the site.
        Current = "current",
        /// Served the site before and follows it still, so that it can come back without loss.
        Following = "following",
        /// Served the site once, or was unwound.
        Retired = "retired",
    }
);

state!(
    /// What the control plane wants of an instance.
    InstanceDesired = "instance_desired" {
        /// Listens on its socket and starts when a connection comes.
        Listening = "listening",
        /// Neither process nor socket.
        Absent = "absent",
    }
);

state!(
    /// What the runtime saw of an instance.
    InstanceObserved = "instance_observed" {
        /// Not looked yet.
        Unknown = "unknown",
        /// Neither process nor socket.
        Absent = "absent",
        /// The socket listens; no process.
        Sleeping = "sleeping",
        /// The process runs.
        Running = "running",
        /// The process ends at its start again and again; the runtime waits before the next try.
        Failing = "failing",
    }
);

state!(
    /// How a certificate authority checks that a hostname leads here.
    AcmeChallengeKind = "acme_challenge_kind" {
        /// A file below `/.well-known/acme-challenge/` (RFC 8555 section 8.3).
        Http01 = "http_01",
        /// A certificate for the protocol `acme-tls/1` (RFC 8737).
        TlsAlpn01 = "tls_alpn_01",
    }
);

state!(
    /// Where a certificate came from, which decides who renews it.
    CertificateSource = "certificate_source" {
        /// The platform's local authority.
        Local = "local",
        /// An authority by ACME.
        Acme = "acme",
        /// A person.
        Uploaded = "uploaded",
    }
);

state!(
    /// How far the certificate of a hostname is.
    ///
    /// ```text
    /// wanted ──> ordered ──> issued ──time to renew──> ordered
    ///   └──> failing <──┘
    /// ```
    CertificateOrderState = "certificate_order_state" {
        /// Nothing was ordered yet.
        Wanted = "wanted",
        /// An order is open at an authority.
        Ordered = "ordered",
        /// The last attempt failed; the next one has its time.
        Failing = "failing",
        /// There is a certificate, and a moment for its renewal.
        Issued = "issued",
    }
);

state!(
    /// Whose fault it is that a hostname has no new certificate: it decides who waits, and what
    /// people are told to do.
    CertificateFault = "certificate_fault" {
        /// The name's own: its DNS, its CAA records, where it leads. Another authority would say the
        /// same.
        Name = "name",
        /// Like `name`, found by one way to prove the name: another way may find otherwise.
        Proof = "proof",
        /// The authority's.
        Authority = "authority",
        /// The authority's server does not answer, or has no time.
        Unreachable = "unreachable",
        /// The authority wants us to wait, or our own budget is spent. Nobody's failure.
        Limited = "limited",
        /// Ours.
        Here = "here",
        /// Nobody's: the authority is not done yet. The order stays.
        Unfinished = "unfinished",
    }
);

state!(
    /// What an operation does to its site.
    OperationKind = "operation_kind" {
        /// From nothing to a serving site.
        CreateSite = "create_site",
        /// From a site to nothing, with a grace period.
        DeleteSite = "delete_site",
        /// To another cluster, mostly in another region, while people use it.
        MoveSite = "move_site",
        /// Back to where the site was before its last move.
        MoveSiteBack = "move_site_back",
        /// Removes what a site left where it was before, when nobody may want it back any more.
        RetirePlacement = "retire_placement",
        /// A site that shows another one as it was at some moment.
        CreatePreview = "create_preview",
        /// A site as it was at some moment becomes the site.
        RestoreSite = "restore_site",
        /// A site as it was before it was put back becomes the site again.
        UndoRestore = "undo_restore",
    }
);

state!(
    /// What is kept of an operation for those who must prove something.
    RecordKind = "record_kind" {
        /// That a move brought all of a site to where it is.
        MoveCertificate = "move_certificate",
        /// What was removed of a site, and where.
        DeletionRecord = "deletion_record",
    }
);

state!(
    /// Where an operation stands.
    ///
    /// ```text
    /// queued -> running ──all steps done──> succeeded
    ///             ├─ failed or cancelled before the pivot -> unwinding -> failed | cancelled
    ///             └─ failed after the pivot, or an undo failed -> stuck ──a human──> running
    /// ```
    OperationState = "operation_state" {
        /// Recorded; no step has begun.
        Queued = "queued",
        /// Goes forward.
        Running = "running",
        /// Goes backward: undoes what was done.
        Unwinding = "unwinding",
        /// Cannot go on without a human.
        Stuck = "stuck",
        /// All steps are done.
        Succeeded = "succeeded",
        /// Unwound after an error.
        Failed = "failed",
        /// Unwound on request.
        Cancelled = "cancelled",
    }
);

impl OperationState {
    /// Whether nothing more happens.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

state!(
    /// What was noted of a step.
    StepEvent = "step_event" {
        /// An attempt began.
        Started = "started",
        /// The step is done.
        Succeeded = "succeeded",
        /// The step waits for something elsewhere.
        Waiting = "waiting",
        /// An attempt failed and will be tried again.
        Retried = "retried",
        /// The step cannot be done.
        Failed = "failed",
        /// Undoing began.
        UndoStarted = "undo_started",
        /// The step is undone.
        Undone = "undone",
        /// An attempt to undo failed and will be tried again.
        UndoFailed = "undo_failed",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_what_serde_writes() {
        for state in OperationState::ALL {
            let json = serde_json::to_string(state).expect("serialises");
            assert_eq!(json, format!("\"{}\"", state.as_str()));
        }
    }
}
