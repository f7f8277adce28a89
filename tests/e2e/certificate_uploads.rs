//! Certificates that people upload: what is wrong with one is said in words, and its end in time.

mod authority;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use provisioner_api::certificates::CertificateAlarm;
use reqwest::tls::TlsInfo;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;
use tests::{
    Stack,
    stack::{Output, Start},
};

use self::authority::{Authority, Made, openssl, weak};
use crate::{
    certificates::says,
    site_life::{create, delete},
};

const PATIENCE: Duration = Duration::from_secs(120);
/// The platform name of the site to which things are uploaded.
const HOST: &str = "unggah.localhost";
const TO_SITE: [&str; 4] = ["certificate", "upload", "unggah", HOST];
/// Words that only libraries use.
const RAW: [&str; 6] = ["Error(", "CaUsed", "InvalidCertificate", "Eku", "webpki", "BadDer"];

/// Sends a chain and a key as the command line does.
fn upload(stack: &Stack, target: &[&str], chain: &Path, key: &Path) -> Result<Output> {
    let (chain, key) = (chain.to_string_lossy(), key.to_string_lossy());
    stack.cli(&[target, &["--chain", &chain, "--key", &key, "--json"]].concat())
}

/// What is sent, and what is said of it.
struct Case {
    what: &'static str,
    chain: String,
    key: String,
    field: &'static str,
    words: &'static str,
}

/// Two authorities, one below the other, and what is good.
struct Sender {
    root: Authority,
    middle: Authority,
    good: Made,
}

impl Sender {
    fn new() -> Result<Self> {
        let root = Authority::new("Story Root")?;
        let middle = root.below("Story Middle")?;
        let good = middle.make(HOST, 1, 30)?;
        Ok(Self { root, middle, good })
    }

    /// A leaf with all that belongs to it.
    fn whole(&self, leaf: &str) -> String {
        [leaf, &self.middle.root, &self.root.root].concat()
    }

    /// Chains that no browser would take, and one key that is too weak.
    fn chains(&self) -> Result<Vec<Case>> {
        let (top, below) = (self.root.root.as_str(), self.middle.root.as_str());
        let (leaf, key) = (self.good.leaf.as_str(), self.good.key.as_str());
        let [ended, early] =
            [(30, -1), (-2, 30)].map(|(since, left)| self.middle.make(HOST, since, left));
        let (ended, early) = (ended?, early?);
        let other = self.middle.make("other.localhost", 1, 30)?;
        let weak = weak(&self.root, HOST)?;
        let cut = leaf.get(..leaf.len() / 2).context("a long certificate")?;
        let bad = |what, chain: String, key: &str, words| Case {
            what,
            chain,
            key: key.to_owned(),
            field: "chain_pem",
            words,
        };
        Ok(vec![
            bad("ended", self.whole(&ended.leaf), &ended.key, "ended at"),
            bad("early", self.whole(&early.leaf), &early.key, "not valid before"),
            bad(
                "another name",
                self.whole(&other.leaf),
                &other.key,
                "not for unggah.localhost; it is for other.localhost",
            ),
            bad("mixed up", [leaf, top, below].concat(), key, "in the wrong order"),
            bad("upside down", [top, below, leaf].concat(), key, "in the wrong order"),
            bad("gap", [leaf, top].concat(), key, "whose certificate is missing"),
            bad("alone", leaf.to_owned(), key, "not complete"),
            bad("an authority", [below, top].concat(), key, "which serves no hostname"),
            bad("cut off", cut.to_owned(), key, "its end was cut off"),
            bad("garbage", "garbage".to_owned(), key, "it must be PEM"),
            bad("swapped", key.to_owned(), leaf, "were swapped"),
            Case {
                field: "key_pem",
                ..bad("weak", weak.leaf, &weak.key, "1024 bits of RSA; at least 2048")
            },
        ])
    }

    /// A good chain with what is not its key, or cannot be read.
    fn keys(&self) -> Result<Vec<Case>> {
        let key = &self.good.key;
        let file = self.root.file("key.pem", key)?;
        let other = self.middle.make(HOST, 1, 30)?.key;
        let locked = openssl(&["pkcs8", "-topk8", "-passout", "pass:story"], &file)?;
        let old_locked = openssl(&["ec", "-aes128", "-passout", "pass:story"], &file)?;
        let bad = |what, key, words| {
            let chain = self.whole(&self.good.leaf);
            Case { what, chain, key, field: "key_pem", words }
        };
        Ok(vec![
            bad("another key", other.clone(), "does not belong to"),
            bad("locked", locked, "locked with a passphrase"),
            bad("locked as before", old_locked, "locked with a passphrase"),
            bad("two keys", format!("{key}{other}"), "there are 2 private keys"),
            bad("no key", "garbage".to_owned(), "no private key"),
        ])
    }

    /// Over the command line, which shows what the API answered.
    fn is_refused(&self, stack: &Stack, case: &Case) -> Result<()> {
        let Case { what, chain, key, field, words } = case;
        let (chain, key) = (self.root.file("chain", chain)?, self.root.file("key", key)?);
        let said = upload(stack, &TO_SITE, &chain, &key)?;
        ensure!(said.code == 1 && said.stdout.is_empty(), "{what}: {said:?}");
        let document: Value = serde_json::from_str(&said.stderr).context(said.stderr.clone())?;
        let problem = &document["problem"];
        ensure!(problem["status"] == 422 && problem["field"] == *field, "{what}: {problem:#}");
        let detail = problem["detail"].as_str().unwrap_or_default();
        ensure!(detail.contains(words), "{what}: no {words:?} in {detail:?}");
        ensure!(!RAW.iter().any(|raw| detail.contains(raw)), "{what}: {detail}");
        let secret = self.good.key.lines().nth(1).context("a key has lines")?;
        ensure!(!said.stderr.contains(secret), "{what}: the key is repeated");
        Ok(())
    }
}

pub async fn uploads_are_refused_in_words(stack: &Stack) -> Result<()> {
    create(stack, "unggah").await?;
    let sender = Sender::new()?;
    for case in sender.chains()?.iter().chain(&sender.keys()?) {
        sender.is_refused(stack, case)?;
    }
    // What is no file of that kind is not even sent.
    let file = |name, bytes: &[u8]| sender.root.file(name, bytes);
    let (empty, binary) = (file("empty", b"")?, file("binary", &[0x30, 0x82, 0xff])?);
    let (good, key) = (
        sender.root.file("good", sender.whole(&sender.good.leaf))?,
        file("good.key", sender.good.key.as_bytes())?,
    );
    let nowhere = binary.with_file_name("nowhere");
    let folder = binary.parent().context("a directory")?;
    for (chain, words) in [
        (empty.as_path(), "it is empty"),
        (binary.as_path(), "openssl x509 -inform der"),
        (nowhere.as_path(), "there is no such file"),
        (folder, "it is a directory"),
    ] {
        let said = upload(stack, &TO_SITE, chain, &key)?;
        ensure!(said.code == 2 && said.stderr.contains(words), "{said:?}");
        ensure!(said.stderr.contains("--chain"), "{said:?}");
    }
    let stranger = upload(stack, &["certificate", "upload", "unggah", "a.test"], &good, &key)?;
    ensure!(
        stranger.code == 3 && stranger.stderr.contains("hostname of this site"),
        "{stranger:?}"
    );
    let wildcard = upload(stack, &["certificate", "wildcard", "upload"], &good, &key)?;
    ensure!(wildcard.code == 1 && wildcard.stderr.contains("not for *.localhost"), "{wildcard:?}");

    let taken = upload(stack, &TO_SITE, &good, &key)?.ok()?.json()?;
    ensure!(taken[0]["source"] == "uploaded" && taken[0]["alarm"].is_null(), "{taken:#}");
    delete(stack, "unggah").await
}

pub async fn a_wildcard_serves_and_its_end_is_told_in_time() -> Result<()> {
    let stack = tokio::task::spawn_blocking(|| Stack::start(Start::default())).await??;
    let (api, host) = (stack.api()?, "pelangi.localhost");
    let url = create(&stack, "pelangi").await?;
    let none = stack.cli(&["certificate", "wildcard", "show"])?;
    ensure!(none.code == 3 && none.stderr.contains("certificate wildcard upload"), "{none:?}");

    let authority = Authority::new("Story Root")?;
    let put = |since, left| -> Result<(Output, String)> {
        let made = authority.make("*.localhost", since, left)?;
        let chain = authority.file("chain.pem", format!("{}{}", made.leaf, authority.root))?;
        let key = authority.file("key.pem", made.key)?;
        let said = upload(&stack, &["certificate", "wildcard", "upload"], &chain, &key)?;
        Ok((said.ok()?, made.leaf))
    };
    // Of 90 days 10 are left: who uploaded it has to do so again.
    let (said, leaf) = put(80, 10)?;
    let regions = said.json()?;
    ensure!(regions.as_array().is_some_and(|regions| regions.len() == 2), "{regions:#}");
    let shown = stack.cli(&["certificate", "wildcard", "show"])?.ok()?.stdout;
    says(&shown, &["*.localhost", "uploaded", "Ends soon", "in 9 days", "sg-singapore"])?;
    let checked = stack.cli(&["domain", "check", "pelangi", host])?;
    ensure!(checked.code == 1, "{checked:?}");
    let parts = ["*.localhost, uploaded, ends soon", "certificate wildcard upload --chain"];
    says(&checked.stdout, &parts)?;
    let domain = api.domain("pelangi", host).await?;
    let alarm = domain.certificate.as_ref().and_then(|certificate| certificate.alarm);
    ensure!(alarm == Some(CertificateAlarm::EndsSoon), "{domain:#?}");
    let listed = stack.cli(&["certificate", "list"])?.ok()?.stdout;
    says(&listed, &["*.localhost", "ends soon"])?;
    let status = stack.cli(&["status"])?.ok()?.stdout;
    says(&status, &["2 certificate(s) that end soon: *.localhost ends at"])?;
    let expiring = "provisioner_certificate_names_expiring";
    until_metric(&stack, &format!("{expiring} 2")).await?;
    says(&stack.logs()?, &["certificates: 0 name(s) without a new certificate, 2 certificate(s)"])?;

    until_served(&url, &leaf).await?;
    // A fresh one ends the alarm.
    let (_, leaf) = put(1, 89)?;
    until_served(&url, &leaf).await?;
    stack.cli(&["domain", "check", "pelangi", host])?.ok()?;
    until_metric(&stack, &format!("{expiring} 0")).await?;
    says(&stack.logs()?, &["certificates: all is well again"])?;
    tokio::task::spawn_blocking(|| stack.stop()).await??;
    Ok(())
}

/// Waits until a router shows this certificate. Clients take no wildcard right below a top-level
/// name, as `localhost` is one, so it is only compared.
async fn until_served(url: &str, leaf: &str) -> Result<()> {
    let wanted = CertificateDer::from_pem_slice(leaf.as_bytes())?;
    let began = Instant::now();
    loop {
        let http = reqwest::Client::builder()
            .no_proxy()
            .danger_accept_invalid_certs(true)
            .resolve("pelangi.localhost", ([127, 0, 0, 1], 0).into())
            .tls_info(true)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let answer = http.get(url).send().await?;
        let shown = answer.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate);
        if shown == Some(wanted.as_ref()) {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{url} is not served with the certificate");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for a line of the provisioner's numbers.
async fn until_metric(stack: &Stack, line: &str) -> Result<()> {
    let url = format!("{}/metrics", stack.ready.api.url);
    let began = Instant::now();
    loop {
        let text = reqwest::get(&url).await?.text().await?;
        if text.lines().any(|found| found == line) {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "no {line:?} in:\n{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
