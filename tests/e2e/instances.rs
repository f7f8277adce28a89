//! Sleeping sites cost no process, and wake without an error.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use control_types::state::InstanceObserved;
use futures_util::future::join_all;
use tests::Stack;

use crate::site_life::{create, delete};

pub async fn a_sleeping_site_wakes_once(stack: &Stack) -> Result<()> {
    let origin = create(stack, "sleeper").await?;
    let api = stack.api()?;
    // Nobody came yet, so there is no process.
    let instance = api.site("sleeper").await?.instance.context("no instance")?;
    ensure!(instance.observed == InstanceObserved::Sleeping, "{instance:?}");
    ensure!(instance.process_id.is_none(), "{instance:?}");
    // Fifty come at once: all are answered, by one process.
    let visitors = (0..50).map(|_| async {
        let answer = stack.visitor()?.open(&format!("{origin}/")).await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        ensure!(answer.text().await?.contains("sleeper Academy"));
        Ok(())
    });
    join_all(visitors).await.into_iter().collect::<Result<()>>()?;
    let mut instance = api.site("sleeper").await?.instance.context("no instance")?;
    for _ in 0..100 {
        if instance.observed == InstanceObserved::Running {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        instance = api.site("sleeper").await?.instance.context("no instance")?;
    }
    ensure!(instance.observed == InstanceObserved::Running, "{instance:?}");
    ensure!(instance.starts == 1, "{instance:?}");
    // Killed, it comes back with the next visitor.
    let process = instance.process_id.context("no process")?;
    let pid = rustix::process::Pid::from_raw(process).context("no process")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    let visitor = stack.visitor()?;
    for attempt in 0..200 {
        // What the killed process had in its hands is lost; what comes later is not.
        if visitor.open(&format!("{origin}/")).await?.status() == 200 {
            break;
        }
        ensure!(attempt < 199, "the site does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    delete(stack, "sleeper").await?;
    let left = rustix::process::test_kill_process(pid);
    ensure!(left.is_err(), "the process is left");
    Ok(())
}
