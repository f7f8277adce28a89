//! What was written comes back, and nothing else is taken for it.

use control_types::{
    Generation,
    state::{DomainKind, SiteState},
};
use proptest::prelude::*;

use super::*;
use crate::route_table::Reading;

fn with_head(format: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(format.to_be_bytes());
    bytes.extend((payload.len() as u64).to_be_bytes());
    bytes.extend(Sha256::digest(payload));
    bytes.extend(payload);
    bytes
}

fn table() -> Table {
    let site_id = SiteId::generate();
    let routes = vec![RouteRow {
        hostname: "a.test".into(),
        domain_kind: DomainKind::Custom,
        is_primary: true,
        primary_hostname: Some("a.test".into()),
        site_id,
        slug: "a".into(),
        site_name: "Á".into(),
        default_language: "en".into(),
        site_state: SiteState::Active,
        generation: Generation(3),
        region: "r".into(),
        upstream: Some("unix:/a".into()),
        max_body_bytes: 1,
        version: 2,
        requests_per_second: 3,
        request_burst: 4,
        max_concurrent_requests: 5,
        hsts_max_age_secs: 6,
        hold_id: Some(Uuid::nil()),
        hold_deadline: Some(OffsetDateTime::UNIX_EPOCH),
    }];
    let chain = (&[1, 2][..], Issuers::shared(vec![vec![3_u8].into()]));
    let certificate =
        SealedCertificate::new(Uuid::nil(), Some(site_id), "a.test", chain, &[9], 5, 2);
    let reading =
        Reading { routes, certificates: vec![Arc::new(certificate)], ..Reading::default() };
    Table::default().merge(reading, true).expect("merges").table
}

fn bytes() -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    encode(&mut bytes, &table(), "r", OffsetDateTime::UNIX_EPOCH).expect("encodes");
    bytes.into_inner()
}

fn read(bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
    decode(io::Cursor::new(bytes), "r")
}

#[test]
fn a_snapshot_comes_back_and_only_for_its_region() {
    let bytes = bytes();
    let snapshot = read(&bytes).expect("decodes");
    let route = snapshot.table.route("a.test").expect("is there");
    assert_eq!((&*route.site.name, route.site.generation), ("Á", Generation(3)));
    let certificate = snapshot.table.certificate("a.test").expect("is there");
    assert_eq!((certificate.leaf(), certificate.sealed_key()), (&[1, 2][..], &[9][..]));
    assert_eq!(certificate.issuers.ders(), [vec![3_u8].into()]);
    assert!(matches!(decode(io::Cursor::new(bytes), "other"), Err(SnapshotError::Region(_))));
}

fn with_lines(lines: &[serde_json::Value]) -> Vec<u8> {
    let mut payload = Vec::new();
    write_line(&mut payload, &Head { region: "r".into(), taken_at: 0 }).expect("writes");
    for line in lines {
        write_line(&mut payload, line).expect("writes");
    }
    with_head(FORMAT, &payload)
}

fn certificate(hostname: &str, issuers: usize) -> serde_json::Value {
    let row = CertificateRow {
        id: Uuid::nil(),
        site_id: None,
        hostname: hostname.into(),
        leaf: Base64(vec![1].into()),
        issuers,
        sealed_key: Base64(Vec::new().into()),
        not_after: 0,
        version: 1,
    };
    serde_json::to_value(Piece::Certificate(row)).expect("is JSON")
}

#[test]
fn few_bytes_do_not_become_many() {
    let issuers = Piece::Issuers(vec![Base64(vec![7; 1 << 16].into())]);
    let issuers = serde_json::to_value(issuers).expect("is JSON");
    let lines = [issuers, certificate("a.test", 0), certificate("b.test", 0)];
    let table = read(&with_lines(&lines)).expect("is read").table;
    let of = |name: &str| &table.certificate(name).expect("is there").issuers;
    assert!(Arc::ptr_eq(of("a.test"), of("b.test")), "the same, not a copy");
    let nowhere = read(&with_lines(&[certificate("a.test", 0)]));
    assert!(matches!(nowhere, Err(SnapshotError::Damaged("a chain points nowhere"))));
}

#[test]
fn each_site_stands_in_one_place() {
    let table = table();
    let site = table.sites().next().expect("has one");
    let mut rows: Vec<_> = table.rows_of(site).collect();
    let line =
        |rows: &[RouteRow]| serde_json::to_value(Piece::Site(rows.to_vec())).expect("is JSON");
    let twice = read(&with_lines(&[line(&rows), line(&rows)]));
    assert!(matches!(twice, Err(SnapshotError::Damaged(_))));
    rows.push(RouteRow { site_id: SiteId::generate(), ..rows[0].clone() });
    let mixed = read(&with_lines(&[line(&rows)]));
    assert!(matches!(mixed, Err(SnapshotError::Damaged(_))));
}

#[test]
fn a_file_of_another_format_is_as_good_as_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("routes");
    fs::write(&path, with_head(1, b"{}")).expect("writes");
    let refused = decode(File::open(&path).expect("is there"), "r");
    assert!(matches!(refused, Err(SnapshotError::Format(1))));
    assert!(load(&path, "r").is_none());
    write(&path, &table(), "r", OffsetDateTime::UNIX_EPOCH).expect("takes its place");
    assert!(load(&path, "r").is_some());
}

#[test]
fn the_one_before_is_used_when_the_last_is_damaged() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("routes");
    assert!(load(&path, "r").is_none());
    write(&path, &table(), "r", OffsetDateTime::UNIX_EPOCH).expect("writes");
    write(&path, &table(), "r", OffsetDateTime::UNIX_EPOCH).expect("writes");
    fs::write(&path, &bytes()[..100]).expect("is damaged");
    assert_eq!(load(&path, "r").map(|snapshot| snapshot.table.len()), Some(1));
    fs::remove_file(&path).expect("is removed");
    assert!(load(&path, "r").is_some());
}

#[test]
fn every_cut_and_every_changed_byte_is_noticed() {
    let bytes = bytes();
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length]).is_err());
    }
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 0x41;
        assert!(read(&changed).is_err(), "byte {place}");
    }
}

proptest! {
    /// Also with a checksum that is right: a bad writer must not take the reader down.
    #[test]
    fn any_bytes_are_answered(payload in proptest::collection::vec(any::<u8>(), 0..300),
                              text in "[\\[\\]{}\":,a-z0-9]{0,200}") {
        for payload in [payload, text.into_bytes()] {
            prop_assert!(read(&with_head(FORMAT, &payload)).is_err());
            prop_assert!(read(&payload).is_err());
        }
    }
}
