//! A site goes to another region and back, again and again, and each time somebody is killed in the
//! moment of the switch: the provisioner, the server that is left, the server that is reached. A minute
//! later the site is at one place, answers, and has every write that was acknowledged.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control_types::{OperationId, state::OperationState};
use provisioner::{
    control_db::{
        ControlDb,
        placements::{self, Placement},
    },
    secrets::Keys,
};
use provisioner_api::sites::{ChangeMove, MoveSite};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::{Stack, Visitor, stack::Start};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    crash::{Ground, Homes, Nomad, Servers, look_at_databases},
    site_life::request,
};

const SLUG: &str = "survivor";
const REGIONS: [&str; 2] = ["id-jakarta", "sg-singapore"];
/// How long all may take to be well again.
const HEALING: Duration = Duration::from_secs(60);
/// How long a move may take to come to its switch.
const PATIENCE: Duration = Duration::from_secs(120);

/// When.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The step has begun.
    Begun,
    /// The source is not written any more.
    Fenced,
    /// The target is the site.
    Open,
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Provisioner,
    Source,
    Target,
}

/// The first one goes, those after it come back by turns.
const KILLS: [(Victim, Moment); 7] = [
    (Victim::Provisioner, Moment::Fenced),
    (Victim::Provisioner, Moment::Begun),
    (Victim::Source, Moment::Begun),
    (Victim::Target, Moment::Fenced),
    (Victim::Provisioner, Moment::Open),
    (Victim::Source, Moment::Fenced),
    (Victim::Target, Moment::Open),
];

pub async fn somebody_is_killed_at_the_switch() -> Result<()> {
    let stack = tokio::task::spawn_blocking(|| Stack::start(Start::default())).await??;
    let secrets = stack.data_dir().join("secrets");
    let ring = |region: &str| secrets.join(format!("region-{region}.keys.json"));
    let files = REGIONS.iter().map(|region| ((*region).to_owned(), ring(region))).collect();
    let keys = Keys::load(&files).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let control = ControlDb::new(&stack.control_database_url()?)?.pool;
    let story = Story { servers: Servers::of(&stack)?, ground: Ground { control, keys }, stack };
    let origin = story.create().await?;
    let site = story.stack.api()?.site(SLUG).await?;
    let mut nomad = Nomad::new(site.id, SLUG.parse()?);
    let mut homes = story.look(&mut nomad).await?;
    for (victim, moment) in KILLS {
        let leg = story.leg(&mut nomad, &homes, &origin, victim, moment).await;
        homes = leg.with_context(|| format!("{victim:?} killed when {moment:?}"))?;
    }
    let stack = story.stack;
    tokio::task::spawn_blocking(|| stack.stop()).await??;
    Ok(())
}

struct Story {
    stack: Stack,
    servers: Servers,
    ground: Ground,
}

impl Story {
    async fn create(&self) -> Result<String> {
        let api = self.stack.api()?;
        let mut site = request(SLUG);
        site.allowed_regions = Some(REGIONS.map(str::to_owned).to_vec());
        let accepted = api.create_site(&site, &Uuid::new_v4().to_string()).await?;
        let operation = api.wait_for(accepted.operation.id).await?;
        ensure!(operation.state == OperationState::Succeeded, "{:?}", operation.last_error);
        self.stack.url(SLUG, REGIONS[0])
    }

    async fn look(&self, nomad: &mut Nomad) -> Result<Homes> {
        Ok(look_at_databases(&self.ground, &self.servers, nomad).await?.0)
    }

    /// One move, with a kill. Where the site is then.
    async fn leg(
        &self,
        nomad: &mut Nomad,
        before: &Homes,
        origin: &str,
        victim: Victim,
        moment: Moment,
    ) -> Result<Homes> {
        let stop = CancellationToken::new();
        let moving = async {
            let moved = self.kill(before, victim, moment).await;
            stop.cancel();
            moved
        };
        let (moved, written, visited) = tokio::join!(
            moving,
            nomad.write_until(&self.ground, stop.clone()),
            self.visit(origin, &stop)
        );
        let (state, healed) = moved?;
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
            "{victim:?} killed when {moment:?}: {state} after {healed:?}, {} rows of {} and {visits} visits",
            nomad.acknowledged.len(),
            nomad.acknowledged.len() + nomad.unsure.len(),
        );
        Ok(after)
    }

    /// Moves the site and kills somebody meanwhile. How the operation ended, and how long after the
    /// kill.
    async fn kill(
        &self,
        before: &Homes,
        victim: Victim,
        moment: Moment,
    ) -> Result<(OperationState, Duration)> {
        let api = self.stack.api()?;
        let source = before.current.as_ref().context("the site is nowhere")?;
        let key = Uuid::new_v4().to_string();
        let accepted = if before.following.is_some() {
            api.move_site_back(SLUG, &ChangeMove::default(), &key).await?
        } else {
            let wanted = MoveSite { region: Some(REGIONS[1].to_owned()), ..MoveSite::default() };
            api.move_site(SLUG, &wanted, &key).await?
        };
        let id = accepted.operation.id;
        let target = self.await_moment(id, moment, before).await?;
        let component = match victim {
            Victim::Provisioner => "provisioner".to_owned(),
            Victim::Source => format!("postgres-{}", source.region),
            Victim::Target => format!("postgres-{}", target.region),
        };
        let process = Pid::from_raw(self.stack.process(&component)?).context("no process")?;
        kill_process(process, Signal::KILL)?;
        let killed = Instant::now();
        loop {
            // It may be away itself.
            match api.operation(id).await {
                Ok(operation) if operation.state.is_final() => {
                    return Ok((operation.state, killed.elapsed()));
                }
                Ok(operation) if killed.elapsed() > HEALING => {
                    bail!("is not well again: {operation:#?}")
                }
                Err(error) if killed.elapsed() > HEALING => bail!("is not back: {error}"),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Waits until the operation has come to the moment. Its target.
    async fn await_moment(
        &self,
        id: OperationId,
        moment: Moment,
        before: &Homes,
    ) -> Result<Placement> {
        let mut control = self.ground.control.acquire().await?;
        let begun = format!(
            "select exists (select from operation_event where operation_id = '{id}'
                 and step = 'switch' and event = 'started')"
        );
        until(&mut control, &begun).await.context("no switch")?;
        let target = match &before.following {
            Some(following) => following.clone(),
            None => placements::get(&mut control, id.0).await?.context("no target")?,
        };
        let source = before.current.as_ref().context("the site is nowhere")?;
        let (place, state) = match moment {
            Moment::Begun => return Ok(target),
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

    /// Writes and reads over HTTPS until `stop`, and once more when all is well again. What was
    /// answered well must be there; not everything is answered well when servers are killed. How many
    /// were.
    async fn visit(&self, origin: &str, stop: &CancellationToken) -> Result<u32> {
        let visitor = self.stack.visitor()?;
        let email = format!("admin@{SLUG}.test");
        visitor.sign_in(origin, &email, "a-long-password-1").await?;
        let mut visits = 0;
        while !stop.is_cancelled() {
            match once(&visitor, origin, visits).await? {
                true => visits += 1,
                false => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        let began = Instant::now();
        while !once(&visitor, origin, visits).await? {
            ensure!(began.elapsed() < HEALING, "the site does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(visits)
    }
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
