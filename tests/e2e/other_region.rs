//! A site opens at every region's address, and its traffic is readable at home only.

use anyhow::{Result, ensure};
use tests::Stack;

use crate::site_life::{create, delete};

pub async fn opens_at_every_address(stack: &Stack) -> Result<()> {
    let slug = "faraway";
    let home = create(stack, slug).await?;
    let away = stack.url(slug, "sg-singapore")?;
    ensure!(home != away);
    // The news of it may take a moment to the other region.
    let begun = std::time::Instant::now();
    let page = loop {
        match stack.visitor()?.read(&format!("{away}/")).await {
            Ok(page) => break page,
            Err(error) if begun.elapsed().as_secs() > 20 => return Err(error),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    };
    ensure!(page.contains("<html"), "{page}");
    let log = std::fs::read_to_string(stack.data_dir().join("logs/router-sg-singapore.log"))?;
    let read_there = log
        .lines()
        .any(|line| line.contains(&format!("{slug}.localhost")) && line.contains("\"path\""));
    ensure!(!read_there, "a request was decrypted in the other region");
    delete(stack, slug).await
}
