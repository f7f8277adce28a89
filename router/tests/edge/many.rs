//! Ten thousand sites and any number of names that nobody has: what the router tells of itself stays as
//! small as with one.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::raw_sql;

use crate::{
    A,
    client::{Stream, keep},
    get,
    stack::{Site, Stack},
};

const SITES: u64 = 10_000;
/// So many of them, and of names that nobody has, are asked for.
const ASKED: u32 = 1_500;

/// The names and labels of all metrics.
async fn series(stack: &Stack) -> BTreeSet<String> {
    let text = stack.admin("/metrics").await;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

async fn add_many(stack: &Stack) {
    raw_sql(
        "begin;
         insert into site (id, slug, name, plan, state, allowed_regions)
             select gen_random_uuid(), 'many-' || n, 'Many ' || n, 'starter', 'active', '{id-jakarta}'
             from generate_series(1, 10000) n;
         insert into domain (id, site_id, hostname, kind, state, is_primary)
             select gen_random_uuid(), id, slug || '.platform.test', 'platform', 'active', true
             from site where slug like 'many-%';
         insert into placement (id, site_id, generation, state, region, cluster_id,
                 object_store_id, database_name, prefix, sealed_secrets)
             select gen_random_uuid(), id, 1, 'current', 'id-jakarta',
                 '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002',
                 's_' || replace(id::text, '-', ''), 'site/' || slug, ''
             from site where slug like 'many-%';
         commit",
    )
    .execute(&mut stack.database.sql().await)
    .await
    .expect("are inserted");
}

async fn ask_by_http(stream: &mut Stream, host: &str) -> u16 {
    let request = keep(host, "/");
    stream.ask(request.as_bytes()).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_measured_does_not_grow_with_sites_or_names() {
    let stack = Stack::start().await;
    let site: Site = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    // What every metric needs to be seen at all.
    assert_eq!(stack.https(A, get(A, "/who").as_bytes()).await.body, "alpha");
    let mut stream = stack.plain().await;
    assert_eq!(ask_by_http(&mut stream, A).await, 301);
    assert_eq!(ask_by_http(&mut stream, "nobody.test").await, 404);
    assert_eq!(stack.https("nobody.test", get("nobody.test", "/").as_bytes()).await.status, 404);
    drop(stream);
    let before = series(&stack).await;

    add_many(&stack).await;
    stack.status_until(|status| status["table"]["sites"] == SITES + 1).await;
    let mut stream = stack.plain().await;
    for number in 1..=ASKED {
        assert_eq!(ask_by_http(&mut stream, &format!("many-{number}.platform.test")).await, 301);
        assert_eq!(ask_by_http(&mut stream, &format!("x{number}.nobody.test")).await, 404);
    }
    for number in 0..50 {
        let host = format!("y{number}.nobody.test");
        assert_eq!(stack.https(&host, get(&host, "/").as_bytes()).await.status, 404);
    }
    let after = series(&stack).await;
    assert_eq!(after, before);
    assert!(after.len() < 250, "{} series", after.len());
    assert!(
        !after.iter().any(|line| line.contains(".test") || line.contains(&site.id.to_string()))
    );

    // The busiest, the age of the table, and what waits.
    let status = stack.status_until(|status| status["top_sites"][0]["slug"] == "alpha").await;
    assert!(status["top_sites"].as_array().is_some_and(|sites| sites.len() <= 20), "{status}");
    assert!(status["table"]["age_secs"].as_f64().is_some_and(|age| age < 60.0), "{status}");
    assert_eq!((&status["held"], &status["table"]["problem"]), (&Value::from(0), &Value::Null));
    let age = stack.metric("router_route_table_age_seconds").await;
    assert!((0.0..60.0).contains(&age), "{age}");
}
