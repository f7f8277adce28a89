//! A control database with one region, the region's keys, and a DNS server that leads every name
//! here.

use control_types::seal::KeyRing;
use provisioner::secrets::Keys;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tests::dns_server::DnsServer;

use crate::postgres::{ANY_DATABASE, Server, execute};

pub const REGION: &str = "id-jakarta";

pub struct Control {
    pub pool: PgPool,
    pub keys: Keys,
    /// The region's keys, as in the file that routers and provisioners read.
    pub key_ring: String,
    pub dns: DnsServer,
    /// As the owner.
    pub url: String,
    /// As a router.
    pub router_url: String,
    _server: Server,
}

impl Control {
    /// With `settings` of the Postgres server besides the usual ones.
    pub async fn start(settings: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("info").try_init();
        let server = Server::start(ANY_DATABASE, settings);
        let mut admin = server.admin("postgres").await;
        execute(&mut admin, "create database control").await.expect("makes");
        let mut admin = server.admin("control").await;
        migrations::Schema::Control.migrate(&mut admin).await.expect("applies");
        let sql = "insert into region (name, display_name) values ('id-jakarta', 'Jakarta');
             create role router login password 'router' in role ta3lem_router";
        execute(&mut admin, sql).await.expect("puts");
        let url = server.admin_url().replace("/postgres?", "/control?");
        let router_url = url.replace("postgres@", "router:router@");
        let pool = PgPoolOptions::new().max_connections(20).connect(&url).await.expect("connects");
        let ring = KeyRing::generate(REGION).expect("random bytes");
        let key_ring = ring.to_json();
        let keys = Keys::from_rings([ring]);
        let dns = DnsServer::start_leading_here().await.expect("starts");
        Self { pool, keys, key_ring, dns, url, router_url, _server: server }
    }
}
