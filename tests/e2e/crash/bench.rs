//! A provisioner in this process, with a control database of its own, on the clusters and object
//! stores of the platform that the stories share.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use control_types::{
    Hostname, OperationId, SiteId, Slug,
    state::{DomainKind, OperationKind, OperationState},
};
use provisioner::{
    certificate_authority::CertificateAuthority,
    control_db::{
        ControlDb, clusters, domains, object_stores, operations, places,
        sites::{self, NewSite},
    },
    dns::{Dns, DnsConfig},
    engine::{Engine, EngineOptions, Faults},
    instances::{
        InstanceRuntime,
        local::{LocalConfig, LocalRuntime},
    },
    reconcilers::{Nudges, Schedule, clusters::ClusterReconciler, instances::Instances},
    secrets::Keys,
    site_database::Clusters,
    site_storage::ObjectStores,
    world::World,
};
use provisioner_api::{
    operations::Operation,
    places::{PutCluster, PutObjectStore, PutRegion},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::{Stack, binaries::binary};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    nomad::Ground,
    routers,
    script::{Rules, Script},
};

/// Where new sites are.
pub const REGION: &str = "id-jakarta";
/// Where they go.
pub const OTHER_REGION: &str = "sg-singapore";
const REGIONS: [&str; 2] = [REGION, OTHER_REGION];
/// Scenarios at once.
pub const PARALLEL: usize = 4;
/// So long an operation rests whose worker vanished, if nobody lets the claim expire.
const LEASE: Duration = Duration::from_secs(5);
/// Longest time for one operation, with its crashes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A provisioner in this process, with a control database of its own.
pub struct Bench {
    pub world: Arc<World>,
    pub ground: Ground,
    engine: Arc<Engine>,
    pub script: Arc<Script>,
    pub runtime: Arc<dyn InstanceRuntime>,
    stop: CancellationToken,
    tasks: TaskTracker,
    _directory: tempfile::TempDir,
}

impl Bench {
    /// Starts it, with a control database of this name.
    pub async fn start(stack: &Stack, name: &str) -> Result<Self> {
        let (db, keys) = control_database(stack, name).await?;
        let secrets = stack.data_dir().join("secrets");
        let clusters = Clusters::new(db.pool.clone(), keys.clone());
        let stores = ObjectStores::new(db.pool.clone(), keys.clone());
        ClusterReconciler::new(db.pool.clone(), clusters.clone(), stores.clone())
            .run_once()
            .await?;
        let directory = tempfile::Builder::new().prefix("crash-").tempdir_in("/tmp")?;
        let runtime: Arc<dyn InstanceRuntime> = Arc::new(LocalRuntime::open(LocalConfig {
            directory: directory.path().join("run"),
            logs: directory.path().join("logs"),
            tenant_app: binary("tenant-app")?,
            log: "warn".to_owned(),
        })?);
        let nudges = Nudges::new();
        let instances = Arc::new(Instances::new(
            db.pool.clone(),
            Arc::clone(&runtime),
            keys.clone(),
            nudges.clone(),
        ));
        let authority = stack.data_dir();
        let world = Arc::new(World {
            keys,
            clusters,
            object_stores: stores,
            authority: Arc::new(CertificateAuthority::load(
                &authority.join("authority.pem"),
                &secrets.join("authority.key.pem"),
            )?),
            acme: None,
            platform_domain: "localhost".parse()?,
            dns: Dns::new(&DnsConfig::default())?,
            nudges: nudges.clone(),
            instances_changed: instances.written(),
            http: reqwest::Client::new(),
            db,
        });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        instances.spawn(Schedule {
            period: Duration::from_secs(1),
            nudges,
            stop: stop.clone(),
            tasks: tasks.clone(),
        });
        let (vanished, expired) = mpsc::unbounded_channel();
        let script = Arc::new(Script::new(vanished));
        tasks.spawn(routers::serve(&world.db, stop.clone(), REGIONS).await?);
        let engine = Engine::new(
            Arc::clone(&world),
            EngineOptions {
                lease: LEASE,
                // Also for those who take an operation over that another one still has.
                parallel: 2 * PARALLEL,
                poll: Duration::from_millis(100),
                faults: Arc::clone(&script) as Arc<dyn Faults>,
                ..EngineOptions::default()
            },
        );
        tasks.spawn(Arc::clone(&engine).run(stop.clone()));
        tasks.spawn(let_expire(expired, Arc::clone(&world), Arc::clone(&engine), stop.clone()));
        let ground = Ground { control: world.db.pool.clone(), keys: world.keys.clone() };
        Ok(Self { world, ground, engine, script, runtime, stop, tasks, _directory: directory })
    }

    /// Stops everything.
    pub async fn end(self) -> Result<()> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.runtime.stop_all().await;
        Ok(())
    }

    /// Records an operation as the API does.
    pub async fn record(
        &self,
        kind: OperationKind,
        site: SiteId,
        params: serde_json::Value,
        rules: Rules,
        new: Option<&Slug>,
    ) -> Result<OperationId> {
        let id = OperationId::generate();
        self.record_as(id, kind, site, params, rules, new).await?;
        Ok(id)
    }

    /// The same with an id that is known before.
    pub async fn record_as(
        &self,
        id: OperationId,
        kind: OperationKind,
        site: SiteId,
        params: serde_json::Value,
        rules: Rules,
        new: Option<&Slug>,
    ) -> Result<()> {
        self.script.rules().insert(id, rules);
        let mut tx = self.world.db.pool.begin().await?;
        if let Some(slug) = new {
            let regions = REGIONS.map(str::to_owned);
            let row = NewSite {
                id: site,
                slug,
                name: slug.as_str(),
                plan: "professional",
                allowed_regions: &regions,
                default_language: "en",
            };
            sites::insert(&mut tx, &row).await?;
            let hostname = Hostname::on_platform(slug, &self.world.platform_domain)?;
            domains::claim(&mut tx, site, &hostname, DomainKind::Platform, true).await?;
        }
        let operation = operations::NewOperation {
            id,
            kind,
            site,
            params,
            requested_by: "story",
            reason: None,
            idempotency_key: None,
        };
        operations::insert(&mut tx, &operation).await?;
        tx.commit().await?;
        self.engine.nudge();
        Ok(())
    }

    /// The operation, when nothing more becomes of it.
    pub async fn ended(&self, id: OperationId) -> Result<Operation> {
        let mut news = self.engine.news();
        let ended = async {
            loop {
                news.mark_unchanged();
                let operation = operations::get(&self.world.db.pool, id).await?;
                let operation = operation.context("the operation's row is gone")?;
                if operation.state.is_final() || operation.state == OperationState::Stuck {
                    return Ok(operation);
                }
                news.changed().await?;
            }
        };
        match tokio::time::timeout(PATIENCE, ended).await {
            Ok(operation) => operation,
            Err(_) => {
                let events = operations::events(&self.world.db.pool, id, 0).await?;
                bail!("does not end; its events: {events:#?}")
            }
        }
    }

    /// Everything that was to happen has.
    pub fn all_fired(&self, id: OperationId) -> Result<()> {
        let rules = self.script.rules().remove(&id);
        ensure!(rules.as_ref().is_none_or(Vec::is_empty), "never happened: {rules:?}");
        Ok(())
    }
}

/// A control database of this name that knows the platform's places, and the regions' keys.
async fn control_database(stack: &Stack, name: &str) -> Result<(ControlDb, Keys)> {
    let mut admin = PgConnection::connect(&stack.admin_url("control", "postgres")?).await?;
    let create = format!("create database {name}");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await?;
    let url = stack.admin_url("control", name)?;
    let mut connection = PgConnection::connect(&url).await?;
    migrations::Schema::Control.migrate(&mut connection).await?;
    let db = ControlDb::new(&url)?;
    let secrets = stack.data_dir().join("secrets");
    let ring = |region: &str| secrets.join(format!("region-{region}.keys.json"));
    let files = REGIONS.iter().map(|region| ((*region).to_owned(), ring(region)));
    let files: BTreeMap<String, PathBuf> = files.collect();
    let keys = Keys::load(&files).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    same_places(stack, &db, &keys).await?;
    Ok((db, keys))
}

/// The time that a claim rests when its worker has vanished is of no interest here.
async fn let_expire(
    mut vanished: UnboundedReceiver<OperationId>,
    world: Arc<World>,
    engine: Arc<Engine>,
    stop: CancellationToken,
) {
    while let Some(Some(id)) = stop.run_until_cancelled(vanished.recv()).await {
        let expired = sqlx::query(
            "update operation set claim_expires_at = now() - interval '1 second' where id = $1",
        )
        .bind(id.0)
        .execute(&world.db.pool)
        .await;
        if let Err(error) = expired {
            eprintln!("{id}: its claim expires later: {error}");
        }
        engine.nudge();
    }
}

/// The same clusters and object stores as the platform's own, in the bench's control database.
async fn same_places(stack: &Stack, db: &ControlDb, keys: &Keys) -> Result<()> {
    let own = ControlDb::new(&stack.control_database_url()?)?;
    for name in REGIONS {
        let region = PutRegion { display_name: name.to_owned(), edge_addresses: None };
        places::put_region(&db.pool, name, &region).await?;
    }
    for cluster in clusters::list(&own.pool).await? {
        let open = clusters::get(&own.pool, keys, cluster.id).await?;
        let put = PutCluster {
            region: cluster.region,
            admin_url: open.admin_url.0,
            app_host: cluster.app_host,
            app_port: cluster.app_port,
            max_databases: cluster.max_databases,
            accepts_sites: true,
            replication_host: cluster.replication_host,
            replication_port: cluster.replication_port,
        };
        clusters::put(&db.pool, keys, &cluster.name, &put).await?;
    }
    for store in object_stores::list(&own.pool).await? {
        let open = object_stores::get(&own.pool, keys, store.id).await?;
        let put = PutObjectStore {
            region: store.region,
            endpoint: store.endpoint,
            bucket: store.bucket,
            access_key: open.admin.access_key,
            secret_key: open.admin.secret_key,
            key_admin_url: open.admin.key_admin_url,
            key_admin_token: open.admin.key_admin_token,
            accepts_sites: true,
        };
        object_stores::put(&db.pool, keys, &store.name, &put).await?;
    }
    Ok(())
}
