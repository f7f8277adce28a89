//! A site as it was, beside others on the same cluster: how long until it can be looked at, what others
//! notice of that, and how long it is held when it is put back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use provisioner_api::{
    operations::Operation, previews::CreatePreview, sites::ChangeMove, sites::DeleteSite,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    figures::{line, p99},
    ledger,
    platform::{Platform, Span},
};

/// Previews of each size.
const OF_EACH: usize = 3;
/// Without any, before each size.
const CALM: Duration = Duration::from_secs(30);
const NEIGHBOUR: &str = "neighbour";

/// With this many other sites on the cluster, and sites of these sizes.
pub async fn measure(platform: &Platform, others: u64, sizes: &[(&str, u64)]) -> Result<()> {
    for number in 0..others {
        platform.create(&format!("other-{number}"), 0).await?;
    }
    for (slug, bytes) in sizes {
        platform.create(slug, 0).await?;
        platform.fill(slug, *bytes).await?;
    }
    platform.create(NEIGHBOUR, 2).await?;
    let load = ledger::begin(platform, NEIGHBOUR, 2, 2).await?;
    let (mut calm, mut busy) = (Vec::new(), Vec::new());
    for (slug, _) in sizes {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let from = Instant::now();
        tokio::time::sleep(CALM).await;
        calm.push((from, Instant::now()));
        let mut took = Vec::new();
        for number in 0..OF_EACH {
            let (time, span, preview) = preview(platform, slug).await?;
            took.push(time);
            busy.push(span);
            if number + 1 == OF_EACH {
                put_back(platform, slug, &preview).await?;
            }
            let delete = DeleteSite { grace_period_secs: Some(0), ..DeleteSite::default() };
            let gone = platform.api.delete_site(&preview, &delete, &key()).await?;
            platform.ended(&gone.operation).await?;
        }
        println!("{}", line(&format!("a preview of {slug} beside {others} others"), &took));
    }
    let outcome = load.end(platform, NEIGHBOUR).await?;
    for (what, seen) in [("a write", &outcome.writes), ("a page", &outcome.reads)] {
        let (calm, busy) = (seen.within(&calm), seen.within(&busy));
        println!("{}", line(&format!("{what} of a neighbour"), &calm));
        println!("{}", line(&format!("{what} of a neighbour during a restore"), &busy));
        let ratio = p99(&busy).as_secs_f64() / p99(&calm).as_secs_f64();
        println!("  p99: {ratio:.2} times as long (bar: 1.2)");
    }
    outcome.judge()
}

fn key() -> String {
    Uuid::new_v4().to_string()
}

/// A preview of a moment ago: how long it took, and its name.
async fn preview(platform: &Platform, slug: &str) -> Result<(Duration, Span, String)> {
    let at = Some(OffsetDateTime::now_utc() - Duration::from_secs(1));
    let wanted = CreatePreview { at, ..CreatePreview::default() };
    let from = Instant::now();
    let accepted = platform.api.create_preview(slug, &wanted, &key()).await?;
    let ended = platform.ended(&accepted.operation).await?;
    let span = (from, Instant::now());
    let took = ended.finished_at.context("it did not end")? - ended.created_at;
    println!("{slug}: {}", note(platform, &ended, "restore_database").await?);
    Ok((Duration::try_from(took)?, span, accepted.preview.slug.to_string()))
}

/// The site becomes what the preview shows.
async fn put_back(platform: &Platform, slug: &str, preview: &str) -> Result<()> {
    let change = ChangeMove::default();
    let accepted = platform.api.promote_preview(preview, &change, &key()).await?;
    let ended = platform.ended(&accepted.operation).await?;
    println!("{slug} put back: {}", note(platform, &ended, "switch").await?);
    platform.settle(slug).await
}

/// What a step noted at its end.
async fn note(platform: &Platform, operation: &Operation, step: &str) -> Result<String> {
    let news = platform.api.operation_news(operation.id, 0, Duration::ZERO).await?;
    let of_step = news.events.iter().filter(|event| event.step == step);
    let mut notes = of_step.filter_map(|event| event.detail.as_ref()?["note"].as_str());
    Ok(notes.next_back().context("nothing was noted")?.to_owned())
}
