//! The last known routes and sealed certificates on disk, so that a router can start while the
//! control database is gone. A file is whole or it is nothing: its length and checksum are in front,
//! it replaces the one before by a rename, and the one before is kept. Private keys lie in it as they
//! lie in the control database: sealed.

mod pieces;

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use control_types::SiteId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::time::{Duration, Instant, sleep, sleep_until};
use uuid::Uuid;

use pieces::{Base64, Summed};

use crate::{
    Edge,
    certificates::{Issuers, SealedCertificate},
    route_table::{EdgeRow, RouteRow, Table},
};

const MAGIC: [u8; 8] = *b"TA3LEMRT";
/// Raised when the contents change so that an older router must not read them.
const FORMAT: u32 = 2;
const HEAD_BYTES: usize = 8 + 4 + 8 + 32;
/// Larger files are not ours.
const MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Written or read at once.
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

/// The first line of the contents.
#[derive(Serialize, Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    region: Cow<'a, str>,
    taken_at: i64,
}

/// Each other line: what is read is in the table before the next one is looked at, so neither the
/// reader nor the writer ever has all of it a second time.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Piece<'a> {
    /// What follows the leaf in chains, once for all of them. They stand in front of the
    /// certificates, which name them by their number.
    Issuers(Vec<Base64<'a>>),
    Edge(Cow<'a, EdgeRow>),
    /// All routes of one site.
    Site(Vec<RouteRow>),
    #[serde(borrow)]
    Certificate(CertificateRow<'a>),
}

#[derive(Serialize, Deserialize)]
struct CertificateRow<'a> {
    id: Uuid,
    site_id: Option<SiteId>,
    #[serde(borrow)]
    hostname: Cow<'a, str>,
    leaf: Base64<'a>,
    issuers: usize,
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
    out.write_all(&[0; HEAD_BYTES])?;
    let summed = Summed { out: &mut out, length: 0, sum: Sha256::new() };
    let mut payload = BufWriter::with_capacity(BUFFER_BYTES, summed);
    write_line(&mut payload, &Head { region: region.into(), taken_at: now.unix_timestamp() })?;
    let mut places: HashMap<*const Issuers, usize> = HashMap::new();
    for certificate in table.certificates() {
        let (next, issuers) = (places.len(), &certificate.issuers);
        if let Entry::Vacant(place) = places.entry(Arc::as_ptr(issuers)) {
            place.insert(next);
            let ders = issuers.ders().iter().map(|der| Base64(Cow::Borrowed(der)));
            write_line(&mut payload, &Piece::Issuers(ders.collect()))?;
        }
    }
    for edge in table.all_edges() {
        write_line(&mut payload, &Piece::Edge(Cow::Borrowed(edge)))?;
    }
    for site in table.sites() {
        write_line(&mut payload, &Piece::Site(table.rows_of(site).collect()))?;
    }
    for certificate in table.certificates() {
        let row = CertificateRow {
            id: certificate.id,
            site_id: certificate.site_id,
            hostname: Cow::Borrowed(&certificate.hostname),
            leaf: Base64(Cow::Borrowed(certificate.leaf())),
            issuers: places.get(&Arc::as_ptr(&certificate.issuers)).copied().unwrap_or_default(),
            sealed_key: Base64(Cow::Borrowed(certificate.sealed_key())),
            not_after: certificate.not_after,
            version: certificate.version,
        };
        write_line(&mut payload, &Piece::Certificate(row))?;
    }
    let Summed { length, sum, .. } = payload.into_inner().map_err(io::Error::from)?;
    out.rewind()?;
    out.write_all(&MAGIC)?;
    out.write_all(&FORMAT.to_be_bytes())?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&sum.finalize())?;
    out.flush()?;
    Ok(())
}

fn write_line(mut out: impl Write, line: &impl Serialize) -> Result<(), SnapshotError> {
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// The snapshot in `file`, which is read twice: damaged bytes never get further than the first time.
///
/// # Errors
/// Whatever is wrong with it.
pub fn decode(file: impl Read + Seek, region: &str) -> Result<Snapshot, SnapshotError> {
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut head = [0; HEAD_BYTES];
    file.read_exact(&mut head).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Damaged("too short"),
        _ => error.into(),
    })?;
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
    let mut summed = Summed { out: io::sink(), length: 0, sum: Sha256::new() };
    io::copy(&mut file.by_ref().take(MAX_BYTES), &mut summed)?;
    if number(length) != summed.length {
        return Err(SnapshotError::Damaged("not as long as it says"));
    }
    if summed.sum.finalize().as_slice() != checksum {
        return Err(SnapshotError::Damaged("the checksum is wrong"));
    }
    file.seek(SeekFrom::Start(HEAD_BYTES as u64))?;
    from_lines(file, region)
}

fn from_lines(mut file: impl BufRead, region: &str) -> Result<Snapshot, SnapshotError> {
    let mut line = Vec::new();
    file.read_until(b'\n', &mut line)?;
    let head: Head<'_> = serde_json::from_slice(&line)?;
    if head.region != region {
        return Err(SnapshotError::Region(head.region.into_owned()));
    }
    let taken_at = OffsetDateTime::from_unix_timestamp(head.taken_at);
    let taken_at = taken_at.map_err(|_| SnapshotError::Damaged("the time is none"))?;
    let mut table = Table::default();
    let (mut issuers, mut edges) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        match serde_json::from_slice(&line)? {
            Piece::Issuers(ders) => {
                let ders = ders.into_iter().map(|der| der.0.into_owned().into());
                issuers.push(Issuers::shared(ders.collect()));
            }
            Piece::Edge(edge) => edges.push(edge.into_owned()),
            Piece::Site(rows) => add_site(&mut table, &rows)?,
            Piece::Certificate(row) => {
                let issuers = issuers.get(row.issuers);
                let issuers = issuers.ok_or(SnapshotError::Damaged("a chain points nowhere"))?;
                let certificate = SealedCertificate::new(
                    row.id,
                    row.site_id,
                    &row.hostname,
                    (&row.leaf.0, Arc::clone(issuers)),
                    &row.sealed_key.0,
                    row.not_after,
                    row.version,
                );
                table.insert_certificate(Arc::new(certificate));
            }
        }
    }
    table.replace_edges(edges);
    Ok(Snapshot { table, taken_at })
}

fn add_site(table: &mut Table, rows: &[RouteRow]) -> Result<(), SnapshotError> {
    // A site all of whose hostnames another one has by now.
    let Some(first) = rows.first() else { return Ok(()) };
    if rows.iter().any(|row| row.site_id != first.site_id) {
        return Err(SnapshotError::Damaged("the routes of two sites stand in one place"));
    }
    if table.site(first.site_id).is_some() {
        return Err(SnapshotError::Damaged("the routes of a site stand in two places"));
    }
    table.insert_site(rows, None);
    Ok(())
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
        let file = File::open(&path).map_err(SnapshotError::from);
        match file.and_then(|file| decode(file, region)) {
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
mod tests;
