//! Many names, three real routers, two real provisioners that are killed again and again, and an
//! authority with bad manners: every name gets its certificate, and none is ordered twice unless it
//! is said.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use provisioner_api::{client::Client, places};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tests::pebble::{Pebble, PebbleOptions};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    control::{Control, REGION},
    postgres::execute,
    processes::{Provisioner, Router, Routers},
    witness::{Deed, Order, Witness},
};

/// So long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(180);
/// What the authority does when a provisioner is killed, in turn.
const MOMENTS: [Deed; 4] =
    [Deed::TookOrder, Deed::LooksAtChallenge, Deed::Issues, Deed::GaveCertificate];

/// What came of it, as seen at the authority.
#[derive(Debug, Default)]
pub struct Figures {
    n_names: usize,
    n_kills: usize,
    took: Duration,
    /// Orders by which a certificate was issued.
    n_issued: usize,
    /// Orders that the authority gave up, as it could not see the challenge.
    n_unproven: usize,
    /// Orders that nobody ever came back to.
    n_lost: usize,
    /// Second orders that the provisioners say may be too many.
    n_unsure: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_names, n_kills, took, n_issued, n_unproven, n_lost, n_unsure } = self;
        write!(
            f,
            "{n_names} names in {:.1} s with {n_kills} kills; orders at the authority: {n_issued} \
             issued, {n_unproven} not proven, {n_lost} lost ({n_unsure} said to be \
             possibly lost)",
            took.as_secs_f64()
        )
    }
}

struct Stage {
    control: Control,
    witness: Witness,
    pebble: Pebble,
    routers: Routers,
    provisioners: [Provisioner; 2],
    names: Vec<String>,
    _folder: tempfile::TempDir,
}

pub async fn all_are_issued_once(n_names: usize, n_kills: usize) -> Result<Figures> {
    let mut stage = Stage::set(n_names).await?;
    let began = Instant::now();
    for number in 0..n_kills {
        let n_orders = n_names * (number + 1) / (n_kills + 2);
        let moment = MOMENTS[number % MOMENTS.len()];
        let witness = &stage.witness;
        let happens = async {
            witness.until(Deed::TookOrder, n_orders).await;
            witness.until(moment, witness.n(moment) + 1).await;
        };
        let happened = timeout(PATIENCE, happens).await;
        let said = || stage.provisioners.each_ref().map(|one| one.program.last_said());
        happened.with_context(|| format!("before kill {number} at {moment:?}: {:#?}", said()))?;
        stage.provisioners[number % 2].program.kill_and_start()?;
    }
    stage.until_all_issued().await?;
    let took = began.elapsed();
    for provisioner in &mut stage.provisioners {
        // One that was just started would not hear of it.
        provisioner.url().await?;
        let status = provisioner.program.stop().await?;
        ensure!(status.success(), "{status}: {}", provisioner.program.said());
    }
    let orders = stage.witness.orders();
    let n_unsure = stage.window_is_shown().await?;
    stage.nothing_is_left(orders.len()).await?;
    stage.routers_serve().await?;
    stage.routers_answered().await?;
    let figures = Figures { n_names, n_kills, took, n_unsure, ..Figures::default() };
    stage.count(&orders, figures).await
}

impl Stage {
    async fn set(n_names: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("t").tempdir_in("/tmp")?;
        let settings = "log_statement = 'none'\nlog_min_duration_statement = -1\n\
                        max_connections = 300\nfsync = off";
        let control = Control::start(settings).await;
        let routers = Routers::start(&control, &folder.path().join("r")).await?;
        let manners = PebbleOptions { bad_nonces: 20, sleep: 3, reuse: 50, binding: None };
        let dns = control.dns.address;
        let pebble = Pebble::start(dns, routers.https_port, routers.http_port, manners).await?;
        let witness = Witness::start(&pebble).await;
        let mut first = Provisioner::start(&control, &witness, &folder.path().join("a"))?;
        register(&mut first, &routers).await?;
        let names = wanted(&control, &routers, n_names).await?;
        let second = Provisioner::start(&control, &witness, &folder.path().join("b"))?;
        let provisioners = [first, second];
        Ok(Self { control, witness, pebble, routers, provisioners, names, _folder: folder })
    }

    async fn count_rows(&self, sql: &'static str) -> Result<usize> {
        let n: i64 = sqlx::query_scalar(sql).fetch_one(&self.control.pool).await?;
        Ok(usize::try_from(n)?)
    }

    async fn until_all_issued(&self) -> Result<()> {
        let (mut n_before, mut since) = (0, Instant::now());
        loop {
            let sql = "select count(*) from domain where state = 'active'";
            let n = self.count_rows(sql).await?;
            if n == self.names.len() {
                return Ok(());
            }
            if n > n_before {
                (n_before, since) = (n, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                let waiting: Vec<(String, Option<String>)> = sqlx::query_as(
                    "select hostname || ' ' || state::text, last_error from certificate_order
                     where state <> 'issued' order by hostname limit 10",
                )
                .fetch_all(&self.control.pool)
                .await?;
                let said = self.provisioners.each_ref().map(|one| one.program.last_said());
                anyhow::bail!("{n} names serve, others do not: {waiting:#?}\n{said:#?}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Where operators look, a provisioner says how many orders may be lost.
    async fn window_is_shown(&mut self) -> Result<usize> {
        let n = self.count_rows("select sum(n_unsure) from certificate_order").await?;
        let provisioner = &mut self.provisioners[0];
        provisioner.program.kill_and_start()?;
        let url = provisioner.url().await?;
        let shown = format!("provisioner_certificate_orders_unsure {n}");
        let until = Instant::now() + PATIENCE;
        loop {
            let metrics = reqwest::get(format!("{url}/metrics")).await?.text().await?;
            if metrics.lines().any(|line| line == shown) {
                return Ok(n);
            }
            ensure!(Instant::now() < until, "no line '{shown}' in:\n{metrics}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The provisioner that runs has looked at every name and ordered nothing.
    async fn nothing_is_left(&self, n_orders: usize) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let sql = "select count(*) from certificate_order where next_at <= now()";
        while self.count_rows(sql).await? > 0 {
            ensure!(Instant::now() < until, "some names never rest");
            sleep(Duration::from_millis(50)).await;
        }
        let n_now = self.witness.orders().len();
        ensure!(n_now == n_orders, "{n_now} orders, {n_orders} when all were issued");
        let n = self.count_rows("select count(*) from acme_challenge").await?;
        ensure!(n == 0, "{n} challenges were left");
        let n = self.witness.n_accounts();
        ensure!(n == 1, "{n} accounts at the authority");
        Ok(())
    }

    /// Every router shows every name's certificate to those who trust the authority.
    async fn routers_serve(&self) -> Result<()> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("select hostname, chain_pem from certificate where source = 'acme'")
                .fetch_all(&self.control.pool)
                .await?;
        let chains: BTreeMap<_, _> = rows.into_iter().collect();
        let root = CertificateDer::from_pem_slice(self.pebble.issuing_root().await?.as_bytes())?;
        let mut roots = RootCertStore::empty();
        roots.add(root)?;
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        for router in &self.routers.each {
            let until = Instant::now() + PATIENCE;
            for name in &self.names {
                let chain = chains.get(name).with_context(|| format!("{name} has none"))?;
                let leaf = CertificateDer::from_pem_slice(chain.as_bytes())?;
                loop {
                    let shown = shown(&connector, router, name).await;
                    if shown.as_ref().is_ok_and(|shown| *shown == leaf) {
                        break;
                    }
                    ensure!(Instant::now() < until, "{name} at {}: {shown:?}", router.https);
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
        Ok(())
    }

    /// Two routers were asked over plain HTTP, the third by handshakes.
    async fn routers_answered(&self) -> Result<()> {
        for (number, router) in self.routers.each.iter().enumerate() {
            let metrics = reqwest::get(format!("{}/metrics", router.admin_url)).await?;
            let metrics = metrics.text().await?;
            let kind = if number == 2 { "tls_alpn_01" } else { "http_01" };
            let start = format!("router_challenges_total{{kind=\"{kind}\"}} ");
            let n = metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok());
            ensure!(n.is_some_and(|n| n > 0), "router {number} answered none: {n:?} {start}");
        }
        Ok(())
    }

    /// What the authority was asked for, name by name.
    async fn count(&self, orders: &[Order], mut figures: Figures) -> Result<Figures> {
        let rows: Vec<(String, i32)> =
            sqlx::query_as("select hostname, n_unsure from certificate_order")
                .fetch_all(&self.control.pool)
                .await?;
        let unsure: BTreeMap<_, _> = rows.into_iter().collect();
        for (number, name) in self.names.iter().enumerate() {
            let own: Vec<_> = orders.iter().filter(|order| order.hostname == *name).collect();
            let n_issued: u32 = own.iter().map(|order| order.n_issued).sum();
            ensure!(n_issued == 1, "{name} was issued {n_issued} times: {own:#?}");
            let n_used = own.iter().filter(|order| order.is_used).count();
            // Where plain HTTP does not lead, the first order cannot be proven.
            let n_wanted = if number % 3 == 2 { 2 } else { 1 };
            ensure!(n_used >= n_wanted, "{name} was ordered {n_used} times: {own:#?}");
            // Another one may also fail when the authority has no patience with a busy machine.
            let is_right = |order: &&Order| order.n_issued == 1 || order.is_refused;
            let used = own.iter().filter(|order| order.is_used).copied();
            ensure!(used.clone().all(|order| is_right(&order)), "ordered again: {own:#?}");
            let n_lost = own.len() - n_used;
            let n_said = unsure.get(name).copied().unwrap_or_default();
            ensure!(n_lost <= usize::try_from(n_said)?, "{name}: {n_lost} lost, {n_said} said");
            figures.n_issued += 1;
            figures.n_unproven += n_used - 1;
            figures.n_lost += n_lost;
        }
        let n_logged = self.pebble.orders()?;
        ensure!(n_logged == orders.len(), "{n_logged} in pebble's log, {} seen", orders.len());
        let n_known = figures.n_issued + figures.n_unproven + figures.n_lost;
        ensure!(orders.len() == n_known, "{} orders, {n_known} of ours", orders.len());
        Ok(figures)
    }
}

async fn shown(
    connector: &TlsConnector,
    router: &Router,
    name: &str,
) -> Result<CertificateDer<'static>> {
    let stream = TcpStream::connect(router.https).await?;
    let stream = connector.connect(ServerName::try_from(name.to_owned())?, stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    Ok(shown.context("no certificate")?.clone().into_owned())
}

/// Tells a provisioner of the routers, over its API.
async fn register(provisioner: &mut Provisioner, routers: &Routers) -> Result<()> {
    let api = Client::new(&provisioner.url().await?, &provisioner.token)?;
    let edge_addresses = routers.each.iter().map(|router| router.https.ip().to_string());
    let region = places::PutRegion {
        display_name: "Jakarta".to_owned(),
        edge_addresses: Some(edge_addresses.collect()),
    };
    api.put_region(REGION, &region).await?;
    for (number, router) in routers.each.iter().enumerate() {
        let name = format!("router-{}", number + 1);
        let put = places::Router {
            name: name.clone(),
            region: REGION.to_owned(),
            https_address: router.https.to_string(),
            http_address: router.http.to_string(),
            admin_url: router.admin_url.clone(),
            passthrough_address: None,
        };
        api.put_router(&name, &put).await?;
    }
    Ok(())
}

/// As many sites with a verified hostname of their own, which leads to one of the routers.
async fn wanted(control: &Control, routers: &Routers, n: usize) -> Result<Vec<String>> {
    let names: Vec<_> = (0..n).map(|number| format!("lms.school-{number}.test")).collect();
    for (number, name) in names.iter().enumerate() {
        let router = &routers.each[number % routers.each.len()];
        control.dns.add_a(name, &[&router.https.ip().to_string()]).await?;
    }
    let sql = format!(
        "begin;
         insert into cluster (id, name, region, sealed_admin_url, app_host, app_port)
             values (md5('c')::uuid, 'c', '{REGION}', '', 'h', 1);
         insert into object_store (id, name, region, endpoint, bucket, sealed_admin)
             values (md5('o')::uuid, 'o', '{REGION}', 'e', 'b', '');
         create temporary table school as
             select n, md5('site' || n)::uuid as id, 'school-' || n as slug
             from generate_series(0, {n} - 1) n;
         insert into site (id, slug, name, plan, state, allowed_regions)
             select id, slug, slug, 'starter', 'active', '{{{REGION}}}' from school;
         insert into placement (id, site_id, generation, state, region, cluster_id,
                 object_store_id, database_name, prefix, sealed_secrets)
             select gen_random_uuid(), id, 1, 'current', '{REGION}', md5('c')::uuid,
                 md5('o')::uuid, 's_' || replace(id::text, '-', ''), 'site/' || n, '' from school;
         insert into domain (id, site_id, hostname, kind, state, is_primary, proof, verified_at)
             select gen_random_uuid(), id, 'lms.' || slug || '.test', 'custom', 'verified', true,
                 'vouched', now() from school;
         commit;"
    );
    execute(&mut *control.pool.acquire().await?, &sql).await?;
    Ok(names)
}
