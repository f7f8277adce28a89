//! `/v1/backups`, and what keepers say and ask: `/v1/keeper`.

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use provisioner_api::backups::{ClusterBackups, KeeperReport, KeeperSettings, PutKeeper};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    backups,
    control_db::{cluster_backups, object_stores},
    http::{Api, auth::KeptCluster, refusal::Refusal, validate::Body},
};

/// Shortest token of a keeper, in letters.
const MIN_TOKEN: usize = 32;

/// How the backups of all clusters are.
pub async fn list(State(api): State<Api>) -> Result<Json<Vec<ClusterBackups>>, Refusal> {
    let now = OffsetDateTime::now_utc();
    let known = cluster_backups::list(&api.world.db.pool).await?.into_iter();
    Ok(Json(known.map(|known| backups::shown(known, now)).collect()))
}

/// Lets a keeper speak for a cluster.
pub async fn put_keeper(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(keeper): Body<PutKeeper>,
) -> Result<Json<ClusterBackups>, Refusal> {
    let plain = |byte: u8| byte.is_ascii_graphic();
    if keeper.token.len() < MIN_TOKEN || !keeper.token.bytes().all(plain) {
        let wanted = "must be at least 32 visible ASCII letters that nobody can guess";
        return Err(Refusal::invalid("token", wanted));
    }
    let (pool, keys) = (&api.world.db.pool, &api.world.keys);
    let no_cluster = || Refusal::not_found("cluster", &name);
    let put = cluster_backups::put_keeper(pool, keys, &name, &keeper.token).await?;
    let cluster = put.ok_or_else(no_cluster)?;
    api.nudges.all();
    let known = cluster_backups::known(pool, cluster).await?.ok_or_else(no_cluster)?;
    Ok(Json(backups::shown(known, OffsetDateTime::now_utc())))
}

/// What a keeper shall do.
pub async fn settings(
    State(api): State<Api>,
    Extension(kept): Extension<KeptCluster>,
) -> Result<Json<KeeperSettings>, Refusal> {
    settings_of(&api, kept.0).await
}

async fn settings_of(api: &Api, cluster: Uuid) -> Result<Json<KeeperSettings>, Refusal> {
    let (pool, keys) = (&api.world.db.pool, &api.world.keys);
    let open = cluster_backups::get(pool, keys, cluster).await?;
    if !open.is_prepared {
        let detail = "the object store was not told of the keeper's key yet; ask again soon";
        return Err(Refusal::unavailable("object store", detail));
    }
    let store = object_stores::get(pool, keys, open.object_store).await?.store;
    let longest = cluster_backups::longest_window_secs(pool, cluster).await?;
    Ok(Json(KeeperSettings {
        cluster: open.cluster,
        region: open.region,
        endpoint: store.endpoint,
        bucket: store.bucket,
        prefix: open.prefix.to_string(),
        access_key: open.secrets.access_key,
        secret_key: open.secrets.secret_key,
        passphrase: open.secrets.passphrase,
        retention_days: backups::retention_days(longest),
    }))
}

/// What a keeper sees; answers what it shall do from now on.
pub async fn report(
    State(api): State<Api>,
    Extension(kept): Extension<KeptCluster>,
    Body(report): Body<KeeperReport>,
) -> Result<Json<KeeperSettings>, Refusal> {
    cluster_backups::put_report(&api.world.db.pool, kept.0, &report).await?;
    settings_of(&api, kept.0).await
}
