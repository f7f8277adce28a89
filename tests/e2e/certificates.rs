//! Certificates as people meet them: what is wrong is said in words, with what to do, and mended.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use control_types::state::{CertificateFault, DomainState, OperationState};
use provisioner_api::{
    domains::{AddDomain, DomainDetail},
    operations::OperationNews,
    places::PutRegion,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::PgPool;
use tests::pebble::PebbleOptions;
use uuid::Uuid;

use crate::{
    public::Public,
    site_life::{create, request},
};

const PATIENCE: Duration = Duration::from_secs(120);

impl Public {
    /// Gives the provisioner another configuration.
    async fn configure(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let path = self.stack.data_dir().join("config/provisioner.json");
        let mut config = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        change(&mut config);
        std::fs::write(path, config.to_string())?;
        let before = self.stack.process("provisioner")?;
        kill_process(Pid::from_raw(before).context("no process")?, Signal::KILL)?;
        // It is started again by `ta3lem up`.
        let began = Instant::now();
        loop {
            let is_new = self.stack.process("provisioner").is_ok_and(|now| now != before);
            if is_new && self.stack.api()?.ready().await.is_ok() {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "the provisioner does not come back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn until(
        &self,
        site: &str,
        host: &str,
        wanted: impl Fn(&DomainDetail) -> bool,
    ) -> Result<DomainDetail> {
        let began = Instant::now();
        loop {
            let domain = self.stack.api()?.domain(site, host).await?;
            if wanted(&domain) {
                return Ok(domain);
            }
            ensure!(began.elapsed() < PATIENCE, "it does not become as wanted: {domain:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A name that the operator vouches for, so that all that is left is its certificate.
    async fn vouch(&self, site: &str, host: &str) -> Result<()> {
        let hostname = host.to_owned();
        let claim = AddDomain { hostname, vouched: true, ..AddDomain::default() };
        self.stack.api()?.add_domain(site, &claim).await?;
        Ok(())
    }

    async fn put_edges(&self, region: &str, address: &str) -> Result<()> {
        let edge_addresses = Some(vec![address.to_owned()]);
        let put = PutRegion { display_name: region.to_owned(), edge_addresses };
        self.stack.api()?.put_region(region, &put).await?;
        Ok(())
    }
}

fn serves(domain: &DomainDetail) -> bool {
    domain.state == DomainState::Active && domain.routed == Some(true)
}

fn failed_by(domain: &DomainDetail, fault: CertificateFault) -> bool {
    domain.certificate_failure.as_ref().is_some_and(|failure| failure.fault == Some(fault))
}

/// Whether all of `parts` are said.
pub fn says(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    Ok(())
}

pub async fn what_is_wrong_with_a_name_is_said_and_mended() -> Result<()> {
    let public = Public::start(PebbleOptions::default()).await?;
    let Public { stack, dns, pebble, control, .. } = &public;
    create(stack, "bintang").await?;

    // A name that leads elsewhere costs no order, and everybody is told where it leads.
    let host = "belajar.bintang.test";
    dns.add_a(host, &["198.51.100.7"]).await?;
    public.vouch("bintang", host).await?;
    let by_name = |domain: &DomainDetail| failed_by(domain, CertificateFault::Name);
    let failing = public.until("bintang", host, by_name).await?;
    ensure!(!failing.is_well() && failing.certificate.is_none(), "{failing:#?}");
    let checked = stack.cli(&["domain", "check", "bintang", host])?;
    ensure!(checked.code == 1, "{checked:?}");
    let parts = [
        "198.51.100.7, where no router of the platform listens",
        "Tried again",
        "To do:",
        "Change the A record",
        "ta3lem certificate renew bintang belajar.bintang.test",
    ];
    says(&checked.stdout, &parts)?;
    let accounts: i64 =
        sqlx::query_scalar("select count(*) from acme_account").fetch_one(control).await?;
    ensure!(accounts == 0 && pebble.orders()? == 0, "{accounts} accounts, {:?}", pebble.orders());

    // It is tried as soon as the records are seen to be right, whatever the pause.
    postpone(control, host).await?;
    dns.clear("a", host).await?;
    dns.add_a(host, &["127.0.0.1"]).await?;
    stack.cli(&["domain", "check", "bintang", host])?.ok()?;
    let serving = public.until("bintang", host, serves).await?;
    ensure!(serving.certificate_failure.is_none() && serving.is_well(), "{serving:#?}");
    let shown = stack.cli(&["domain", "check", "bintang", host])?.ok()?.stdout;
    says(&shown, &["acme, until 20", "Routers", "serve it"])?;

    // A name may still lead to where its site was before: routers there pass it on.
    public.put_edges("id-jakarta", "127.0.0.99").await?;
    let host = "lama.bintang.test";
    dns.add_a(host, &["127.0.0.1"]).await?;
    public.vouch("bintang", host).await?;
    public.until("bintang", host, serves).await?;

    // An alias of the site's platform name leads where the operator wants; here nobody answers.
    let (host, orders) = ("www.bintang.test", pebble.orders()?);
    dns.set_cname(host, "bintang.localhost").await?;
    dns.add_a("bintang.localhost", &["127.0.0.2"]).await?;
    public.vouch("bintang", host).await?;
    let unproven = |domain: &DomainDetail| {
        failed_by(domain, CertificateFault::Proof) && !domain.certificate_to_do.is_empty()
    };
    public.until("bintang", host, unproven).await?;
    ensure!(pebble.orders()? > orders, "nothing was ordered");
    let checked = stack.cli(&["domain", "check", "bintang", host])?;
    ensure!(checked.code == 1, "{checked:?}");
    says(
        &checked.stdout,
        &["could not see that the name leads here", "no firewall, CDN or proxy"],
    )?;
    says(&checked.stderr, &["the certificate of www.bintang.test needs somebody"])?;

    // Where the provisioner's DNS says other addresses than the world's, they are not looked at.
    let host = "jauh.fajar.test";
    create(stack, "fajar").await?;
    dns.add_a(host, &["127.0.0.2"]).await?;
    public.vouch("fajar", host).await?;
    public.until("fajar", host, by_name).await?;
    public.configure(|config| config["acme"]["check_addresses"] = false.into()).await?;
    let orders = pebble.orders()?;
    stack.cli(&["certificate", "renew", "fajar", host])?.ok()?;
    public.until("fajar", host, |domain| failed_by(domain, CertificateFault::Proof)).await?;
    ensure!(pebble.orders()? > orders, "nothing was ordered");
    public.stop().await
}

/// The next attempt would be tomorrow.
async fn postpone(control: &PgPool, host: &str) -> Result<()> {
    let later = "update certificate_order set next_at = now() + interval '1 day'
                 where hostname = $1 and state = 'failing'";
    let done = sqlx::query(later).bind(host).execute(control).await?;
    ensure!(done.rows_affected() == 1, "{host} is not failing");
    Ok(())
}

pub async fn a_site_that_waits_for_its_certificate_says_so_and_gives_up_whole() -> Result<()> {
    let public = Public::start(PebbleOptions::default()).await?;
    let Public { stack, dns, control, .. } = &public;
    // Names below localhost are certified here; this platform's are not.
    public.configure(|config| config["platform_domain"] = "platform.test".into()).await?;
    let api = stack.api()?;
    let begin = async |slug: &str| {
        api.create_site(&request(slug), &Uuid::new_v4().to_string()).await.map(|it| it.operation.id)
    };
    let waits = "the DNS leads nobody to 'surya.platform.test'";
    let surya = begin("surya").await?;
    until_told(&public, surya, waits).await?;
    let shown = stack.cli(&["operation", "show", &surya.to_string()])?.ok()?.stdout;
    says(&shown, &["issue certificates", waits, "tried again at"])?;
    dns.add_a("surya.platform.test", &["127.0.0.1"]).await?;
    sqlx::query("update certificate_order set next_at = now() where hostname = $1")
        .bind("surya.platform.test")
        .execute(control)
        .await?;
    let done = api.wait_for(surya).await?;
    ensure!(done.state == OperationState::Succeeded, "{done:#?}");

    // Who has waited for too long is told why, and nothing is left of the site.
    let bulan = begin("bulan").await?;
    until_told(&public, bulan, "'bulan.platform.test'").await?;
    sqlx::query("update operation_event set at = at - interval '10 min' where operation_id = $1")
        .bind(bulan.0)
        .execute(control)
        .await?;
    let failed = api.wait_for(bulan).await?;
    ensure!(failed.state == OperationState::Failed, "{failed:#?}");
    let news = api.operation_news(bulan, 0, Duration::ZERO).await?;
    let log = told(&news).join("\n");
    says(&log, &["waited for too long: bulan.platform.test", "the DNS leads nobody to"])?;
    for table in ["placement", "instance", "certificate", "certificate_order"] {
        let sql = format!("select count(*) from {table} where site_id = $1");
        let left: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(failed.site_id.0)
            .fetch_one(control)
            .await?;
        ensure!(left == 0, "{left} rows are left in {table}");
    }
    let databases: i64 = sqlx::query_scalar("select count(*) from pg_database where datname = $1")
        .bind(format!("s_{}", bulan.0.simple()))
        .fetch_one(&PgPool::connect(&stack.admin_url("id-jakarta", "postgres")?).await?)
        .await?;
    ensure!(databases == 0, "its database is left");
    ensure!(api.site("bulan").await.is_err(), "the site is left");
    // The slug is free, and the name that was waited for can be mended and tried again.
    dns.add_a("bulan.platform.test", &["127.0.0.1"]).await?;
    let again = api.wait_for(begin("bulan").await?).await?;
    ensure!(again.state == OperationState::Succeeded, "{again:#?}");
    public.stop().await
}

/// What the log of an operation says besides names of steps.
fn told(news: &OperationNews) -> Vec<String> {
    let details = news.events.iter().filter_map(|event| event.detail.as_ref());
    details.map(ToString::to_string).collect()
}

async fn until_told(public: &Public, id: control_types::OperationId, words: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let news = public.stack.api()?.operation_news(id, 0, Duration::ZERO).await?;
        let told = told(&news);
        if told.iter().any(|text| text.contains(words)) {
            return Ok(());
        }
        ensure!(!news.operation.state.is_final() && began.elapsed() < PATIENCE, "{news:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
