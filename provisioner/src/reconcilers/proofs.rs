//! Every site is put back now and then, beside itself and for nobody, to prove that it can be: one in a
//! region at a time, so that all have their turn within a week.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use super::recording::ACTOR;
use crate::{
    control_db::{previews as records, restore_proofs, sites},
    engine::Engine,
    previews::{self, NotMade, Wanted},
    proofs,
    world::World,
};

/// Then it goes, whatever became of it.
const LONGEST: Duration = Duration::hours(12);

/// Looks at what was brought back, and begins what is due.
///
/// # Errors
/// When the control database does not answer.
pub async fn run_once(world: &World, engine: &Arc<Engine>) -> anyhow::Result<()> {
    let pool = &world.db.pool;
    for made in restore_proofs::made(pool).await? {
        let found = proofs::look(world, &made).await?;
        if let Err(problem) = &found {
            tracing::warn!(site.id = %made.of, "no proof that the site can be put back: {problem}");
        }
        restore_proofs::put(pool, made.of, &found).await?;
        records::expire(pool, made.preview).await?;
        world.nudges.all();
    }
    for site in restore_proofs::due(pool).await? {
        let Some(of) = sites::get(pool, site).await? else { continue };
        let now = OffsetDateTime::now_utc();
        let past = match previews::past(world, &of, now, now).await {
            Ok(past) => past,
            Err(NotMade::Database(error)) => return Err(error.into()),
            Err(error) => {
                restore_proofs::put(pool, site, &Err(error.to_string())).await?;
                continue;
            }
        };
        let wanted = Wanted {
            of: &of,
            past,
            expires_at: now + LONGEST,
            actor: ACTOR,
            reason: Some("to prove that the site can be put back"),
            idempotency_key: None,
            is_proof: true,
        };
        previews::make(world, wanted).await?;
        engine.nudge();
    }
    Ok(())
}
