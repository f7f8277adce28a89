//! Whoever is killed while a preview is made: it is there in the end, and nothing else.

use anyhow::{Context, Result, ensure};
use control_types::state::OperationState;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use super::{Ground, PAUSE, REGION};

/// Who is killed, and when the operation has reached what.
const KILLS: &[(&str, &str)] = &[
    ("keeper", "restore_database"),
    ("provisioner", "restore_database"),
    ("provisioner", "adopt_database"),
    ("provisioner", "publish_route"),
];

impl Ground {
    pub async fn whoever_is_killed(&self) -> Result<()> {
        for (who, step) in KILLS {
            self.killed(who, step).await.with_context(|| format!("{who} killed at {step}"))?;
        }
        Ok(())
    }

    async fn killed(&self, who: &str, step: &str) -> Result<()> {
        let component = match who {
            "keeper" => format!("keeper-{REGION}"),
            other => other.to_owned(),
        };
        let before = self.stack.process(&component)?;
        let id = self.begin().await?;
        self.reaches(&id, step).await?;
        if who == "keeper" {
            self.keeper_works(&id).await?;
        }
        kill_process(Pid::from_raw(before).context("no process")?, Signal::KILL)?;
        let ended = self.ended(&id).await?;
        ensure!(
            ended.state == OperationState::Succeeded,
            "it ended {}: {:?}",
            ended.state,
            ended.last_error
        );
        while self.stack.process(&component)? == before {
            sleep(PAUSE).await;
        }
        let previews = self.stack.api()?.previews().await?;
        let preview = previews.first().context("no preview")?;
        let (visitor, origin) = self.guest(preview).await?;
        visitor.read(&format!("{origin}/courses")).await?;
        self.remove(preview).await
    }

    /// Waits until the keeper has a directory for the order.
    async fn keeper_works(&self, id: &str) -> Result<()> {
        let directory =
            self.stack.data_dir().join("keepers").join(REGION).join("restores").join(id);
        loop {
            if directory.exists() || self.operation(id).await?.state.is_final() {
                return Ok(());
            }
            sleep(PAUSE / 5).await;
        }
    }
}
