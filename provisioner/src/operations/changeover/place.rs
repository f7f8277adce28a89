//! What a place needs besides its database and files before the site can be there: certificates of
//! its region and an instance.

use std::time::Duration;

use anyhow::Context as _;
use control_types::{Hostname, InstanceId, Upstream, hostname::is_right_below};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use uuid::Uuid;

use super::{Side, Sides};
use crate::{
    acme::schedule::TAKE_OVER,
    control_db::{
        certificate_orders,
        certificates::{self, NewCertificate},
        domains,
        instances::{self, Awaited, Whose},
    },
    engine::{Cx, Flow, Kind, StepError, StepResult},
};

/// How long to wait inside a step for the runtime, before the operation is put aside.
const RUNTIME: Duration = Duration::from_secs(3);
/// How long an instance may take to answer for the first time.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Every certificate that serves now is sealed once more, for the new region. So all are there before
/// the switch, whoever issued them; renewing them is for those who do that anyway.
pub async fn copy_certificates<K: Kind>(sides: &Sides, cx: &Cx<'_, K>) -> StepResult {
    let (from, to) = (&sides.source.placement.region, &sides.target.placement.region);
    if from == to {
        return Ok(Flow::Done);
    }
    let world = cx.world;
    let platform = world.platform_domain.as_str();
    let mut tx = cx.begin().await?;
    let soon = OffsetDateTime::now_utc() + TAKE_OVER;
    let has_wildcard = certificates::has_wildcard(&mut tx, platform, to, soon).await?;
    let mut missing = Vec::new();
    for hostname in domains::of_site(&mut tx, cx.site).await? {
        if certificates::holds(&mut tx, &hostname, to, soon).await? {
            continue;
        }
        if let Some(held) = certificates::sealed(&mut tx, &hostname, from).await? {
            let key = world.keys.open_certificate_key(from, held.id, &held.sealed_key)?;
            let id = Uuid::now_v7();
            let certificate = NewCertificate {
                id,
                site: Some(cx.site),
                hostname: &hostname,
                region: to,
                issuer: &held.held.issuer,
                source: held.held.source,
                chain_pem: &held.held.chain_pem,
                sealed_key: &world.keys.seal_certificate_key(to, id, &key)?,
                not_before: held.held.not_before,
                not_after: held.held.not_after,
            };
            certificates::put(&mut tx, &certificate).await?;
        } else if has_wildcard && is_right_below(&hostname, platform) {
            // The wildcard of the new region serves it.
        } else if world.acme_for(&hostname).is_none() {
            let hostname: Hostname = hostname.parse().map_err(StepError::fail)?;
            let certified = world.certify(&mut tx, &hostname, Some(cx.site), to).await;
            certified
                .with_context(|| format!("certificate for {hostname}"))
                .map_err(StepError::Retry)?;
        } else {
            certificate_orders::want(&mut tx, cx.site, &hostname, to).await?;
            missing.push(hostname);
        }
    }
    tx.commit().await?;
    if missing.is_empty() {
        return Ok(Flow::Done);
    }
    if let Some(acme) = &world.acme {
        acme.nudge();
    }
    let reason = format!("certificates in {to} for {}", missing.join(", "));
    Ok(Flow::Wait { pause: Duration::from_secs(1), reason })
}

/// Lets an instance listen at a place.
pub async fn start_instance<K: Kind>(place: &Side, cx: &Cx<'_, K>) -> StepResult {
    let mut tx = cx.begin().await?;
    let id = InstanceId(place.placement.id);
    instances::insert(&mut tx, id, cx.site, place.placement.id).await?;
    tx.commit().await?;
    let whose = Whose::Placement(place.placement.id);
    cx.world.await_instances(whose, Awaited::Listening, RUNTIME).await
}

/// Takes it away.
pub async fn remove_instance<K: Kind>(place: &Side, cx: &Cx<'_, K>) -> StepResult {
    let whose = Whose::Placement(place.placement.id);
    let mut tx = cx.begin().await?;
    instances::want_absent(&mut tx, whose).await?;
    tx.commit().await?;
    let flow = cx.world.await_instances(whose, Awaited::Absent, RUNTIME).await?;
    if matches!(flow, Flow::Done) {
        let mut tx = cx.begin().await?;
        instances::delete(&mut tx, whose).await?;
        tx.commit().await?;
    }
    Ok(flow)
}

/// Wakes the instance of a place and lets it make itself ready (`/readyz` opens connections and reads
/// templates), so that nobody waits for that after the moment of the switch. One that does not wake is
/// woken by the first request.
pub async fn warm<K: Kind>(place: &Side, cx: &Cx<'_, K>) -> Result<(), StepError> {
    let address = instances::address(&cx.world.db.pool, place.placement.id).await?;
    let Some(address) = address.and_then(|address| address.parse::<Upstream>().ok()) else {
        return Err(StepError::Retry(anyhow::anyhow!("no instance listens at the new place")));
    };
    let asked = async {
        match address {
            Upstream::Unix(path) => ask(UnixStream::connect(path).await?).await,
            Upstream::Tcp(address) => ask(TcpStream::connect(address).await?).await,
        }
    };
    match tokio::time::timeout(FIRST_ANSWER, asked).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("the instance at the new place does not wake: {error}"),
        Err(_) => tracing::warn!("the instance at the new place does not wake in time"),
    }
    Ok(())
}

/// Any answer will do.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<()> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: warm\r\nconnection: close\r\n\r\n").await?;
    let mut first = [0; 1];
    stream.read_exact(&mut first).await.map(drop)
}
