//! Which cluster takes a new site: a decision over rows, nothing else.

use provisioner_api::places::Cluster;

/// Why no cluster takes a new site.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCluster {
    /// None at all.
    #[error("region {0} has no cluster; register one")]
    None(String),
    /// None that accepts sites.
    #[error("no cluster of region {0} accepts new sites")]
    NotAccepting(String),
    /// Those that do cannot be reached.
    #[error("cluster {name} of region {region} cannot be used: {error}")]
    Unreachable {
        /// The region.
        region: String,
        /// One that cannot be reached.
        name: String,
        /// Why.
        error: String,
    },
    /// Those that can be reached have no template yet.
    #[error(
        "cluster {name} of region {region} does not have the current template yet; try again soon"
    )]
    NoTemplate {
        /// The region.
        region: String,
        /// One without.
        name: String,
    },
    /// Those that are left hold as many databases as they may.
    #[error("all clusters of region {0} are full; register another one or raise `max_databases`")]
    Full(String),
}

impl NoCluster {
    /// Whether waiting may help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoTemplate { .. })
    }

    /// The part of the platform that is at fault, as problem details name it.
    pub fn component(&self) -> String {
        match self {
            Self::None(region) | Self::NotAccepting(region) | Self::Full(region) => {
                format!("region {region}")
            }
            Self::Unreachable { name, .. } | Self::NoTemplate { name, .. } => {
                format!("cluster {name}")
            }
        }
    }
}

/// The decision itself. Of those that take the site, the emptiest; of the reasons why none does,
/// the one that is the least far from success.
pub(super) fn choose(
    region: &str,
    version: i32,
    clusters: Vec<Cluster>,
) -> Result<Cluster, NoCluster> {
    let mut refusal = NoCluster::None(region.to_owned());
    let mut weigh = |cluster: &Cluster| {
        let (rank, reason) = refuse(region, version, cluster)?;
        if rank > rank_of(&refusal) {
            refusal = reason;
        }
        Some(())
    };
    let mut fit: Vec<Cluster> =
        clusters.into_iter().filter(|cluster| weigh(cluster).is_none()).collect();
    fit.sort_by(|a, b| (a.n_databases, &a.name).cmp(&(b.n_databases, &b.name)));
    fit.into_iter().next().ok_or(refusal)
}

fn refuse(region: &str, version: i32, cluster: &Cluster) -> Option<(u8, NoCluster)> {
    let (region, name) = (region.to_owned(), cluster.name.clone());
    let reason = if !cluster.accepts_sites {
        NoCluster::NotAccepting(region)
    } else if cluster.n_databases >= i64::from(cluster.max_databases) {
        NoCluster::Full(region)
    } else if let Some(error) = cluster.last_error.clone() {
        NoCluster::Unreachable { region, name, error }
    } else if cluster.template_version.is_none_or(|ready| ready < version) {
        NoCluster::NoTemplate { region, name }
    } else {
        return None;
    };
    Some((rank_of(&reason), reason))
}

const fn rank_of(reason: &NoCluster) -> u8 {
    match reason {
        NoCluster::None(_) => 0,
        NoCluster::NotAccepting(_) => 1,
        NoCluster::Full(_) => 2,
        NoCluster::Unreachable { .. } => 3,
        NoCluster::NoTemplate { .. } => 4,
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;

    fn cluster(name: &str, n_databases: i64) -> Cluster {
        Cluster {
            id: Uuid::now_v7(),
            name: name.to_owned(),
            region: "id-jakarta".to_owned(),
            app_host: "/run".to_owned(),
            app_port: 5432,
            max_databases: 3,
            n_databases,
            accepts_sites: true,
            template_version: Some(2),
            last_seen_at: Some(OffsetDateTime::UNIX_EPOCH),
            last_error: None,
            replication_host: None,
            replication_port: None,
        }
    }

    fn chosen(clusters: Vec<Cluster>) -> Result<String, NoCluster> {
        choose("id-jakarta", 2, clusters).map(|cluster| cluster.name)
    }

    #[test]
    fn the_emptiest_that_fits_takes_the_site() {
        let down = Cluster { last_error: Some("down".to_owned()), ..cluster("down", 0) };
        let old = Cluster { template_version: Some(1), ..cluster("old", 0) };
        let closed = Cluster { accepts_sites: false, ..cluster("closed", 0) };
        let all = vec![down, old, closed, cluster("full", 3), cluster("b", 1), cluster("c", 2)];
        assert_eq!(chosen(all), Ok("b".to_owned()));
    }

    #[test]
    fn a_refusal_tells_what_is_nearest_to_success() {
        let down = || Cluster { last_error: Some("down".to_owned()), ..cluster("down", 0) };
        let new = || Cluster { template_version: None, ..cluster("new", 0) };
        let closed = || Cluster { accepts_sites: false, ..cluster("closed", 0) };
        let refusal = |clusters| chosen(clusters).expect_err("none fits");
        assert!(matches!(refusal(vec![]), NoCluster::None(_)));
        assert!(matches!(refusal(vec![closed()]), NoCluster::NotAccepting(_)));
        assert!(matches!(refusal(vec![closed(), cluster("full", 3)]), NoCluster::Full(_)));
        let refused = refusal(vec![down(), cluster("full", 3)]);
        assert!(refused.is_retryable());
        assert_eq!(refused.component(), "cluster down");
        assert!(matches!(refusal(vec![down(), new()]), NoCluster::NoTemplate { .. }));
    }
}
