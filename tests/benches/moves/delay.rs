//! A long way between two clusters' servers. The clusters are told to reach each other there, so it is
//! the stream of a move that takes the long way, with its copy and its acknowledgements. The
//! platform's own questions to the clusters do not, nor do the routers'.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::postgres::PgConnectOptions;
use tests::{Stack, places, way::Way};

/// Puts the way in front of every cluster.
pub async fn lengthen(stack: &Stack, round_trip: Duration) -> Result<Vec<Way>> {
    let api = stack.api()?;
    let mut ways = Vec::new();
    for cluster in api.clusters().await? {
        let mut put = places::cluster(stack, &cluster)?;
        let options: PgConnectOptions = put.admin_url.parse()?;
        let server = options.get_socket().context("the cluster has no unix socket")?;
        let port = options.get_port();
        let at = stack.data_dir().with_file_name(format!("way-{}", cluster.region));
        ways.push(Way::to_postgres(server, port, &at, round_trip / 2)?);
        put.replication_host = Some(at.to_string_lossy().into_owned());
        put.replication_port = Some(port);
        api.put_cluster(&cluster.name, &put).await?;
    }
    Ok(ways)
}
