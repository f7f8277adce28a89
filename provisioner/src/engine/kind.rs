//! What a kind of operation is: a list of steps, how to do each, how to undo each.

use std::{fmt, time::Duration};

use control_types::{OperationId, SiteId, state::OperationKind};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{PgConnection, Postgres, Transaction};

use crate::{
    control_db::{
        clusters::{NoCluster, PlaceError},
        object_stores::NoObjectStore,
    },
    engine::{Claim, ClaimError, decide::Shape, signs::Signs},
    secrets::SecretError,
    site_database::SiteDatabaseError,
    site_storage::{CopyError, SiteStorageError},
    world::World,
};

/// What a step that did not fail says.
#[derive(Debug)]
pub enum Flow {
    /// Its effect is there.
    Done,
    /// Its effect is there, and whoever reads the log should know this.
    Noted(String),
    /// It waits for something elsewhere; try again then. Nothing is held meanwhile.
    Wait {
        /// How long.
        pause: Duration,
        /// For what, in words.
        reason: String,
    },
}

/// Why a step did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Try again, however often: the cause is elsewhere and passes.
    #[error("{0:#}")]
    Retry(anyhow::Error),
    /// It cannot be done. Promises that nothing of the step's effect is there, or that its undo
    /// removes it.
    #[error("{0:#}")]
    Fail(anyhow::Error),
    /// Somebody else drives the operation now.
    #[error("the claim was lost")]
    LostClaim,
}

impl StepError {
    /// A failure in words.
    pub fn fail(message: impl fmt::Display) -> Self {
        Self::Fail(anyhow::anyhow!("{message}"))
    }
}

/// The control database is ours alone: whatever it says other than that we broke one of its rules
/// passes.
impl From<sqlx::Error> for StepError {
    fn from(error: sqlx::Error) -> Self {
        let broken_rule = error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| code.starts_with("23"));
        let error = anyhow::Error::new(error).context("control database");
        if broken_rule { Self::Fail(error) } else { Self::Retry(error) }
    }
}

impl From<ClaimError> for StepError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Lost => Self::LostClaim,
            ClaimError::Database(error) => error.into(),
        }
    }
}

/// What a cluster, an object store or the choice among them says: each knows whether it passes.
macro_rules! retryable_or_not {
    ($($error:ty),*) => {$(
        impl From<$error> for StepError {
            fn from(error: $error) -> Self {
                let component = error.component();
                let passes = error.is_retryable();
                let error = anyhow::Error::new(error).context(component);
                if passes { Self::Retry(error) } else { Self::Fail(error) }
            }
        }
    )*};
}
retryable_or_not!(SiteDatabaseError, SiteStorageError, CopyError, NoCluster, NoObjectStore);

impl From<PlaceError> for StepError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Control(error) => error.into(),
            PlaceError::SiteDatabase(error) => error.into(),
            PlaceError::SiteStorage(error) => error.into(),
            error => Self::Fail(error.into()),
        }
    }
}

impl From<SecretError> for StepError {
    fn from(error: SecretError) -> Self {
        Self::Fail(error.into())
    }
}

/// What a step says.
pub type StepResult = Result<Flow, StepError>;

/// A kind of operation.
pub trait Kind: Sized + Send + Sync + 'static {
    /// Which one.
    const KIND: OperationKind;
    /// Raised whenever [`Kind::STEPS`] changes.
    const PLAN_VERSION: i32;
    /// Its steps, as an enum without data. Stored and shown by its name.
    type Step: Copy + fmt::Debug + PartialEq + Serialize + Send + Sync;
    /// What was asked for. Never changes.
    type Params: Serialize + DeserializeOwned + Send + Sync;
    /// What later steps must know of earlier ones.
    type Progress: Serialize + DeserializeOwned + Default + Send + Sync;
    /// All steps, in order.
    const STEPS: &'static [Self::Step];
    /// The step after whose beginning there is no way back.
    const PIVOT: Option<Self::Step>;
    /// How long one step before the pivot may be tried or wait until the operation gives up and
    /// unwinds; `None` for ever.
    const PATIENCE: Option<Duration>;

    /// What a step does, in words, for a dry run.
    fn describe(step: Self::Step, params: &Self::Params) -> String;
    /// Makes the step's effect be there.
    fn forward(step: Self::Step, cx: &mut Cx<'_, Self>) -> impl Future<Output = StepResult> + Send;
    /// Makes the step's effect not be there, whether or not it was.
    fn undo(step: Self::Step, cx: &mut Cx<'_, Self>) -> impl Future<Output = StepResult> + Send;

    /// The list of steps, as far as deciding needs it.
    fn shape() -> Shape {
        Shape {
            n_steps: Self::STEPS.len(),
            pivot: Self::PIVOT.and_then(|pivot| Self::STEPS.iter().position(|s| *s == pivot)),
        }
    }
}

/// The name of a step, as stored and shown.
pub fn step_name(step: impl Serialize) -> String {
    match serde_json::to_value(step) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "?".to_owned(),
    }
}

/// What a kind is, for those who only show it.
#[derive(Clone, Debug)]
pub struct PlannedOperation {
    /// Names of the steps.
    pub steps: Vec<String>,
    /// The list, as far as deciding needs it.
    pub shape: Shape,
    /// The version of the list.
    pub plan_version: i32,
}

impl PlannedOperation {
    /// Of kind `K`.
    pub fn of<K: Kind>() -> Self {
        Self {
            steps: K::STEPS.iter().map(step_name).collect(),
            shape: K::shape(),
            plan_version: K::PLAN_VERSION,
        }
    }
}

/// What a step gets.
pub struct Cx<'a, K: Kind> {
    /// Everything that effects are made with.
    pub world: &'a World,
    /// The operation.
    pub operation: OperationId,
    /// The site.
    pub site: SiteId,
    /// What was asked for.
    pub params: K::Params,
    /// What earlier steps noted; saved with the step's event.
    pub progress: K::Progress,
    /// The right to drive the operation.
    pub claim: &'a Claim,
    /// What the step gives signs of life with, if it takes long.
    pub signs: Signs,
}

impl<K: Kind> Cx<'_, K> {
    /// A transaction on the control database that only commits while the operation is still ours.
    ///
    /// # Errors
    /// When it is not, or the database does not answer.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, StepError> {
        let mut tx = self.world.db.pool.begin().await?;
        self.claim.check(&mut tx).await?;
        Ok(tx)
    }

    /// Tells those who follow the operation how far a long step is.
    ///
    /// # Errors
    /// When the operation is not ours any more, or the database does not answer.
    pub async fn tell(&self, far: &str) -> Result<(), StepError> {
        let mut tx = self.begin().await?;
        sqlx::query!(
            "insert into operation_event (operation_id, seq, step, event, attempt, detail)
             select $1, max(seq) + 1, (array_agg(step order by seq desc))[1], 'waiting', max(attempt),
                    jsonb_build_object('reason', $2::text)
             from operation_event where operation_id = $1 having count(*) > 0",
            self.operation.0,
            far
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        self.signs.give();
        Ok(())
    }

    /// Saves the progress before the step's effect, for effects that must be found again after a
    /// crash. Part of `connection`'s transaction.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn save_progress(&self, connection: &mut PgConnection) -> Result<(), StepError> {
        let progress = serde_json::to_value(&self.progress)
            .map_err(|error| StepError::Fail(anyhow::Error::new(error)))?;
        sqlx::query!(
            "update operation set progress = $2 where id = $1",
            self.operation.0,
            progress
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
