//! Reads what the process is told on its standard input. All mistakes are reported at once; none
//! of the messages contains a value, since some values are secrets.

use std::io::Read;

use control_types::InstanceConfig;

/// Far more than any configuration needs.
const MAX_BYTES: u64 = 64 * 1024;

/// Reads and checks the configuration.
///
/// # Errors
/// One sentence per mistake, each naming its field.
pub fn read(input: impl Read) -> Result<InstanceConfig, Vec<String>> {
    let mut text = String::new();
    input
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| vec![format!("standard input cannot be read: {error}")])?;
    let config: InstanceConfig = serde_json::from_str(&text).map_err(|error| {
        // serde's own message may quote a value.
        vec![format!(
            "standard input is no instance configuration ({:?} error at line {}, column {})",
            error.classify(),
            error.line(),
            error.column()
        )]
    })?;
    let mistakes = mistakes(&config);
    if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
}

fn mistakes(config: &InstanceConfig) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut must = |right: bool, sentence: &str| {
        if !right {
            mistakes.push(sentence.to_owned());
        }
    };
    must(config.generation.0 > 0, "generation: must be positive");
    must(config.max_database_connections > 0, "max_database_connections: must be positive");
    must(!config.database.host.is_empty(), "database.host: must not be empty");
    must(config.database.port > 0, "database.port: must be positive");
    must(!config.database.database.is_empty(), "database.database: must not be empty");
    must(!config.database.user.is_empty(), "database.user: must not be empty");
    let endpoint = url::Url::parse(&config.storage.endpoint);
    let web = endpoint.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    must(web, "storage.endpoint: must be an http or https URL");
    must(!config.storage.bucket.is_empty(), "storage.bucket: must not be empty");
    must(!config.storage.access_key.is_empty(), "storage.access_key: must not be empty");
    must(!config.storage.secret_key.is_empty(), "storage.secret_key: must not be empty");
    let prefix = &config.storage.prefix;
    let clean = prefix.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    must(clean, "storage.prefix: must be a relative path without a slash at its ends");
    let key_hash = config.preview.as_ref().map(|preview| preview.key_hash.as_bytes());
    let is_hash =
        key_hash.is_none_or(|text| text.len() == 64 && text.iter().all(u8::is_ascii_hexdigit));
    must(is_hash, "preview.key_hash: must be 64 hexadecimal digits");
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> serde_json::Value {
        serde_json::json!({
            "site_id": "018f0000-0000-7000-8000-000000000001", "slug": "acme", "generation": 1,
            "instance_id": "018f0000-0000-7000-8000-000000000002",
            "database": {"host": "/run", "port": 5432, "database": "s", "user": "s", "password": "p"},
            "storage": {"endpoint": "http://localhost:1", "region": "r", "bucket": "b",
                        "prefix": "site/x", "access_key": "a", "secret_key": "s3cr3t"},
            "idle_exit_secs": 0, "max_database_connections": 5
        })
    }

    #[test]
    fn a_right_one_is_read() {
        assert!(read(sample().to_string().as_bytes()).is_ok());
    }

    #[test]
    fn what_opens_a_preview_is_a_hash() {
        let mut preview = sample();
        for (key_hash, right) in
            [("0aF9".repeat(16), true), ("0a".to_owned(), false), ("s3cr3t!!".repeat(8), false)]
        {
            preview["preview"] = serde_json::json!({
                "moment": "2026-11-30T10:42:05Z", "key_hash": key_hash,
                "expires_at": "2026-12-01T10:42:05Z"
            });
            let mistakes = read(preview.to_string().as_bytes()).err().unwrap_or_default();
            assert_eq!(mistakes.is_empty(), right, "{mistakes:?}");
            assert!(right || mistakes[0].starts_with("preview.key_hash: "), "{mistakes:?}");
            assert!(!mistakes.concat().contains("s3cr3t"));
        }
    }

    #[test]
    fn all_mistakes_at_once_and_no_secret() {
        let mut wrong = sample();
        wrong["generation"] = 0.into();
        wrong["storage"]["prefix"] = "/x/../y".into();
        wrong["storage"]["endpoint"] = "s3cr3t".into();
        let mistakes = read(wrong.to_string().as_bytes()).expect_err("wrong");
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
        assert!(!mistakes.concat().contains("s3cr3t"));
        assert_eq!(read(&b"{"[..]).expect_err("wrong").len(), 1);
    }
}
