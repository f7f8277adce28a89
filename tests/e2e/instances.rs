//! Sleeping sites cost no process, and wake without an error. Those that are replaced lose nothing.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use control_types::state::InstanceObserved;
use futures_util::future::{join_all, try_join, try_join_all};
use provisioner::control_db::ControlDb;
use provisioner_api::sites::CreateSite;
use sqlx::PgPool;
use tests::Stack;

use crate::site_life::{create, create_as, delete, request};

/// The site whose process is replaced, and its plan.
const SLUG: &str = "replaced";
/// People who write all the time meanwhile, and how often it is replaced.
const WRITERS: usize = 8;
const REPLACED: u32 = 4;

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

/// Each time that its plan changes, a site gets another process. Nobody's form is lost with a connection
/// that was kept: a router may not send one again.
pub async fn a_site_is_replaced_while_people_write(stack: &Stack) -> Result<()> {
    let control = ControlDb::new(&stack.control_database_url()?)?.pool;
    plan_of_its_own(&control).await?;
    let wanted = CreateSite { plan: SLUG.to_owned(), ..request(SLUG) };
    let origin = create_as(stack, &wanted).await?;
    let stop = AtomicBool::new(false);
    let writers = try_join_all((0..WRITERS).map(|_| write(stack, &origin, &stop)));
    let operator = async {
        let replaced = replace(stack, &control).await;
        stop.store(true, Ordering::SeqCst);
        replaced
    };
    let (written, ()) = try_join(writers, operator).await?;
    println!("{} forms were answered", written.iter().sum::<usize>());
    delete(stack, SLUG).await
}

async fn plan_of_its_own(control: &PgPool) -> Result<()> {
    sqlx::query(
        "insert into plan (name, display_name, max_upload_bytes, max_custom_domains, min_instances,
             requests_per_second, request_burst)
         values ($1, $1, 1048576, 0, 1, 100000, 100000)",
    )
    .bind(SLUG)
    .execute(control)
    .await?;
    Ok(())
}

/// Somebody who sends a form as soon as the last one was answered. How many there were.
async fn write(stack: &Stack, origin: &str, stop: &AtomicBool) -> Result<usize> {
    let visitor = stack.visitor()?;
    visitor.sign_in(origin, &format!("admin@{SLUG}.test"), "a-long-password-1").await?;
    let page = visitor.read(&format!("{origin}/")).await?;
    let mut n_answered = 0;
    while !stop.load(Ordering::SeqCst) {
        let fields = [("language", "id")];
        let answer = visitor.submit(origin, &page, "/language", &fields).await?;
        ensure!(answer.status().is_redirection(), "{}: {}", answer.status(), answer.text().await?);
        n_answered += 1;
    }
    Ok(n_answered)
}

async fn replace(stack: &Stack, control: &PgPool) -> Result<()> {
    let starts = async || -> Result<i32> {
        Ok(stack.api()?.site(SLUG).await?.instance.context("no instance")?.starts)
    };
    for _ in 0..REPLACED {
        let before = starts().await?;
        sqlx::query(
            "update plan set max_database_connections = max_database_connections + 1
             where name = $1",
        )
        .bind(SLUG)
        .execute(control)
        .await?;
        for attempt in 0.. {
            if starts().await? > before {
                break;
            }
            ensure!(attempt < 1500, "no other process comes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}
