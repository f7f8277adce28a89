//! The table's promises: a newer row is never replaced by an older one whatever the order, a site
//! loses exactly the hostnames that it lost, and no reading empties the table by mistake.

use proptest::prelude::*;

use super::*;

fn site(number: u8) -> SiteId {
    SiteId(uuid::Uuid::from_u128(u128::from(number)))
}

fn row(number: u8, hostname: &str, version: i64) -> RouteRow {
    RouteRow {
        hostname: hostname.into(),
        domain_kind: DomainKind::Platform,
        is_primary: true,
        primary_hostname: Some(hostname.into()),
        site_id: site(number),
        slug: format!("s{number}"),
        site_name: "Name".into(),
        default_language: "id".into(),
        site_state: SiteState::Active,
        generation: Generation(1),
        region: "id-jakarta".into(),
        upstream: Some("unix:/run/a.sock".into()),
        max_body_bytes: 10,
        version,
        requests_per_second: 10,
        request_burst: 10,
        max_concurrent_requests: 10,
        hsts_max_age_secs: 0,
        hold_id: None,
        hold_deadline: None,
    }
}

fn of_sites(sites: &[u8], routes: Vec<RouteRow>) -> Reading {
    let scope = Scope::Sites { sites: sites.iter().map(|n| site(*n)).collect(), platform: false };
    Reading { scope, routes, ..Reading::default() }
}

fn all(routes: Vec<RouteRow>) -> Reading {
    Reading { routes, ..Reading::default() }
}

fn after(table: &Table, reading: Reading) -> Table {
    table.merge(reading, false).expect("is merged").table
}

#[test]
fn a_site_loses_what_it_lost_and_nothing_else() {
    let table = after(&Table::default(), all(vec![row(1, "a", 1), row(1, "b", 1), row(2, "c", 1)]));
    let table = after(&table, of_sites(&[1], vec![row(1, "b", 2)]));
    assert!(table.route("a").is_none() && table.route("b").is_some() && table.route("c").is_some());
    let table = after(&table, of_sites(&[1], vec![]));
    assert_eq!((table.len(), table.site(site(1)).is_none()), (1, true));
}

#[test]
fn a_hostname_goes_from_one_site_to_another() {
    let table = after(&Table::default(), all(vec![row(1, "a", 1), row(2, "b", 1)]));
    let table = after(&table, of_sites(&[1, 2], vec![row(2, "a", 2), row(2, "b", 2)]));
    assert_eq!(table.route("a").map(|route| route.site.id), Some(site(2)));
    let table = after(&table, of_sites(&[1], vec![]));
    assert_eq!(table.route("a").map(|route| route.site.id), Some(site(2)));
}

#[test]
fn connections_and_counters_outlive_a_version_but_not_a_generation() {
    let table = after(&Table::default(), all(vec![row(1, "a", 1)]));
    let pool = |table: &Table| table.route("a").and_then(|r| r.site.upstream.clone()).expect("one");
    let counter =
        crate::site_traffic::InFlight::begin(&table.site(site(1)).expect("known").traffic);
    let next = after(&table, of_sites(&[1], vec![row(1, "a", 2)]));
    assert!(Arc::ptr_eq(&pool(&table), &pool(&next)));
    let moved = RouteRow { generation: Generation(2), ..row(1, "a", 3) };
    let moved = after(&next, of_sites(&[1], vec![moved]));
    assert!(!Arc::ptr_eq(&pool(&next), &pool(&moved)));
    let in_flight = &moved.site(site(1)).expect("known").traffic;
    assert_eq!(in_flight.counts().in_flight, 1);
    drop(counter);
    assert_eq!(in_flight.counts().in_flight, 0);
}

#[test]
fn a_table_does_not_shrink_by_more_than_half_at_once() {
    let many: Vec<_> = (0..20).map(|n| row(n, &format!("h{n}"), 1)).collect();
    let table = after(&Table::default(), all(many.clone()));
    assert!(table.merge(all(many[..9].to_vec()), false).is_err());
    assert!(table.merge(all(many[..10].to_vec()), false).is_ok());
    assert_eq!(table.merge(all(vec![]), true).expect("is trusted").table.len(), 0);
    let few = after(&Table::default(), all(many[..3].to_vec()));
    assert!(few.merge(all(many[..1].to_vec()), false).is_ok());
    assert!(few.merge(all(vec![]), false).is_err());
}

#[test]
fn rows_come_back_as_they_went_in() {
    let mut second = row(1, "b", 1);
    (second.is_primary, second.primary_hostname) = (false, Some("a".into()));
    let rows = vec![row(1, "a", 1), second];
    let table = after(&Table::default(), all(rows.clone()));
    let mut back: Vec<_> = table.sites().flat_map(|site| table.rows_of(site)).collect();
    back.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    assert_eq!(back, rows);
    assert_eq!(table.route("b").and_then(|r| r.primary().map(|name| &**name)), Some("a"));
    assert_eq!(table.route("a").and_then(|r| r.primary().map(|name| &**name)), None);
}

#[test]
fn what_is_the_same_is_kept_as_it_is() {
    let rows = vec![row(1, "a", 1), row(1, "b", 1), row(2, "c", 1), row(3, "d", 1)];
    let table = after(&Table::default(), all(rows));
    let same = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
    // The second site moved, the third has a hostname more, the first has one less of its two.
    let moved = RouteRow { generation: Generation(2), ..row(2, "c", 2) };
    let reading = Reading { same_routes: same(&["a", "d"]), ..all(vec![moved, row(3, "e", 1)]) };
    let next = after(&table, reading);
    let mut names: Vec<_> =
        next.sites().flat_map(|site| next.rows_of(site)).map(|row| row.hostname).collect();
    names.sort();
    assert_eq!(names, ["a", "c", "d", "e"]);
    assert_eq!(next.route("c").map(|route| route.site.generation), Some(Generation(2)));
    let reading = Reading { same_routes: same(&["a", "c", "d", "e"]), ..Reading::default() };
    let last = after(&next, reading);
    assert_eq!(last.len(), 4);
    for site in next.sites() {
        assert!(last.site(site.id).is_some_and(|kept| Arc::ptr_eq(kept, site)));
    }
    let reading = Reading { same_routes: same(&["a"]), ..Reading::default() };
    assert_eq!(last.merge(reading, true).expect("is trusted").table.sites().len(), 1);
}

#[test]
fn the_word_that_a_site_has_gone_lasts_until_the_table_has_it() {
    let routes = RouteTable::default();
    routes.publish(after(&Table::default(), all(vec![row(1, "a", 1), row(2, "b", 1)])));
    let known = |number| Arc::clone(routes.load().site(site(number)).expect("known"));
    let home = |generation, region: &str| Home {
        generation: Generation(generation),
        region: region.into(),
    };
    let heard = routes.watch();
    assert!(routes.gone(&known(1)).is_none());
    assert!(routes.remember_gone(site(1), &home(2, "sg-singapore")));
    assert!(heard.has_changed().expect("lives") && routes.publications() == 1);
    // Said again, or otherwise of the same generation.
    assert!(!routes.remember_gone(site(1), &home(2, "jp-tokyo")));
    assert_eq!(routes.gone(&known(1)), Some(home(2, "sg-singapore")));
    assert!(routes.remember_gone(site(1), &home(3, "jp-tokyo")));
    assert!(routes.gone(&known(2)).is_none());
    let there = known(1).gone_to(home(3, "jp-tokyo"));
    assert!(there.upstream.is_none() && routes.gone(&there).is_none());

    // Another version of the old generation says nothing of it, a generation between neither.
    let next = |version, generation| {
        let moved = RouteRow { generation: Generation(generation), ..row(1, "a", version) };
        routes.publish(after(&routes.load(), of_sites(&[1], vec![moved])));
    };
    next(2, 1);
    next(3, 2);
    assert_eq!((routes.gone(&known(1)), routes.gone_sites()), (Some(home(3, "jp-tokyo")), 1));
    next(4, 3);
    assert_eq!((routes.gone(&known(1)), routes.gone_sites()), (None, 0));
    // What the table has, or knows nothing of, is not kept.
    routes.remember_gone(site(1), &home(3, "jp-tokyo"));
    routes.remember_gone(site(9), &home(3, "jp-tokyo"));
    assert_eq!(routes.gone_sites(), 0);
}

proptest! {
    /// Readings of one site arrive in any order, some twice; the newest wins.
    #[test]
    fn older_never_replaces_newer(versions in proptest::collection::vec((1_i64..50, any::<bool>()), 1..40)) {
        let mut table = Table::default();
        let mut newest = 0;
        for (version, whole) in versions {
            let rows = vec![row(1, &format!("h{version}"), version)];
            let reading = if whole { all(rows) } else { of_sites(&[1], rows) };
            let merged = table.merge(reading, false).expect("is merged");
            prop_assert_eq!(merged.older, usize::from(version < newest));
            table = merged.table;
            newest = newest.max(version);
            prop_assert_eq!(table.len(), 1);
            let name = format!("h{}", newest);
            prop_assert_eq!(table.route(&name).map(|route| route.site.version), Some(newest));
        }
    }
}
