//! The last known routes and sealed certificates on disk, so that a router can start while the
//! control database is gone. A file is whole or it is nothing: its length and checksum are in front,
//! it replaces the one before by a rename, and the one before is kept. Private keys lie in it as they
//! lie in the control database: sealed.

mod pieces;

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use control_types::SiteId;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize, Serializer as _, ser::SerializeStruct as _};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::time::{Duration, Instant, sleep, sleep_until};
use uuid::Uuid;

use pieces::{Base64, Each, Summed};

use crate::{
    Edge,
    certificates::{SealedCertificate, shared},
    route_table::{EdgeRow, Reading, RouteRow, Table},
};

const MAGIC: [u8; 8] = *b"TA3LEMRT";
/// Raised when the contents change so that an older router must not read them.
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 8 + 4 + 8 + 32;
/// Most intermediates of one chain; a few bytes name each, so more could take any amount of memory.
const MAX_INTERMEDIATES: usize = 16;
/// Larger files are not ours.
const MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Written at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// Changes that come together are written together.
const SETTLE: Duration = Duration::from_millis(200);
/// Writing takes at most this part of the time.
const REST_FACTOR: u32 = 20;
const SHORTEST_REST: Duration = Duration::from_secs(1);

/// Why a file is not a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system refused.
    #[error("cannot read or write it")]
    Io(#[from] io::Error),
    /// Not a snapshot, a cut one or a changed one.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Written by another version of the router.
    #[error("it has format {0}, this router reads format {FORMAT}")]
    Format(u32),
    /// Whole, but its contents are not what they should be.
    #[error("its contents are malformed")]
    Contents(#[from] serde_json::Error),
    /// Another region's routes.
    #[error("it belongs to region {0}")]
    Region(String),
}

/// What is in a snapshot.
#[derive(Debug)]
pub struct Snapshot {
    /// The routes and certificates.
    pub table: Table,
    /// When they were written.
    pub taken_at: OffsetDateTime,
}

#[derive(Deserialize)]
struct Contents<'a> {
    region: String,
    taken_at: i64,
    routes: Vec<RouteRow>,
    /// Certificates that stand in many chains, once.
    intermediates: Vec<Base64<'a>>,
    #[serde(borrow)]
    certificates: Vec<CertificateRow<'a>>,
    #[serde(default)]
    edges: Vec<EdgeRow>,
}

#[derive(Serialize, Deserialize)]
struct CertificateRow<'a> {
    id: Uuid,
    site_id: Option<SiteId>,
    #[serde(borrow)]
    hostname: Cow<'a, str>,
    leaf: Base64<'a>,
    intermediates: Vec<usize>,
    sealed_key: Base64<'a>,
    not_after: i64,
    version: i64,
}

/// Writes a snapshot of `table`, piece by piece: a second copy of what a hundred thousand sites have
/// would be most of what the router takes.
///
/// # Errors
/// When `out` refuses.
pub fn encode(
    mut out: impl Write + Seek,
    table: &Table,
    region: &str,
    now: OffsetDateTime,
) -> Result<(), SnapshotError> {
    let mut intermediates: Vec<&CertificateDer<'_>> = Vec::new();
    let mut places: HashMap<&CertificateDer<'_>, usize> = HashMap::new();
    let fits = |certificate: &&Arc<SealedCertificate>| {
        let fits = certificate.chain.len() <= MAX_INTERMEDIATES + 1;
        if !fits {
            // No client takes such a chain, and no reader would take this file with it.
            tracing::warn!(host = %certificate.hostname, "a chain is too long for the snapshot");
        }
        fits
    };
    for certificate in table.certificates() {
        for der in certificate.chain.iter().skip(1) {
            places.entry(der).or_insert_with(|| {
                intermediates.push(der);
                intermediates.len() - 1
            });
        }
    }
    let certificates = table.certificates().filter(fits).filter_map(|certificate| {
        let [leaf, rest @ ..] = certificate.chain.as_slice() else { return None };
        Some(CertificateRow {
            id: certificate.id,
            site_id: certificate.site_id,
            hostname: Cow::Borrowed(&certificate.hostname),
            intermediates: rest.iter().filter_map(|der| places.get(der).copied()).collect(),
            leaf: Base64(Cow::Borrowed(leaf)),
            sealed_key: Base64(Cow::Borrowed(&certificate.sealed_key)),
            not_after: certificate.not_after,
            version: certificate.version,
        })
    });
    out.write_all(&[0; HEAD_BYTES])?;
    let summed = Summed { out: &mut out, length: 0, sum: Sha256::new() };
    let mut payload = BufWriter::with_capacity(BUFFER_BYTES, summed);
    let mut serializer = serde_json::Serializer::new(&mut payload);
    let mut contents = serializer.serialize_struct("Contents", 6)?;
    contents.serialize_field("region", region)?;
    contents.serialize_field("taken_at", &now.unix_timestamp())?;
    contents.serialize_field("routes", &Each::of(table.rows()))?;
    let ders = intermediates.iter().map(|der| Base64(Cow::Borrowed(der)));
    contents.serialize_field("intermediates", &Each::of(ders))?;
    contents.serialize_field("certificates", &Each::of(certificates))?;
    contents.serialize_field("edges", &Each::of(table.all_edges()))?;
    contents.end()?;
    let Summed { length, sum, .. } = payload.into_inner().map_err(io::Error::from)?;
    out.rewind()?;
    out.write_all(&MAGIC)?;
    out.write_all(&FORMAT.to_be_bytes())?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&sum.finalize())?;
    out.flush()?;
    Ok(())
}

/// The snapshot in `bytes`.
///
/// # Errors
/// Whatever is wrong with it; damaged bytes never get further than this.
pub fn decode(bytes: &[u8], region: &str) -> Result<Snapshot, SnapshotError> {
    let (head, payload) =
        bytes.split_first_chunk::<HEAD_BYTES>().ok_or(SnapshotError::Damaged("too short"))?;
    let (magic, head) = head.split_at(8);
    let (format, head) = head.split_at(4);
    let (length, checksum) = head.split_at(8);
    if magic != MAGIC {
        return Err(SnapshotError::Damaged("not a snapshot of routes"));
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    match u32::try_from(number(format)) {
        Ok(FORMAT) => {}
        other => return Err(SnapshotError::Format(other.unwrap_or(0))),
    }
    if number(length) != payload.len() as u64 {
        return Err(SnapshotError::Damaged("not as long as it says"));
    }
    if Sha256::digest(payload).as_slice() != checksum {
        return Err(SnapshotError::Damaged("the checksum is wrong"));
    }
    from_contents(serde_json::from_slice(payload)?, region)
}

fn from_contents(contents: Contents<'_>, region: &str) -> Result<Snapshot, SnapshotError> {
    if contents.region != region {
        return Err(SnapshotError::Region(contents.region));
    }
    let intermediates: Vec<CertificateDer<'_>> =
        contents.intermediates.into_iter().map(|der| shared(der.0.into_owned().into())).collect();
    let mut certificates = Vec::with_capacity(contents.certificates.len());
    for row in contents.certificates {
        if row.intermediates.len() > MAX_INTERMEDIATES {
            return Err(SnapshotError::Damaged("a chain is too long"));
        }
        let mut chain = vec![CertificateDer::from(row.leaf.0.into_owned())];
        for place in row.intermediates {
            let der = intermediates.get(place);
            chain.push(der.ok_or(SnapshotError::Damaged("a chain points nowhere"))?.clone());
        }
        let certificate = SealedCertificate::new(
            row.id,
            row.site_id,
            &row.hostname,
            chain,
            row.sealed_key.0.into_owned(),
            row.not_after,
            row.version,
        );
        let certificate = certificate.map_err(|_| SnapshotError::Damaged("an empty chain"))?;
        certificates.push(Arc::new(certificate));
    }
    let edges = Some(contents.edges);
    let reading = Reading { routes: contents.routes, certificates, edges, ..Reading::default() };
    let merged = Table::default().merge(reading, true);
    let table = merged.map_err(|_| SnapshotError::Damaged("no table"))?.table;
    let taken_at = OffsetDateTime::from_unix_timestamp(contents.taken_at);
    let taken_at = taken_at.map_err(|_| SnapshotError::Damaged("the time is none"))?;
    Ok(Snapshot { table, taken_at })
}

/// Writes a snapshot of `table` to `path` so that there always is a whole file.
///
/// # Errors
/// When the file system refuses; what was there before still is, here or beside.
pub fn write(
    path: &Path,
    table: &Table,
    region: &str,
    now: OffsetDateTime,
) -> Result<(), SnapshotError> {
    let new = beside(path, "new");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    encode(&file, table, region, now)?;
    file.sync_all()?;
    match fs::rename(path, beside(path, "previous")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::rename(&new, path)?;
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// The snapshot at `path`, or the one before it when that one cannot be read; none when neither is
/// there.
pub fn load(path: &Path, region: &str) -> Option<Snapshot> {
    for path in [path.to_owned(), beside(path, "previous")] {
        match read(&path).and_then(|bytes| decode(&bytes, region)) {
            Ok(snapshot) => return Some(snapshot),
            Err(SnapshotError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(file = %path.display(), error, "a snapshot of routes is not used");
            }
        }
    }
    None
}

fn read(path: &Path) -> Result<Vec<u8>, SnapshotError> {
    let mut bytes = Vec::new();
    let read = File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if read as u64 > MAX_BYTES {
        return Err(SnapshotError::Damaged("too large"));
    }
    Ok(bytes)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Writes the table whenever it changed, for ever.
pub async fn keep(edge: Arc<Edge>, path: PathBuf, region: String) {
    let mut changes = edge.routes.watch();
    changes.mark_unchanged();
    while changes.changed().await.is_ok() {
        sleep(SETTLE).await;
        if edge.replaced.is_cancelled() {
            // The file belongs to the router that follows.
            return std::future::pending().await;
        }
        changes.mark_unchanged();
        let begun = Instant::now();
        let (table, path, region) = (edge.routes.load_full(), path.clone(), region.clone());
        let writing = tokio::task::spawn_blocking(move || {
            write(&path, &table, &region, OffsetDateTime::now_utc())
        });
        match writing.await {
            Ok(Ok(())) => edge.metrics.snapshots_written.increment(1),
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the snapshot of routes cannot be written");
            }
            Err(error) => tracing::error!(%error, "writing the snapshot of routes ended early"),
        }
        let end = Instant::now();
        sleep_until(end + SHORTEST_REST.max((end - begun) * REST_FACTOR)).await;
    }
}

#[cfg(test)]
mod tests {
    use control_types::{
        Generation,
        state::{DomainKind, SiteState},
    };
    use proptest::prelude::*;

    use super::*;

    fn with_head(payload: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(FORMAT.to_be_bytes());
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
        let chain = vec![vec![1_u8, 2].into(), vec![3_u8].into()];
        let certificate =
            SealedCertificate::new(Uuid::nil(), Some(site_id), "a.test", chain, vec![9], 5, 2)
                .expect("a chain");
        let reading =
            Reading { routes, certificates: vec![Arc::new(certificate)], ..Reading::default() };
        Table::default().merge(reading, true).expect("merges").table
    }

    fn bytes() -> Vec<u8> {
        let mut bytes = io::Cursor::new(Vec::new());
        encode(&mut bytes, &table(), "r", OffsetDateTime::UNIX_EPOCH).expect("encodes");
        bytes.into_inner()
    }

    #[test]
    fn a_snapshot_comes_back_and_only_for_its_region() {
        let bytes = bytes();
        let snapshot = decode(&bytes, "r").expect("decodes");
        let route = snapshot.table.route("a.test").expect("is there");
        assert_eq!((route.site.name.as_str(), route.site.generation), ("Á", Generation(3)));
        let certificate = snapshot.table.certificate("a.test").expect("is there");
        assert_eq!((certificate.chain.len(), &*certificate.sealed_key), (2, &[9_u8][..]));
        assert!(matches!(decode(&bytes, "other"), Err(SnapshotError::Region(_))));
    }

    /// The snapshot of one certificate whose chain has so many intermediates; they are as long as
    /// `long`, and all the same.
    fn of_chain(intermediates: usize, long: usize) -> Vec<u8> {
        let certificate = CertificateRow {
            id: Uuid::nil(),
            site_id: None,
            hostname: "a.test".into(),
            leaf: Base64(vec![1].into()),
            intermediates: vec![0; intermediates],
            sealed_key: Base64(Vec::new().into()),
            not_after: 0,
            version: 1,
        };
        let contents = serde_json::json!({
            "region": "r", "taken_at": 0, "routes": [], "certificates": [certificate],
            "intermediates": [Base64(vec![7; long].into())],
        });
        let payload = serde_json::to_vec(&contents).expect("is JSON");
        with_head(&payload)
    }

    #[test]
    fn few_bytes_do_not_become_many() {
        let snapshot = decode(&of_chain(MAX_INTERMEDIATES, 1 << 16), "r").expect("is read");
        let certificate = snapshot.table.certificate("a.test").expect("is there");
        assert_eq!(certificate.chain.len(), 1 + MAX_INTERMEDIATES);
        let [_, one, .., other] = certificate.chain.as_slice() else { panic!("a long chain") };
        assert_eq!(one.as_ref().as_ptr(), other.as_ref().as_ptr(), "the same bytes, not a copy");
        let longer = decode(&of_chain(MAX_INTERMEDIATES + 1, 1), "r");
        assert!(matches!(longer, Err(SnapshotError::Damaged("a chain is too long"))));
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
            assert!(decode(&bytes[..length], "r").is_err());
        }
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x41;
            assert!(decode(&changed, "r").is_err(), "byte {place}");
        }
    }

    proptest! {
        /// Also with a checksum that is right: a bad writer must not take the reader down.
        #[test]
        fn any_bytes_are_answered(payload in proptest::collection::vec(any::<u8>(), 0..300),
                                  text in "[\\[\\]{}\":,a-z0-9]{0,200}") {
            for payload in [payload, text.into_bytes()] {
                prop_assert!(decode(&with_head(&payload), "r").is_err());
                prop_assert!(decode(&payload, "r").is_err());
            }
        }
    }
}
