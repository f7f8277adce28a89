//! An authority as we know it: its directory, and our account there for each region.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    acme::{
        failure::{Failure, Fault},
        http::AcmeHttp,
        settings::AuthoritySettings,
    },
    control_db::acme_accounts::{self, AcmeAccount},
    engine::worker::chain,
    secrets::{Keys, SealedValue},
};

/// How long a directory is taken for granted.
const DIRECTORY_LIFE: Duration = Duration::from_secs(3600);
/// How long an authority that did not answer is not asked again.
const DOWN: Duration = Duration::from_secs(60);

/// What the account at an authority is reached with. Opened by the provisioner alone.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct Credentials(AccountCredentials);

impl SealedValue for Credentials {
    const PLACE: &'static str = "acme_account.credentials";
}

/// What an authority says of itself (RFC 8555 section 7.1.1).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    #[serde(rename = "newOrder")]
    _new_order: String,
    renewal_info: Option<String>,
    #[serde(default)]
    meta: Meta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    caa_identities: Vec<String>,
    #[serde(default)]
    external_account_required: bool,
}

/// Our account at an authority, ready to be used.
#[derive(Clone)]
pub struct Opened {
    /// It.
    pub account: Account,
    /// Its row.
    pub id: Uuid,
    /// The names that the authority goes by in CAA records.
    pub caa_identities: Vec<String>,
    /// Whether it suggests when to renew.
    pub has_renewal_info: bool,
    until: Instant,
}

/// An authority.
pub struct Authority {
    /// What the configuration says.
    pub settings: AuthoritySettings,
    http: AcmeHttp,
    opened: Mutex<HashMap<String, Opened>>,
    down: Mutex<Option<(Instant, String)>>,
    /// So that a thousand names open an account once.
    opening: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

impl Authority {
    /// Nobody is asked yet.
    ///
    /// # Errors
    /// When no HTTP client can be made with its roots.
    pub fn new(settings: AuthoritySettings) -> Result<Self, reqwest::Error> {
        let http = AcmeHttp::new(&settings.roots)?;
        Ok(Self {
            settings,
            http,
            opened: Mutex::default(),
            down: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        })
    }

    /// What everybody here calls it.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// The names that it goes by in CAA records, once it was asked.
    pub fn caa_identities(&self) -> Vec<String> {
        let opened = self.all_opened();
        opened.values().next().map(|opened| opened.caa_identities.clone()).unwrap_or_default()
    }

    /// Our account for a region; registered first when there is none.
    ///
    /// # Errors
    /// When the authority does not answer or refuses, or something of ours fails.
    pub async fn open(&self, pool: &PgPool, keys: &Keys, region: &str) -> Result<Opened, Failure> {
        if let Some(opened) = self.remembered(region) {
            return Ok(opened);
        }
        self.refuse_if_down()?;
        let _alone = self.opening.lock().await;
        if let Some(opened) = self.remembered(region) {
            return Ok(opened);
        }
        self.refuse_if_down()?;
        let outcome = self.open_anew(pool, keys, region).await;
        match &outcome {
            Ok(opened) => {
                self.all_opened().insert(region.to_owned(), opened.clone());
            }
            Err(failure) => self.note(failure),
        }
        outcome
    }

    /// Remembers that it does not answer, so that others do not wait for it too; and that our
    /// account is gone.
    pub fn note(&self, failure: &Failure) {
        if failure.fault == Fault::Unreachable {
            let pause = failure.wait.unwrap_or(DOWN).max(DOWN);
            *self.down.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((Instant::now() + pause, failure.message.clone()));
            self.all_opened().clear();
        }
    }

    /// Forgets our account for a region, since the authority has: the next one that needs it
    /// registers.
    ///
    /// # Errors
    /// When the control database does not answer.
    pub async fn forget(
        &self,
        pool: &PgPool,
        region: &str,
        account: Uuid,
    ) -> Result<(), sqlx::Error> {
        self.all_opened().remove(region);
        acme_accounts::delete(pool, account).await
    }

    fn all_opened(&self) -> std::sync::MutexGuard<'_, HashMap<String, Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, region: &str) -> Option<Opened> {
        let opened = self.all_opened().get(region)?.clone();
        (opened.until > Instant::now()).then_some(opened)
    }

    fn refuse_if_down(&self) -> Result<(), Failure> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        match &*down {
            Some((until, why)) if *until > Instant::now() => {
                Err(Failure { keeps_order: true, ..Failure::new(Fault::Unreachable, why.clone()) })
            }
            _ => Ok(()),
        }
    }

    async fn open_anew(&self, pool: &PgPool, keys: &Keys, region: &str) -> Result<Opened, Failure> {
        let url = &self.settings.directory_url;
        let directory: Directory = self.http.get_json(url).await.map_err(|error| {
            let error = chain(&error.without_url());
            let message = format!("{}: its directory {url} does not answer: {error}", self.name());
            Failure { keeps_order: true, ..Failure::new(Fault::Unreachable, message) }
        })?;
        let mut connection = pool.acquire().await?;
        let known = acme_accounts::get(&mut connection, url, region).await?;
        drop(connection);
        let (account, id) = match known {
            Some(known) => self.restore(keys, region, known).await?,
            None => self.register(pool, keys, region, &directory).await?,
        };
        Ok(Opened {
            account,
            id,
            caa_identities: directory.meta.caa_identities,
            has_renewal_info: directory.renewal_info.is_some(),
            until: Instant::now() + DIRECTORY_LIFE,
        })
    }

    async fn restore(
        &self,
        keys: &Keys,
        region: &str,
        known: AcmeAccount,
    ) -> Result<(Account, Uuid), Failure> {
        let Credentials(credentials) = keys.open(region, known.id, &known.sealed_credentials)?;
        let account = Account::builder_with_http(Box::new(self.http.clone()))
            .from_credentials(credentials)
            .await
            .map_err(|error| Failure::of(&error, self.name(), "opening our account"))?;
        Ok((account, known.id))
    }

    async fn register(
        &self,
        pool: &PgPool,
        keys: &Keys,
        region: &str,
        directory: &Directory,
    ) -> Result<(Account, Uuid), Failure> {
        let url = &self.settings.directory_url;
        if directory.meta.external_account_required && self.settings.external_account.is_none() {
            let message = format!(
                "{} wants a contract: set acme.authorities.external_account for it",
                self.name()
            );
            return Err(Failure::new(Fault::Authority, message));
        }
        let mut tx = pool.begin().await?;
        acme_accounts::lock(&mut tx, url, region).await?;
        if let Some(known) = acme_accounts::get(&mut tx, url, region).await? {
            return self.restore(keys, region, known).await;
        }
        let contact: Vec<_> = self.settings.contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let binding = self.settings.external_account.as_ref();
        let binding = binding.map(|(id, key)| ExternalAccountKey::new(id.clone(), key));
        let mut tries = 0;
        let (account, credentials) = loop {
            let builder = Account::builder_with_http(Box::new(self.http.clone()));
            match builder.create(&new, url.clone(), binding.as_ref()).await {
                Err(error) if super::failure::is_bad_nonce(&error) && tries < 8 => tries += 1,
                outcome => {
                    break outcome
                        .map_err(|error| Failure::of(&error, self.name(), "opening an account"))?;
                }
            }
        };
        let id = Uuid::now_v7();
        let sealed_credentials = keys.seal(region, id, &Credentials(credentials))?;
        let account_row = AcmeAccount { id, sealed_credentials };
        acme_accounts::insert(&mut tx, &account_row, url, region, self.settings.allowance).await?;
        tx.commit().await?;
        tracing::info!(
            authority = self.name(),
            region,
            "account opened at a certificate authority"
        );
        Ok((account, id))
    }
}
