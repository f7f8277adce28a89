//! What pgBackRest tells of its repository (`info --output=json`).

use anyhow::{Context as _, bail};
use provisioner_api::backups::{Backup, BackupKind};
use serde::Deserialize;
use time::OffsetDateTime;

/// What pgBackRest knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The base backups, the oldest first.
    pub backups: Vec<Backup>,
    /// The place in the log where the last one ended.
    pub last_stop: Option<u64>,
    /// The last segment of the log that is in the object store.
    pub archived_until: Option<String>,
}

#[derive(Deserialize)]
struct InfoStanza {
    #[serde(default)]
    archive: Vec<InfoArchive>,
    #[serde(default)]
    backup: Vec<InfoBackup>,
}

#[derive(Deserialize)]
struct InfoArchive {
    max: Option<String>,
}

#[derive(Deserialize)]
struct InfoBackup {
    label: String,
    #[serde(rename = "type")]
    kind: String,
    timestamp: InfoTimes,
    info: InfoSizes,
    lsn: Option<InfoPlaces>,
    /// Whether pages were found whose checksums are wrong.
    #[serde(default)]
    error: Option<bool>,
    /// Only told of a backup that was asked for by its label.
    #[serde(default, rename = "database-ref")]
    databases: Vec<InfoDatabase>,
}

#[derive(Deserialize)]
struct InfoDatabase {
    name: String,
}

#[derive(Deserialize)]
struct InfoTimes {
    start: i64,
    stop: i64,
}

#[derive(Deserialize)]
struct InfoSizes {
    size: u64,
    repository: InfoRepository,
}

#[derive(Deserialize)]
struct InfoRepository {
    delta: u64,
}

#[derive(Deserialize)]
struct InfoPlaces {
    stop: Option<String>,
}

fn stanza(text: &str) -> anyhow::Result<Option<InfoStanza>> {
    let stanzas: Vec<InfoStanza> =
        serde_json::from_str(text.trim()).context("pgbackrest info says something unknown")?;
    Ok(stanzas.into_iter().next())
}

/// The databases in a backup, of what is told of that one (`--set=…`).
pub fn databases(text: &str) -> anyhow::Result<Vec<String>> {
    let backups = stanza(text)?.into_iter().flat_map(|stanza| stanza.backup);
    Ok(backups.flat_map(|backup| backup.databases).map(|database| database.name).collect())
}

pub fn parse(text: &str) -> anyhow::Result<Known> {
    let Some(stanza) = stanza(text)? else { return Ok(Known::default()) };
    let places = stanza.backup.iter().filter_map(|backup| backup.lsn.as_ref()?.stop.as_deref());
    let last_stop = places.filter_map(place).max();
    let archived_until = stanza.archive.into_iter().filter_map(|archive| archive.max).max();
    let backups = stanza.backup.into_iter().filter(|backup| backup.error != Some(true));
    let backups = backups.map(InfoBackup::into_backup).collect::<anyhow::Result<_>>()?;
    Ok(Known { backups, last_stop, archived_until })
}

impl InfoBackup {
    fn into_backup(self) -> anyhow::Result<Backup> {
        let kind = match &*self.kind {
            "full" => BackupKind::Full,
            "diff" => BackupKind::Differential,
            "incr" => BackupKind::Incremental,
            other => bail!("pgbackrest info tells of a backup of kind {other}"),
        };
        Ok(Backup {
            label: self.label,
            kind,
            started_at: OffsetDateTime::from_unix_timestamp(self.timestamp.start)?,
            // It counts whole seconds, and restores no moment of the one in which a backup ended.
            finished_at: OffsetDateTime::from_unix_timestamp(self.timestamp.stop + 1)?,
            bytes: self.info.size,
            stored_bytes: self.info.repository.delta,
        })
    }
}

/// Of `1/2A000028`.
fn place(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |text| u64::from_str_radix(text, 16).ok();
    Some(part(high)? << 32 | part(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_knows_is_read() {
        let text = r#"[{"archive":[{"database":{"id":1,"repo-key":1},"id":"15-1",
            "max":"00000001000000000000000A","min":"000000010000000000000002"}],
            "backup":[{"archive":{"start":"a","stop":"b"},"database":{"id":1,"repo-key":1},
              "error":false,"info":{"delta":100,"repository":{"delta":10,"size":10},"size":100},
              "label":"20261130-081500F","lsn":{"start":"0/2000028","stop":"1/20001A0"},
              "prior":null,"reference":null,"timestamp":{"start":1796026500,"stop":1796026504},
              "type":"full"}],
            "cipher":"aes-256-cbc","db":[],"name":"s","status":{"code":0,"message":"ok"}}]"#;
        let known = parse(text).expect("reads");
        assert_eq!(known.last_stop, Some((1 << 32) + 0x0200_01A0));
        assert_eq!(known.archived_until.as_deref(), Some("00000001000000000000000A"));
        let backup = known.backups.first().expect("one");
        assert_eq!((backup.kind, backup.bytes, backup.stored_bytes), (BackupKind::Full, 100, 10));
        assert_eq!(parse("[]").expect("reads"), Known::default());
        let torn = text.replace("\"error\":false", "\"error\":true");
        assert!(parse(&torn).expect("reads").backups.is_empty(), "it holds torn pages");
        assert!(parse("no").is_err());
        assert!(databases(text).expect("reads").is_empty(), "it was not asked for");
        let refs = "\"database-ref\":[{\"name\":\"a\",\"oid\":16384},{\"name\":\"b\",\"oid\":9}],\"error\"";
        let asked = text.replace("\"error\"", refs);
        assert_eq!(databases(&asked).expect("reads"), ["a", "b"]);
    }
}
