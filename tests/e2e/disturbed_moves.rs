//! A site goes to another region and back, again and again, and each time something happens in the
//! middle of it: a process is killed or stands still, a way between two is cut. A minute after it is
//! over the site is at one place, answers, and has every write that was acknowledged.
//!
//! A few of all that can happen in each run of the tests. All of it, at every step, by hand: with
//! `DISTURB=/` (or parts of names, as `DISTURB=switch/Killed,Open`), and `DISTURB_SHARE=1/3` for the
//! second third of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control_types::{
    OperationId,
    state::{OperationKind, OperationState},
};
use provisioner::{
    control_db::{
        ControlDb,
        placements::{self, Placement},
    },
    secrets::Keys,
};
use provisioner_api::{
    operations::Operation,
    sites::{ChangeMove, MoveSite},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::{Stack, Visitor, places, stack::Start};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    crash::{Ground, Homes, Nomad, Servers, look_at_databases},
    site_life::request,
};

mod disturbance;
mod ways;

use disturbance::{Disturbance, Moment, Places};
use ways::Ways;

const SLUG: &str = "survivor";
const REGIONS: [&str; 2] = ["id-jakarta", "sg-singapore"];
/// How long all may take to be well again.
const HEALING: Duration = Duration::from_secs(60);
/// Between two visits, so that several of these stories have room on one machine.
const PACE: Duration = Duration::from_millis(50);
/// How long a move may take to come to a moment.
const PATIENCE: Duration = Duration::from_secs(120);
/// When it is set, everything happens at every step whose names have one of these parts.
const EACH: &str = "DISTURB";
/// Which part of it, as `0/2`.
const SHARE: &str = "DISTURB_SHARE";

pub async fn whatever_happens_in_the_middle() -> Result<()> {
    let stack = tokio::task::spawn_blocking(|| Stack::start(Start::default())).await??;
    let secrets = stack.data_dir().join("secrets");
    let ring = |region: &str| secrets.join(format!("region-{region}.keys.json"));
    let files = REGIONS.iter().map(|region| ((*region).to_owned(), ring(region))).collect();
    let keys = Keys::load(&files).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let control = ControlDb::new(&stack.control_database_url()?)?.pool;
    let (servers, ground) = (Servers::of(&stack)?, Ground { control, keys });
    let ways = Ways::put(&stack).await?;
    let story = Story { servers, ground, ways, stack };
    let origin = story.create().await?;
    let site = story.stack.api()?.site(SLUG).await?;
    let mut nomad = Nomad::new(site.id, SLUG.parse()?);
    let mut homes = story.look(&mut nomad).await?;
    for disturbance in chosen()? {
        let name = disturbance.name();
        homes = story.prepare(&mut nomad, homes, disturbance.kind).await?;
        let leg = story.leg(&mut nomad, &homes, &origin, &disturbance).await;
        homes = leg.with_context(|| name)?;
    }
    let stack = story.stack;
    tokio::task::spawn_blocking(|| stack.stop()).await??;
    Ok(())
}

fn chosen() -> Result<Vec<Disturbance>> {
    let set = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let Some(parts) = set(EACH) else { return Ok(Disturbance::some()) };
    let is_asked = |name: &str| parts.split(',').any(|part| name.contains(part));
    let asked = Disturbance::all().into_iter().filter(|disturbance| is_asked(&disturbance.name()));
    let share = set(SHARE).unwrap_or_else(|| "0/1".to_owned());
    let (mine, of) = share.split_once('/').context("not as 0/2")?;
    let (mine, of): (usize, usize) = (mine.parse()?, of.parse()?);
    Ok(asked.enumerate().filter(|(n, _)| n % of == mine).map(|(_, asked)| asked).collect())
}

struct Story {
    stack: Stack,
    servers: Servers,
    ground: Ground,
    ways: Ways,
}

impl Story {
    async fn create(&self) -> Result<String> {
        let api = self.stack.api()?;
        let mut site = request(SLUG);
        site.allowed_regions = Some(REGIONS.map(str::to_owned).to_vec());
        let accepted = api.create_site(&site, &Uuid::new_v4().to_string()).await?;
        self.done(&accepted.operation).await?;
        self.stack.url(SLUG, REGIONS[0])
    }

    async fn done(&self, operation: &Operation) -> Result<()> {
        let ended = self.stack.api()?.wait_for(operation.id).await?;
        ensure!(ended.state == OperationState::Succeeded, "{}: {:?}", ended.kind, ended.last_error);
        Ok(())
    }

    async fn look(&self, nomad: &mut Nomad) -> Result<Homes> {
        Ok(look_at_databases(&self.ground, &self.servers, nomad).await?.0)
    }

    /// Brings the site to where an operation of the kind can begin.
    async fn prepare(&self, nomad: &mut Nomad, homes: Homes, kind: OperationKind) -> Result<Homes> {
        // What the last one killed is well again, and the provisioner knows it.
        places::ready(&self.stack.api()?).await?;
        let (api, key) = (self.stack.api()?, Uuid::new_v4().to_string());
        let accepted = match (kind, homes.following.is_some()) {
            (OperationKind::MoveSite, true) => {
                api.settle_site(SLUG, &ChangeMove::default(), &key).await?
            }
            (OperationKind::MoveSiteBack, false) => {
                let wanted = MoveSite { region: Some(other(&homes)?), ..MoveSite::default() };
                api.move_site(SLUG, &wanted, &key).await?
            }
            _ => return Ok(homes),
        };
        self.done(&accepted.operation).await?;
        self.look(nomad).await
    }

    /// One operation, and what happens in it. Where the site is then.
    async fn leg(
        &self,
        nomad: &mut Nomad,
        before: &Homes,
        origin: &str,
        disturbance: &Disturbance,
    ) -> Result<Homes> {
        let visitor = self.stack.visitor()?;
        visitor.sign_in(origin, &format!("admin@{SLUG}.test"), "a-long-password-1").await?;
        let stop = CancellationToken::new();
        let moving = async {
            let moved = self.disturb(before, disturbance).await;
            stop.cancel();
            moved
        };
        let (moved, written, visited) = tokio::join!(
            moving,
            nomad.write_until(&self.ground, stop.clone()),
            visit(&visitor, origin, &stop)
        );
        let (operation, healed) = moved?;
        let state = operation.state;
        written.context("the ledger")?;
        let visits = visited.context("the visitor")?;
        let after = self.look(nomad).await?;
        let (was, is) = (before.current.as_ref(), after.current.as_ref());
        let has_moved = was.map(|place| place.id) != is.map(|place| place.id);
        ensure!(
            has_moved == (state == OperationState::Succeeded),
            "{state}, and moved: {has_moved}"
        );
        println!(
            "{}: {state} after {healed:?}, {} rows of {} and {visits} visits {}",
            disturbance.name(),
            nomad.acknowledged.len(),
            nomad.acknowledged.len() + nomad.unsure.len(),
            operation.last_error.unwrap_or_default(),
        );
        Ok(after)
    }

    /// Moves the site and lets it happen meanwhile. How the operation ended, and how long after it was
    /// over.
    async fn disturb(
        &self,
        before: &Homes,
        disturbance: &Disturbance,
    ) -> Result<(Operation, Duration)> {
        let api = self.stack.api()?;
        let source = before.current.as_ref().context("the site is nowhere")?;
        let key = Uuid::new_v4().to_string();
        let accepted = if disturbance.kind == OperationKind::MoveSiteBack {
            api.move_site_back(SLUG, &ChangeMove::default(), &key).await?
        } else {
            let wanted = MoveSite { region: Some(other(before)?), ..MoveSite::default() };
            api.move_site(SLUG, &wanted, &key).await?
        };
        let id = accepted.operation.id;
        let target = self.await_moment(id, &disturbance.when, before).await?;
        let places = Places { source, target: &target };
        disturbance.what.happen(&self.stack, &self.ways, &places).await?;
        let over = Instant::now();
        loop {
            // It may be away itself.
            match api.operation(id).await {
                Ok(operation) if operation.state.is_final() => {
                    return Ok((operation, over.elapsed()));
                }
                Ok(operation) if over.elapsed() > HEALING => {
                    bail!("is not well again: {operation:#?}")
                }
                Err(error) if over.elapsed() > HEALING => bail!("is not back: {error}"),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Waits until the operation has come to the moment. Its target: before one is chosen, where it
    /// will be.
    async fn await_moment(
        &self,
        id: OperationId,
        moment: &Moment,
        before: &Homes,
    ) -> Result<Placement> {
        let mut control = self.ground.control.acquire().await?;
        let step = match moment {
            Moment::Begun(step) => step,
            Moment::Fenced | Moment::Open => "switch",
        };
        let begun = format!(
            "select exists (select from operation_event where operation_id = '{id}'
                 and step = '{step}' and event = 'started')"
        );
        until(&mut control, &begun).await.with_context(|| format!("no {step}"))?;
        let source = before.current.as_ref().context("the site is nowhere")?;
        let target = match &before.following {
            Some(following) => following.clone(),
            None => placements::get(&mut control, id.0).await?.map_or_else(
                || anyhow::Ok(Placement { region: other(before)?, id: id.0, ..source.clone() }),
                Ok,
            )?,
        };
        let (place, state) = match moment {
            Moment::Begun(_) => return Ok(target),
            Moment::Fenced => (source, "'fenced', 'retired'"),
            Moment::Open => (&target, "'primary'"),
        };
        let mut database = self.servers.connect(&place.region, &place.database_name).await?;
        let sql =
            format!("select exists (select from platform.site_authority where state in ({state}))");
        until(&mut database, &sql).await?;
        database.close().await?;
        Ok(target)
    }
}

/// Writes and reads over HTTPS until `stop`, and once more when all is well again. What was
/// answered well must be there; not everything is answered well when servers are killed. How many
/// were.
async fn visit(visitor: &Visitor, origin: &str, stop: &CancellationToken) -> Result<u32> {
    let mut visits = 0;
    while !stop.is_cancelled() {
        visits += u32::from(once(visitor, origin, visits).await?);
        tokio::time::sleep(PACE).await;
    }
    let began = Instant::now();
    while !once(visitor, origin, visits).await? {
        ensure!(began.elapsed() < HEALING, "the site does not answer");
        tokio::time::sleep(PACE).await;
    }
    Ok(visits)
}

/// A write and a read of it; false when one of them was not answered well. An error when what was
/// written is not read.
async fn once(visitor: &Visitor, origin: &str, number: u32) -> Result<bool> {
    let language = if number.is_multiple_of(2) { "id" } else { "en" };
    let post = visitor.http().post(format!("{origin}/language")).header("origin", origin);
    let post = post.form(&[("language", language), ("next", "/courses")]).timeout(HEALING);
    match post.send().await {
        Ok(answer) if answer.status().is_redirection() => {}
        _ => return Ok(false),
    }
    let Ok(page) = visitor.read(&format!("{origin}/courses")).await else { return Ok(false) };
    ensure!(page.contains(&format!("lang=\"{language}\"")), "an older page: {page}");
    Ok(true)
}

/// The region where the site is not.
fn other(homes: &Homes) -> Result<String> {
    let here = &homes.current.as_ref().context("the site is nowhere")?.region;
    let other = REGIONS.into_iter().find(|region| region != here);
    Ok(other.context("no other region")?.to_owned())
}

/// Waits until a query says that it is so: what goes on in a database tells nobody, and here a moment
/// is to be met.
async fn until(connection: &mut PgConnection, sql: &str) -> Result<()> {
    let asked = async {
        loop {
            let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).persistent(false);
            if query.fetch_one(&mut *connection).await? {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.with_context(|| format!("never so: {sql}"))?
}
