//! Listings that look only where the prefix points. (s3s-fs walks the whole bucket for each.)

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use s3s::{
    S3Result,
    dto::{CommonPrefix, ListObjectsV2Input, ListObjectsV2Output, Object, Timestamp},
    s3_error,
};

/// Most keys in one answer.
const MAX_KEYS: i32 = 1000;

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Object(String),
    Prefix(String),
}

impl Line {
    fn text(&self) -> &str {
        match self {
            Self::Object(text) | Self::Prefix(text) => text,
        }
    }
}

/// Answers a listing of the bucket at `bucket_root`. Blocks.
///
/// # Errors
/// When the bucket cannot be read, or the answer would be a wrong one.
pub fn list(bucket_root: &Path, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
    let prefix = input.prefix.clone().unwrap_or_default();
    if prefix.split('/').any(|segment| matches!(segment, "." | ".."))
        || prefix.starts_with('/')
        || prefix.contains("//")
    {
        return Err(s3_error!(InvalidArgument, "not a prefix that this object store can hold"));
    }
    if !bucket_root.is_dir() {
        return Err(s3_error!(NoSuchBucket));
    }
    let mut keys = Vec::new();
    walk(bucket_root, &prefix, &mut keys).map_err(s3s::S3Error::internal_error)?;
    let after = input.continuation_token.as_deref().max(input.start_after.as_deref());
    let lines = lines(keys, &prefix, input.delimiter.as_deref().unwrap_or_default(), after);
    let most = input.max_keys.unwrap_or(MAX_KEYS).clamp(0, MAX_KEYS);
    let shown = &lines[..lines.len().min(usize::try_from(most).unwrap_or(0))];
    let is_truncated = !shown.is_empty() && shown.len() < lines.len();
    let (mut contents, mut common_prefixes) = (Vec::new(), Vec::new());
    for line in shown {
        match line {
            Line::Object(key) => contents.extend(object(bucket_root, key)),
            Line::Prefix(prefix) => {
                common_prefixes.push(CommonPrefix { prefix: Some(prefix.clone()) });
            }
        }
    }
    Ok(ListObjectsV2Output {
        key_count: i32::try_from(shown.len()).ok(),
        max_keys: Some(most),
        is_truncated: Some(is_truncated),
        next_continuation_token: shown
            .last()
            .filter(|_| is_truncated)
            .map(|line| line.text().to_owned()),
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        continuation_token: input.continuation_token,
        delimiter: input.delimiter,
        encoding_type: input.encoding_type,
        name: Some(input.bucket),
        prefix: input.prefix,
        start_after: input.start_after,
        ..Default::default()
    })
}

/// All keys that begin with `prefix`, in no order.
fn walk(bucket_root: &Path, prefix: &str, keys: &mut Vec<String>) -> io::Result<()> {
    let (directory, _) = prefix.rsplit_once('/').unwrap_or_default();
    let mut pending = vec![PathBuf::from(directory)];
    while let Some(directory) = pending.pop() {
        let entries = match std::fs::read_dir(bucket_root.join(&directory)) {
            Ok(entries) => entries,
            // Removed in the meantime, or never there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let Some(key) = path.to_str() else { continue };
            if entry.file_type()?.is_dir() {
                let below = format!("{key}/");
                if below.starts_with(prefix) || prefix.starts_with(&below) {
                    pending.push(path);
                }
            } else if key.starts_with(prefix) {
                keys.push(key.to_owned());
            }
        }
    }
    Ok(())
}

/// Sorted, grouped by the delimiter, and what comes after the place where the last answer ended.
fn lines(keys: Vec<String>, prefix: &str, delimiter: &str, after: Option<&str>) -> Vec<Line> {
    let mut lines = BTreeSet::new();
    for key in keys {
        let rest = key.get(prefix.len()..).unwrap_or_default();
        match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(at) => {
                let end = prefix.len() + at + delimiter.len();
                lines.insert(Line::Prefix(key.get(..end).unwrap_or_default().to_owned()));
            }
            None => {
                lines.insert(Line::Object(key));
            }
        }
    }
    let mut lines: Vec<Line> =
        lines.into_iter().filter(|line| after.is_none_or(|after| line.text() > after)).collect();
    lines.sort_by(|a, b| a.text().cmp(b.text()));
    lines
}

/// None when the object was deleted in the meantime.
fn object(bucket_root: &Path, key: &str) -> Option<Object> {
    let metadata = std::fs::metadata(bucket_root.join(key)).ok()?;
    Some(Object {
        key: Some(key.to_owned()),
        last_modified: metadata.modified().ok().map(Timestamp::from),
        size: i64::try_from(metadata.len()).ok(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_delimiter_groups_and_a_marker_skips() {
        let all = keys(&["a/z", "a/b/2", "a/b/1", "a/c"]);
        let grouped = lines(all.clone(), "a/", "/", None);
        let texts: Vec<_> = grouped.iter().map(Line::text).collect();
        assert_eq!(texts, ["a/b/", "a/c", "a/z"]);
        let rest = lines(all, "a/", "", Some("a/b/2"));
        let texts: Vec<_> = rest.iter().map(Line::text).collect();
        assert_eq!(texts, ["a/c", "a/z"]);
    }

    #[test]
    fn only_what_begins_with_the_prefix_is_seen() {
        let root = tempfile::tempdir().expect("a directory");
        for key in ["site/1/x", "site/11/x", "site/1/d/y", "other/z"] {
            let path = root.path().join(key);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
            std::fs::write(path, b"1").expect("writes");
        }
        let mut found = Vec::new();
        walk(root.path(), "site/1/", &mut found).expect("walks");
        found.sort();
        assert_eq!(found, ["site/1/d/y", "site/1/x"]);
        let mut none = Vec::new();
        walk(root.path(), "site/1/x/", &mut none).expect("walks");
        assert!(none.is_empty());
    }
}
