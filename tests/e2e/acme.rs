//! Institutions' own hostnames with certificates of a public authority: the real provisioner asks a
//! real ACME server, the real routers answer its challenges.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use control_types::state::DomainState;
use provisioner_api::domains::{AddDomain, DomainDetail};
use rustix::process::{Pid, Signal, kill_process};
use tests::{Stack, dns_server::DnsServer, pebble::PebbleOptions};

use crate::{public::Public, site_life::create};

const NAMES: [&str; 3] = ["belajar.angkasa.test", "learn.angkasa.test", "angkasa.test"];
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn certificates_come_from_a_public_authority() -> Result<()> {
    let manners = PebbleOptions { bad_nonces: 33, sleep: 1, ..PebbleOptions::default() };
    let public = Public::start(manners).await?;
    let Public { stack, dns, pebble, https_port, .. } = &public;
    create(stack, "angkasa").await?;
    let visitor = pebble.visitor().await?;
    for (round, name) in NAMES.iter().enumerate() {
        add(stack, dns, name).await?;
        // A little later each time, so that another step of the order is hit.
        tokio::time::sleep(Duration::from_millis(400 * round as u64)).await;
        let provisioner = Pid::from_raw(stack.process("provisioner")?).context("no process")?;
        // It may be on its way back from the last time.
        let _ = kill_process(provisioner, Signal::KILL);
        active(stack, name).await?;
        let page = visitor.open(&format!("https://{name}:{https_port}/")).await?;
        ensure!(page.status().is_success() || page.status().is_redirection(), "{page:?}");
    }
    let renewed = stack.cli(&["certificate", "renew", "angkasa", NAMES[0]])?.ok()?;
    ensure!(renewed.stdout.contains(NAMES[0]), "{renewed:?}");
    // One more where a kill came between an order and its note; the authority cannot be asked then.
    let orders = pebble.orders()?;
    ensure!((NAMES.len()..=2 * NAMES.len() + 1).contains(&orders), "{orders} orders");
    public.stop().await
}

/// Claims a name that leads here already and shows its ownership.
async fn add(stack: &Stack, dns: &DnsServer, name: &str) -> Result<()> {
    dns.add_a(name, &["127.0.0.1"]).await?;
    let began = Instant::now();
    let claim = AddDomain { hostname: name.to_owned(), ..AddDomain::default() };
    let api = stack.api()?;
    loop {
        // The provisioner was killed a moment ago.
        match api.add_domain("angkasa", &claim).await {
            Ok(_) => break,
            Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    let records = api
        .check_domain("angkasa", name)
        .await?
        .check
        .map(|check| check.records)
        .unwrap_or_default();
    let record = records.iter().find(|record| record.name.starts_with("_ta3lem."));
    let wanted = record.and_then(|record| record.wanted.first()).context("no record to add")?;
    dns.add_txt(&format!("_ta3lem.{name}"), wanted).await?;
    api.check_domain("angkasa", name).await?;
    Ok(())
}

async fn active(stack: &Stack, name: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let domain = stack.api()?.domain("angkasa", name).await;
        let serves = |domain: &DomainDetail| {
            domain.state == DomainState::Active && domain.routed == Some(true)
        };
        if domain.as_ref().is_ok_and(serves) {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{name} has no certificate: {domain:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
