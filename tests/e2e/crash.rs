//! Every kind of operation, at every step: it fails before, its worker vanishes before and after the
//! effect, the effect happens twice, the undo happens twice, the worker vanishes while undoing.
//! Enumerated, not sampled. Ends done or undone, never stuck, and with nothing left behind.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use control_types::{
    Hostname, OperationId, SiteId, Slug,
    state::{DomainKind, OperationKind, OperationState, SiteState},
};
use futures_util::{StreamExt, stream};
use provisioner::{
    certificate_authority::CertificateAuthority,
    control_db::{
        ControlDb, clusters, domains, object_stores, operations, places,
        sites::{self, NewSite},
    },
    dns::{Dns, DnsConfig},
    engine::{Engine, EngineOptions, Fault, Faults, Point},
    instances::{
        InstanceRuntime,
        local::{LocalConfig, LocalRuntime},
    },
    operations::{create_site::CreateSiteParams, delete_site::DeleteSiteParams, planned},
    reconcilers::{Nudges, Schedule, clusters::ClusterReconciler, instances::Instances},
    secrets::Keys,
    site_database::{Clusters, SiteDatabaseName},
    site_storage::{ObjectStores, SitePrefix},
    world::World,
};
use provisioner_api::{
    operations::Operation,
    places::{PutCluster, PutObjectStore, PutRegion},
};
use sqlx::{Connection, PgConnection};
use tests::{Stack, binaries::binary};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const REGION: &str = "id-jakarta";
/// Scenarios at once.
const PARALLEL: usize = 4;
/// Longest time for one operation, with its crashes.
const PATIENCE: Duration = Duration::from_secs(120);

/// What happens to one operation, each once.
type Rules = Vec<(String, Point, Fault)>;

/// Faults by operation.
#[derive(Default)]
struct Script(Mutex<HashMap<OperationId, Rules>>);

impl Script {
    fn rules(&self) -> MutexGuard<'_, HashMap<OperationId, Rules>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Faults for Script {
    fn at(&self, operation: OperationId, _: OperationKind, step: &str, point: Point) -> Fault {
        let mut rules = self.rules();
        let Some(rules) = rules.get_mut(&operation) else { return Fault::None };
        let found = rules.iter().position(|(at, when, _)| at == step && *when == point);
        found.map_or(Fault::None, |index| rules.remove(index).2)
    }
}

/// One scenario: its name, its faults, and how the operation must end.
struct Scenario {
    name: String,
    rules: Rules,
    ends: OperationState,
}

fn scenarios(kind: OperationKind) -> Vec<Scenario> {
    let planned = planned(kind);
    // Without a pivot everything can be undone, up to the last step.
    let pivot = planned.shape.pivot.unwrap_or(planned.steps.len() - 1);
    let pivot_step = &planned.steps[pivot];
    let mut all = Vec::new();
    for (index, step) in planned.steps.iter().enumerate() {
        let mut add = |what: &str, rules: Rules, ends| {
            all.push(Scenario { name: format!("{kind}/{step}/{what}"), rules, ends });
        };
        let at = |point, fault| (step.clone(), point, fault);
        let done = OperationState::Succeeded;
        add("crash before", vec![at(Point::BeforeForward, Fault::Crash)], done);
        add("crash after", vec![at(Point::AfterForward, Fault::Crash)], done);
        add("twice", vec![at(Point::AfterForward, Fault::Again)], done);
        if index > pivot {
            continue;
        }
        let undone = OperationState::Failed;
        add("fail before", vec![at(Point::BeforeForward, Fault::Fail)], undone);
        // The drop of a database is the one effect that no undo brings back.
        if kind == OperationKind::DeleteSite && index == pivot {
            continue;
        }
        let turn = if index == pivot {
            at(Point::AfterForward, Fault::Fail)
        } else {
            (pivot_step.clone(), Point::BeforeForward, Fault::Fail)
        };
        add("undo twice", vec![turn.clone(), at(Point::AfterUndo, Fault::Again)], undone);
        add("crash before undo", vec![turn.clone(), at(Point::BeforeUndo, Fault::Crash)], undone);
        add("crash after undo", vec![turn.clone(), at(Point::AfterUndo, Fault::Crash)], undone);
        add("undo fails once", vec![turn, at(Point::BeforeUndo, Fault::Fail)], undone);
    }
    all
}

/// A provisioner in this process, with a control database of its own.
struct Bench {
    world: Arc<World>,
    engine: Arc<Engine>,
    script: Arc<Script>,
    runtime: Arc<dyn InstanceRuntime>,
    stop: CancellationToken,
    tasks: TaskTracker,
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn start(stack: &Stack) -> Result<Self> {
        let mut admin = PgConnection::connect(&stack.admin_url("control", "postgres")?).await?;
        sqlx::raw_sql("create database crash").execute(&mut admin).await?;
        let url = stack.admin_url("control", "crash")?;
        let mut connection = PgConnection::connect(&url).await?;
        migrations::Schema::Control.migrate(&mut connection).await?;
        let db = ControlDb::new(&url)?;
        let secrets = stack.data_dir().join("secrets");
        let ring = secrets.join(format!("region-{REGION}.keys.json"));
        let files: BTreeMap<String, PathBuf> = BTreeMap::from([(REGION.to_owned(), ring)]);
        let keys = Keys::load(&files).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
        same_places(stack, &db, &keys).await?;
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
        let script = Arc::new(Script::default());
        let engine = Engine::new(
            Arc::clone(&world),
            EngineOptions {
                lease: Duration::from_secs(1),
                parallel: PARALLEL,
                poll: Duration::from_millis(100),
                faults: Arc::clone(&script) as Arc<dyn Faults>,
                ..EngineOptions::default()
            },
        );
        tasks.spawn(Arc::clone(&engine).run(stop.clone()));
        Ok(Self { world, engine, script, runtime, stop, tasks, _directory: directory })
    }

    async fn end(self) -> Result<()> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.runtime.stop_all().await;
        Ok(())
    }

    /// Records an operation as the API does.
    async fn record(
        &self,
        kind: OperationKind,
        site: SiteId,
        params: serde_json::Value,
        rules: Rules,
        new: Option<&Slug>,
    ) -> Result<OperationId> {
        let id = OperationId::generate();
        self.script.rules().insert(id, rules);
        let mut tx = self.world.db.pool.begin().await?;
        if let Some(slug) = new {
            let regions = [REGION.to_owned()];
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
        Ok(id)
    }

    async fn ended(&self, id: OperationId) -> Result<Operation> {
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

    /// Creates a site under this scenario. The site's id when it is there at the end.
    async fn create(&self, number: usize, scenario: &Scenario) -> Result<Option<(SiteId, Slug)>> {
        let site = SiteId::generate();
        let slug: Slug = format!("crash-{number}").parse()?;
        let params = serde_json::to_value(CreateSiteParams {
            region: REGION.to_owned(),
            plan: "professional".to_owned(),
            name: slug.to_string(),
            default_language: "en".to_owned(),
            accounts: Vec::new(),
            sealed_invitation: None,
        })?;
        let kind = OperationKind::CreateSite;
        let id = self.record(kind, site, params, scenario.rules.clone(), Some(&slug)).await?;
        let operation = self.ended(id).await?;
        ensure!(
            operation.state == scenario.ends,
            "ended {}: {:?}",
            operation.state,
            operation.last_error
        );
        self.all_fired(id)?;
        if operation.state == OperationState::Succeeded {
            self.serves(site).await?;
            return Ok(Some((site, slug)));
        }
        self.is_gone(site, SiteDatabaseName::of_placement(id.0)).await?;
        Ok(None)
    }

    /// Deletes a site under this scenario; when that was undone, deletes it for good.
    async fn delete(
        &self,
        site: SiteId,
        created_by: OperationId,
        scenario: &Scenario,
    ) -> Result<()> {
        let params = serde_json::to_value(DeleteSiteParams { grace_period_secs: 0 })?;
        let kind = OperationKind::DeleteSite;
        let id = self.record(kind, site, params.clone(), scenario.rules.clone(), None).await?;
        let operation = self.ended(id).await?;
        ensure!(
            operation.state == scenario.ends,
            "ended {}: {:?}",
            operation.state,
            operation.last_error
        );
        self.all_fired(id)?;
        if operation.state != OperationState::Succeeded {
            self.serves(site).await?;
            let id = self.record(kind, site, params, Vec::new(), None).await?;
            let state = self.ended(id).await?.state;
            ensure!(state == OperationState::Succeeded, "the second deletion ended {state}");
        }
        self.is_gone(site, SiteDatabaseName::of_placement(created_by.0)).await
    }

    fn all_fired(&self, id: OperationId) -> Result<()> {
        let rules = self.script.rules().remove(&id);
        ensure!(rules.as_ref().is_none_or(Vec::is_empty), "never happened: {rules:?}");
        Ok(())
    }

    async fn serves(&self, site: SiteId) -> Result<()> {
        let shown =
            sites::get(&self.world.db.pool, site).await?.context("the site's row is gone")?;
        ensure!(shown.state == SiteState::Active, "the site is {}", shown.state);
        let placement = shown.placement.context("no placement")?;
        let name: SiteDatabaseName = placement.database.parse()?;
        let cluster = self.cluster().await?;
        cluster.check_isolation(&name).await?;
        let instance = shown.instance.context("no instance")?;
        let observed = self.runtime.observe().await?;
        ensure!(observed.iter().any(|seen| seen.id == instance.id), "the instance is not there");
        Ok(())
    }

    async fn cluster(&self) -> Result<provisioner::site_database::SiteDatabases> {
        let rows = clusters::list(&self.world.db.pool).await?;
        Ok(self.world.clusters.get(rows.first().context("no cluster")?.id).await?)
    }

    /// No row that claims something, no database, no role, no key, no file, no process.
    async fn is_gone(&self, site: SiteId, name: SiteDatabaseName) -> Result<()> {
        let pool = &self.world.db.pool;
        let shown = sites::get(pool, site).await?.context("the record is gone")?;
        ensure!(shown.state == SiteState::Deleted, "the site is {}", shown.state);
        ensure!(shown.domains.is_empty(), "hostnames are left: {:?}", shown.domains);
        ensure!(shown.placement.is_none(), "a placement is left");
        let left: i64 = sqlx::query_scalar(
            "select (select count(*) from instance where site_id = $1)
                  + (select count(*) from certificate where site_id = $1)
                  + (select count(*) from placement where site_id = $1 and state <> 'retired')",
        )
        .bind(site.0)
        .fetch_one(pool)
        .await?;
        ensure!(left == 0, "{left} rows are left");
        let cluster = self.cluster().await?;
        ensure!(!cluster.exists(&name).await?, "the database is left");
        ensure!(!cluster.list_site_roles().await?.contains(&name), "roles are left");
        let stores = object_stores::list(pool).await?;
        let store = stores.first().context("no object store")?;
        let store = self.world.object_stores.get(store.id).await?;
        let prefix = SitePrefix::of(site);
        ensure!(store.prefix_is_empty(&prefix).await?, "files are left");
        let keys = store.list_keys().await?;
        ensure!(keys.iter().all(|key| key.prefix != prefix.to_string()), "a key is left");
        Ok(())
    }
}

/// The same cluster and object store as the platform's own, in the bench's control database.
async fn same_places(stack: &Stack, db: &ControlDb, keys: &Keys) -> Result<()> {
    let own = ControlDb::new(&stack.control_database_url()?)?;
    let region = PutRegion { display_name: "Jakarta".to_owned(), edge_addresses: None };
    places::put_region(&db.pool, REGION, &region).await?;
    for cluster in clusters::list(&own.pool).await? {
        if cluster.region == REGION {
            let open = clusters::get(&own.pool, keys, cluster.id).await?;
            let put = PutCluster {
                region: REGION.to_owned(),
                admin_url: open.admin_url.0,
                app_host: cluster.app_host,
                app_port: cluster.app_port,
                max_databases: cluster.max_databases,
                accepts_sites: true,
                replication_host: None,
                replication_port: None,
            };
            clusters::put(&db.pool, keys, &cluster.name, &put).await?;
        }
    }
    for store in object_stores::list(&own.pool).await? {
        if store.region == REGION {
            let open = object_stores::get(&own.pool, keys, store.id).await?;
            let put = PutObjectStore {
                region: REGION.to_owned(),
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
    }
    Ok(())
}

pub async fn every_step_of_every_kind(stack: &Stack) -> Result<()> {
    let bench = Bench::start(stack).await?;
    let creates: Vec<(usize, Scenario)> =
        scenarios(OperationKind::CreateSite).into_iter().enumerate().collect();
    let made: Vec<Result<Option<(SiteId, Slug)>>> = stream::iter(&creates)
        .map(|(number, scenario)| async {
            let made = bench.create(*number, scenario).await;
            made.with_context(|| scenario.name.clone())
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let mut sites = Vec::new();
    for made in made {
        sites.extend(made?);
    }
    // Each deletion needs a site; those that the creations left come first.
    let plain = |name: &str| Scenario {
        name: name.to_owned(),
        rules: Vec::new(),
        ends: OperationState::Succeeded,
    };
    let deletes = scenarios(OperationKind::DeleteSite);
    for number in sites.len()..deletes.len() {
        sites.extend(bench.create(1000 + number, &plain("plain")).await?);
    }
    let extra = sites.len().saturating_sub(deletes.len());
    let all = deletes.into_iter().chain((0..extra).map(|_| plain("delete")));
    let outcomes: Vec<Result<()>> = stream::iter(sites.iter().zip(all))
        .map(|((site, _), scenario)| {
            let bench = &bench;
            async move {
                let created_by: OperationId = sqlx::query_scalar(
                    "select id from operation where site_id = $1 and kind = 'create_site'",
                )
                .bind(site.0)
                .fetch_one(&bench.world.db.pool)
                .await?;
                let gone = bench.delete(*site, created_by, &scenario).await;
                gone.with_context(|| scenario.name.clone())
            }
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    outcomes.into_iter().collect::<Result<()>>()?;
    ensure!(bench.runtime.observe().await?.is_empty(), "an instance is left");
    bench.end().await
}
