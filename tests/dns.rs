//! What the provisioner reads from the DNS, asked of a real server.

use anyhow::Result;
use provisioner::dns::{Answer, Dns, DnsConfig};
use tests::dns_server::DnsServer;

async fn server() -> Result<(DnsServer, Dns)> {
    let server = DnsServer::start().await?;
    let dns = Dns::new(&DnsConfig { servers: vec![server.address] })?;
    Ok((server, dns))
}

#[tokio::test]
async fn a_record_is_seen_as_soon_as_it_is_there() -> Result<()> {
    let (server, dns) = server().await?;
    let name = "_ta3lem.belajar.kampus.test";
    assert_eq!(dns.txt(name).await?.records(), [] as [String; 0]);
    server.add_txt(name, "one").await?;
    assert_eq!(dns.txt(name).await?.records(), ["one"]);
    server.add_txt(name, "two").await?;
    assert_eq!(dns.txt(name).await?.records().len(), 2);
    server.clear("txt", name).await?;
    assert_eq!(dns.txt(name).await?, Answer::NoRecord);
    assert_eq!(dns.txt("nothing.invalid").await?, Answer::NoName);
    Ok(())
}

#[tokio::test]
async fn aliases_are_followed_step_by_step() -> Result<()> {
    let (server, dns) = server().await?;
    assert_eq!(dns.aliases("www.kampus.test").await?, []);
    server.set_cname("www.kampus.test", "CDN.kampus.test").await?;
    server.set_cname("cdn.kampus.test", "kampus.platform.test").await?;
    server.add_a("kampus.platform.test", &["192.0.2.1", "192.0.2.2"]).await?;
    server.add_aaaa("kampus.platform.test", &["2001:db8::1"]).await?;
    let chain = dns.aliases("www.kampus.test").await?;
    let steps: Vec<_> = chain.iter().map(|a| (a.from.as_str(), a.to.as_str())).collect();
    assert_eq!(
        steps,
        [("www.kampus.test", "cdn.kampus.test"), ("cdn.kampus.test", "kampus.platform.test")]
    );
    assert_eq!(dns.ipv4("kampus.platform.test").await?.records().len(), 2);
    assert_eq!(dns.ipv6("kampus.platform.test").await?.records().len(), 1);
    // A name below `localhost` is this machine, and has no other records.
    assert_eq!(dns.ipv4("kampus.localhost").await?.records(), [std::net::Ipv4Addr::LOCALHOST]);

    server.set_cname("a.test", "b.test").await?;
    server.set_cname("b.test", "a.test").await?;
    let error = dns.aliases("a.test").await.expect_err("a circle");
    assert!(error.to_string().contains("circle"), "{error}");
    Ok(())
}

#[tokio::test]
async fn authorities_are_named_by_the_nearest_name_above() -> Result<()> {
    let (server, dns) = server().await?;
    assert!(dns.caa("a.b.kampus.test").await?.permits("pebble.test"));
    server.add_caa("kampus.test", "issue", "other.test").await?;
    let set = dns.caa("a.b.kampus.test").await?;
    assert_eq!(set.at.as_deref(), Some("kampus.test"));
    assert!(!set.permits("pebble.test") && set.permits("other.test"));
    server.add_caa("b.kampus.test", "issue", "pebble.test").await?;
    assert!(dns.caa("a.b.kampus.test").await?.permits("pebble.test"));
    Ok(())
}

#[tokio::test]
async fn a_server_that_fails_says_nothing_of_the_records() -> Result<()> {
    let (server, dns) = server().await?;
    server.fail("www.kampus.test").await?;
    let error = dns.txt("www.kampus.test").await.expect_err("SERVFAIL");
    assert!(error.reason.contains("SERVFAIL"), "{error}");
    let address = server.address;
    drop(server);
    let error = dns.ipv4("www.kampus.test").await.expect_err("nobody there");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    Ok(())
}
