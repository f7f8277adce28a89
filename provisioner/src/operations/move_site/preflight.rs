//! What can be known before a move: everything that would stop it later, said at once, and what it will
//! take. Looks only.

use std::time::Duration;

use control_types::{SiteId, state::SiteState};
use time::{OffsetDateTime, UtcOffset, macros::format_description};
use tokio::time::Instant;

use super::{MoveSite, MoveSiteParams};
use crate::{
    control_db::{clusters, object_stores, placements, sites},
    engine::{Cx, Flow, StepError, StepResult},
    operations::changeover::{Pace, Side, Sides, far::shown},
    site_database::{Readiness, SiteDatabaseError, SiteDatabases},
    world::World,
};

/// Room on a disk that a place needs besides the site's own bytes, and the part more of those: for the
/// log, and for what dies while it is copied.
const ROOM: u64 = 256 * 1024 * 1024;
const ROOM_PART: u64 = 2;
/// Bytes of files that arrive in a second when nothing holds them back.
const FILES_PER_SECOND: u64 = 60 * 1024 * 1024;
/// What a table costs whatever its size, and what the steps besides the copy take.
const PER_TABLE_MS: u64 = 120;
const BESIDES_MS: u64 = 4_000;
/// What a switch takes besides the way there and back.
const SWITCH_MS: u64 = 100;

/// What a move will take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes of rows and files.
    pub bytes: u64,
    /// From the beginning to the switch, in milliseconds.
    pub copy_ms: u64,
    /// How long requests will be held, in milliseconds.
    pub pause_ms: u64,
}

/// How long a move waits for others before it looks again.
const BUSY: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What would stop the move, in words.
    pub problems: Vec<String>,
    /// Who does not answer now, in words: nobody begins a move like that, and one that has begun waits.
    pub away: Vec<String>,
    /// What it would wait for before it begins, in words.
    pub waits: Vec<String>,
    /// If it could be told.
    pub estimate: Estimate,
}

/// The step: fails with everything that was found, and waits until both clusters have room.
pub async fn run(cx: &mut Cx<'_, MoveSite>) -> StepResult {
    let Findings { problems, away, waits, estimate } = look(cx.world, cx.site, &cx.params).await?;
    if !problems.is_empty() {
        return Err(StepError::fail(problems.join("; ")));
    }
    let waits: Vec<_> = away.into_iter().chain(waits).collect();
    if !waits.is_empty() {
        return Ok(Flow::Wait { pause: BUSY, reason: waits.join("; ") });
    }
    let Estimate { bytes, copy_ms, pause_ms } = estimate;
    Ok(Flow::Noted(format!(
        "{} to move in about {} s, a pause of about {pause_ms} ms",
        shown(bytes),
        copy_ms / 1000
    )))
}

/// Looks at everything. What cannot be reached is a problem too, not an error.
///
/// # Errors
/// When the control database does not answer.
pub async fn look(
    world: &World,
    site: SiteId,
    params: &MoveSiteParams,
) -> Result<Findings, StepError> {
    let mut findings = Findings::default();
    let Some(shown) = sites::get(&world.db.pool, site).await? else {
        return Err(StepError::fail("the site is gone"));
    };
    if shown.state != SiteState::Active {
        findings
            .problem(format!("site '{}' is {}: only an active one moves", shown.slug, shown.state));
    }
    if !shown.allowed_regions.contains(&params.region) {
        findings.problem(format!(
            "site '{}' may only be in {}: if its customer agrees, `ta3lem site regions {} --allow {}`",
            shown.slug,
            shown.allowed_regions.join(", "),
            shown.slug,
            params.region
        ));
    }
    let mut connection = world.db.pool.acquire().await?;
    if let Some(kept) = placements::following(&mut connection, site).await? {
        let (why, how) = match kept.follows {
            true => ("for the way back", "move it back (`ta3lem site move-back`)"),
            false => ("for undoing the restore", "undo that (`ta3lem site undo-restore`)"),
        };
        findings.problem(format!(
            "the site's place in {} is kept {why} until {}: {how}, or settle it first (`ta3lem site \
             settle`)",
            kept.placement.region,
            minute(kept.until)
        ));
    }
    let source = Side::current(world, site).await?;
    let chosen = clusters::choose(
        &mut connection,
        &params.region,
        params.cluster.as_deref(),
        Some(source.placement.cluster),
    );
    let target = match chosen.await? {
        Ok(cluster) => Some(world.clusters.get(cluster.id).await?),
        Err(error) => {
            findings.problem(match &params.cluster {
                Some(wanted) => format!("cluster {wanted} does not take the site: {error}"),
                None => error.to_string(),
            });
            None
        }
    };
    let same_region = params.region == source.placement.region;
    if !same_region
        && let Err(error) = object_stores::choose_for_site(&mut connection, &params.region).await?
    {
        findings.problem(error.to_string());
    }
    drop(connection);
    if !same_region {
        look_at_routers(world, &params.region, &mut findings).await?;
    }
    look_at_source(&source, &mut findings).await;
    if let Some(target) = &target {
        look_at_target(&source, target, &mut findings).await;
    }
    let rows = estimate(&source, target.as_ref(), same_region, params.pace, &mut findings).await;
    if let Some(target) = &target {
        look_at_disk(target, rows, &mut findings).await;
    }
    Ok(findings)
}

/// What would stop the way back: the stream must run, and both schemas be the same.
pub async fn of_way_back(sides: &Sides) -> Result<Vec<String>, StepError> {
    let mut problems = Vec::new();
    let (source, target) = (&sides.source, &sides.target);
    let versions = [
        source.cluster.schema_version(&source.database).await?,
        target.cluster.schema_version(&target.database).await?,
    ];
    if versions[0] != versions[1] {
        problems.push(
            "the schema was changed since the move, so the old place could not follow any more"
                .to_owned(),
        );
    }
    if !target.cluster.copy_status(&target.database).await?.is_complete() {
        problems.push("the old place does not follow the site any more".to_owned());
    }
    Ok(problems)
}

/// For people.
fn minute(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    at.to_offset(UtcOffset::UTC).format(&format).unwrap_or_else(|_| at.to_string())
}

impl Findings {
    fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    fn error(&mut self, error: &SiteDatabaseError) {
        let told = error.to_string();
        match error {
            SiteDatabaseError::ClusterDown { .. } if self.away.contains(&told) => {}
            SiteDatabaseError::ClusterDown { .. } => self.away.push(told),
            _ => self.problem(told),
        }
    }
}

async fn look_at_routers(
    world: &World,
    region: &str,
    findings: &mut Findings,
) -> Result<(), StepError> {
    let routers = crate::control_db::places::routers(&world.db.pool).await?;
    let there: Vec<_> = routers.into_iter().filter(|router| router.region == region).collect();
    if there.is_empty() {
        findings.problem(format!("region {region} has no router"));
    }
    for router in there {
        if router.passthrough_address.is_none() {
            findings.problem(format!(
                "router {} takes no connections over from other regions (`passthrough_address`)",
                router.name
            ));
        }
        if let Err(error) = world.router_status(&router).await {
            findings.away.push(format!("router {} does not answer: {error}", router.name));
        }
    }
    Ok(())
}

async fn look_at_source(source: &Side, findings: &mut Findings) {
    match source.cluster.check_isolation(&source.database).await {
        Ok(found) => found.into_iter().for_each(|found| findings.problem(found)),
        Err(error) => return findings.error(&error),
    }
    match source.cluster.schema_version(&source.database).await {
        Ok(Some(version)) if version == migrations::Schema::Site.latest_version() => {}
        Ok(version) => findings.problem(format!(
            "the site's schema is of version {}, new databases are made with {}: migrate it first",
            version.map_or_else(|| "?".to_owned(), |version| version.to_string()),
            migrations::Schema::Site.latest_version()
        )),
        Err(error) => findings.error(&error),
    }
    look_at_replication(&source.cluster, findings).await;
}

async fn look_at_target(source: &Side, target: &SiteDatabases, findings: &mut Findings) {
    look_at_replication(target, findings).await;
    let locales = (source.cluster.locale(&source.database).await, target.template_locale().await);
    match locales {
        (Ok(ours), Ok(theirs)) if ours != theirs => findings.problem(format!(
            "the database has {ours}, new ones on cluster {} have {theirs}",
            target.cluster()
        )),
        (Err(error), _) | (_, Err(error)) => findings.error(&error),
        _ => {}
    }
}

async fn look_at_replication(cluster: &SiteDatabases, findings: &mut Findings) {
    match cluster.replication_readiness().await {
        Ok(Readiness { problems, busy }) => {
            findings.problems.extend(problems);
            findings.waits.extend(busy);
        }
        Err(error) => findings.error(&error),
    }
}

/// What the move will take; the bytes of the rows.
async fn estimate(
    source: &Side,
    target: Option<&SiteDatabases>,
    same_region: bool,
    pace: Pace,
    findings: &mut Findings,
) -> u64 {
    let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or_default();
    let rows = bytes(source.cluster.table_bytes(&source.database).await.unwrap_or_default());
    let (tables, files) = source.cluster.contents(&source.database).await.unwrap_or_default();
    let files = if same_region { 0 } else { bytes(files) };
    let mut way = Duration::ZERO;
    for cluster in [Some(&source.cluster), target].into_iter().flatten() {
        let begun = Instant::now();
        if cluster.round_trip().await.is_ok() {
            way = way.max(begun.elapsed());
        }
    }
    let way_ms = u64::try_from(way.as_millis()).unwrap_or_default();
    let files_per_second = pace.files().bytes_per_second.unwrap_or(FILES_PER_SECOND);
    findings.estimate = Estimate {
        bytes: rows + files,
        // Everything is read once more to be compared.
        copy_ms: 2 * (rows * 1000 / pace.rows_per_second() + files * 1000 / files_per_second)
            + bytes(tables) * PER_TABLE_MS
            + BESIDES_MS,
        pause_ms: SWITCH_MS + 2 * way_ms,
    };
    rows
}

async fn look_at_disk(target: &SiteDatabases, rows: u64, findings: &mut Findings) {
    match target.free_disk().await {
        Ok(Some(free)) => findings.problems.extend(short_of_disk(target.cluster(), free, rows)),
        Ok(None) => {}
        Err(error) => findings.error(&error),
    }
}

/// What there is to say when so many bytes are free for so many bytes of rows.
fn short_of_disk(cluster: &str, free: u64, rows: u64) -> Option<String> {
    let needed = rows + rows / ROOM_PART + ROOM;
    (free < needed).then(|| {
        format!(
            "cluster {cluster} has {} of its disk left, the site takes {} there: make room, or name \
             another cluster (`--to-cluster`)",
            shown(free),
            shown(needed)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::short_of_disk;

    #[test]
    fn a_disk_that_is_too_small_is_named() {
        let free = 1 << 30;
        assert_eq!(short_of_disk("singapore-1", free, 512 << 20), None);
        let problem = short_of_disk("singapore-1", free, 513 << 20).expect("too small");
        assert!(problem.contains("cluster singapore-1 has 1.0 GiB"), "{problem}");
    }
}
