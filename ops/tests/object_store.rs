//! The embedded object store over HTTP: what a site's key can do, and that it can do nothing else.
//! By rust-s3, which the tenant-app uses, and by requests made by hand that no client would send.

#![allow(clippy::expect_used, clippy::panic, reason = "test helpers outside of test functions")]

use std::fmt::Write as _;

use hmac::{Hmac, Mac as _};
use ops::{data_dir::DataDir, object_store::ObjectStore, up::authority::Authority};
use s3::{Bucket, Region, creds::Credentials, error::S3Error};
use sha2::{Digest as _, Sha256};

const BUCKET: &str = "ta3lem-files";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

struct Fixture {
    directory: tempfile::TempDir,
    store: ObjectStore,
    http: reqwest::Client,
}

impl Fixture {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self::over(directory).await
    }

    async fn over(directory: tempfile::TempDir) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let data = DataDir::at(directory.path()).expect("a path");
        data.prepare().expect("made");
        let authority = Authority::of(&data);
        authority.ensure().expect("made");
        let tls = authority.server_config().expect("a certificate");
        let store = ObjectStore::start(directory.path(), BUCKET, tls).await.expect("starts");
        let root = std::fs::read(&authority.certificate).expect("there");
        let root = reqwest::Certificate::from_pem(&root).expect("a certificate");
        let http = reqwest::Client::builder().add_root_certificate(root).build();
        Self { directory, store, http: http.expect("a client") }
    }

    async fn restart(self) -> Self {
        self.store.stop().await;
        Self::over(self.directory).await
    }

    async fn put_key(&self, access_key: &str, prefix: &str) {
        let grant = serde_json::json!({
            "secret_key": SECRET, "bucket": BUCKET, "prefix": prefix
        });
        self.put_grant(access_key, &grant).await;
    }

    async fn put_grant(&self, access_key: &str, body: &serde_json::Value) {
        let url = format!("{}/{access_key}", self.store.key_admin_url());
        let token = &self.store.identity.key_admin_token;
        let answer = self.http.put(url).bearer_auth(token).json(body).send().await;
        assert_eq!(answer.expect("answers").status(), 204);
    }

    fn bucket(&self, access_key: &str, secret_key: &str) -> Box<Bucket> {
        let region = Region::Custom { region: "id-jakarta".to_owned(), endpoint: self.store.url() };
        let credentials = Credentials::new(Some(access_key), Some(secret_key), None, None, None);
        Bucket::new(BUCKET, region, credentials.expect("credentials"))
            .expect("a bucket")
            .with_path_style()
    }

    fn site(&self, access_key: &str) -> Box<Bucket> {
        self.bucket(access_key, SECRET)
    }

    fn admin(&self) -> Box<Bucket> {
        let identity = &self.store.identity;
        self.bucket(&identity.admin_access_key, &identity.admin_secret_key)
    }

    /// A request whose path and query go over the wire as they are, properly signed.
    async fn raw(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let address = self.store.url().replace("http://", "");
        let date = time::OffsetDateTime::now_utc();
        let day = format!("{}{:02}{:02}", date.year(), u8::from(date.month()), date.day());
        let stamp = format!("{day}T{:02}{:02}{:02}Z", date.hour(), date.minute(), date.second());
        let hash = hex::encode(Sha256::digest(body));
        let mut signed = vec![
            ("host", address.as_str()),
            ("x-amz-content-sha256", hash.as_str()),
            ("x-amz-date", stamp.as_str()),
        ];
        signed.extend(headers);
        signed.sort_unstable();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines = signed.iter().fold(String::new(), |mut lines, (name, value)| {
            writeln!(lines, "{name}:{value}").expect("writes");
            lines
        });
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{hash}");
        let scope = format!("{day}/id-jakarta/s3/aws4_request");
        let canonical = hex::encode(Sha256::digest(canonical));
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{canonical}");
        let mut key = format!("AWS4{SECRET}").into_bytes();
        for part in [day.as_str(), "id-jakarta", "s3", "aws4_request"] {
            key = mac(&key, part);
        }
        let signature = hex::encode(mac(&key, &to_sign));
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        let request = format!(
            "{method} {path}{query} HTTP/1.1\r\n{}authorization: AWS4-HMAC-SHA256 \
             Credential=site-one/{scope}, SignedHeaders={names}, Signature={signature}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            lines.replace('\n', "\r\n"),
            body.len(),
        );
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer)
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn status<T>(result: Result<T, S3Error>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(S3Error::HttpFailWithBody(status, _)) => status,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_site_lives_within_its_prefix() {
    let fixture = Fixture::start().await;
    fixture.put_key("site-one", "site/1").await;
    fixture.put_key("site-two", "site/2").await;
    let (one, two) = (fixture.site("site-one"), fixture.site("site-two"));

    one.put_object_with_content_type("/site/1/blob/a", b"alpha", "text/plain").await.expect("puts");
    let read = one.get_object("/site/1/blob/a").await.expect("reads");
    assert_eq!(read.as_slice(), b"alpha");
    let (head, _) = one.head_object("/site/1/blob/a").await.expect("there");
    assert_eq!(head.content_type.as_deref(), Some("text/plain"));
    assert_eq!(head.content_length, Some(5));
    let part = one.get_object_range("/site/1/blob/a", 1, Some(2)).await.expect("reads");
    assert_eq!(part.as_slice(), b"lp");
    one.copy_object_internal("site/1/blob/a", "site/1/blob/b").await.expect("copies");
    let listed = one.list("site/1/".to_owned(), None).await.expect("lists");
    let keys: Vec<_> = listed[0].contents.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(keys, ["site/1/blob/a", "site/1/blob/b"]);

    for path in ["/site/1/blob/a", "/site/11/a", "/site/1", "/other", "/site/2/blob/x"] {
        let allowed = path.starts_with("/site/2/");
        let expected = |ok: u16| if allowed { ok } else { 403 };
        assert_eq!(status(two.put_object(path, b"x").await), expected(200), "put {path}");
        assert_eq!(status(two.get_object(path).await), expected(200), "get {path}");
        let head = two.head_object(path).await;
        assert_eq!(head.is_ok(), allowed, "head {path}");
        assert_eq!(status(two.delete_object(path).await), expected(200), "delete {path}");
        let begun = two.initiate_multipart_upload(path, "text/plain").await;
        assert_eq!(status(begun), expected(200), "multipart {path}");
    }
    for prefix in ["", "site", "site/", "site/1/", "site/2", "site/22/"] {
        assert_eq!(status(two.list(prefix.to_owned(), None).await), 403, "list {prefix:?}");
    }
    assert_eq!(status(two.list("site/2/".to_owned(), None).await), 200);
    assert_eq!(
        status(two.copy_object_internal("site/1/blob/a", "site/2/stolen").await),
        403,
        "copy from another site"
    );
    assert_eq!(status(two.copy_object_internal("site/2/blob/x", "site/1/planted").await), 403);
    assert_eq!(one.get_object("/site/1/blob/a").await.expect("intact").as_slice(), b"alpha");
}

#[tokio::test]
async fn requests_made_by_hand_do_not_get_out() {
    let fixture = Fixture::start().await;
    fixture.put_key("site-one", "site/1").await;
    fixture.put_key("site-two", "site/2").await;
    let two = fixture.site("site-two");
    two.put_object("/site/2/secret", b"theirs").await.expect("puts");

    let inside = format!("/{BUCKET}/site/1/plain");
    assert_eq!(fixture.raw("PUT", &inside, "", &[], "mine").await.0, 200, "the signer works");
    assert_eq!(fixture.raw("GET", &inside, "", &[], "").await.0, 200);
    for path in [
        "site/1/../2/secret",
        "site/1/%2E%2E/2/secret",
        "site/1%2F..%2F2%2Fsecret",
        "site/1/%2e%2e%2f2/secret",
        "site/1//site/2/secret",
        "site/1/./../2/secret",
        "site/1/..%5C2%5Csecret",
        "site/1/%00",
        "site/1/x/",
        "/site/1/x",
        "%2Fsite/1/x",
        "..%2F..%2Fidentity.json",
        "site/1/../../../../identity.json",
    ] {
        for method in ["GET", "PUT", "DELETE", "HEAD"] {
            let path = format!("/{BUCKET}/{path}");
            let (status, answer) = fixture.raw(method, &path, "", &[], "").await;
            assert!(matches!(status, 400 | 403), "{method} {path}: {answer}");
            assert!(!answer.contains("theirs") && !answer.contains("secret_key"), "{answer}");
        }
    }
    for (method, path, query) in [
        ("GET", "/", ""),
        ("GET", &format!("/{BUCKET}"), ""),
        ("HEAD", &format!("/{BUCKET}"), ""),
        ("PUT", "/another-bucket", ""),
        ("DELETE", &format!("/{BUCKET}"), ""),
        ("GET", &format!("/{BUCKET}"), "location="),
        ("GET", &format!("/{BUCKET}"), "policy="),
        ("GET", &format!("/{BUCKET}"), "uploads="),
        ("GET", &format!("/{BUCKET}"), "versions="),
        ("GET", &format!("/{BUCKET}"), "prefix=site%2F2%2F"),
        ("GET", &format!("/{BUCKET}"), "list-type=2&prefix=site%2F1%2F..%2F2%2F"),
        ("GET", &format!("/{BUCKET}/site/1/plain"), "acl="),
        ("GET", &format!("/{BUCKET}/site/1/plain"), "tagging="),
        ("GET", "/another-bucket/site/1/plain", ""),
    ] {
        let (status, answer) = fixture.raw(method, path, query, &[], "").await;
        assert!(matches!(status, 400 | 403), "{method} {path}?{query}: {answer}");
    }
    let delete = "<Delete><Object><Key>site/1/plain</Key></Object>\
                  <Object><Key>site/2/secret</Key></Object></Delete>";
    let bucket = format!("/{BUCKET}");
    assert_eq!(fixture.raw("POST", &bucket, "delete=", &[], delete).await.0, 403);
    for source in ["site/2/secret", "site/1/../2/secret", "site%2F1%2F..%2F2%2Fsecret"] {
        let source = format!("/{BUCKET}/{source}");
        let to = format!("/{BUCKET}/site/1/copy");
        let (status, answer) =
            fixture.raw("PUT", &to, "", &[("x-amz-copy-source", &source)], "").await;
        assert!(matches!(status, 400 | 403), "{source}: {answer}");
    }
    assert_eq!(two.get_object("/site/2/secret").await.expect("intact").as_slice(), b"theirs");
    assert_eq!(fixture.raw("GET", &inside, "", &[], "").await.0, 200, "nothing half deleted");
}

#[tokio::test]
async fn multipart_uploads_are_whole_and_their_owners_own() {
    let fixture = Fixture::start().await;
    fixture.put_key("site-one", "site/1").await;
    fixture.put_key("site-two", "site/2").await;
    let (one, two) = (fixture.site("site-one"), fixture.site("site-two"));
    let content: Vec<u8> = (0..11_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut reader = content.as_slice();
    one.put_object_stream(&mut reader, "/site/1/big").await.expect("uploads in parts");
    let read = one.get_object("/site/1/big").await.expect("reads");
    assert_eq!(Sha256::digest(read.as_slice()), Sha256::digest(&content));

    let begun = one.initiate_multipart_upload("/site/1/other", "text/plain").await.expect("begins");
    let stolen = two
        .put_multipart_chunk(content[..10].to_vec(), "/site/2/x", 1, &begun.upload_id, "text/plain")
        .await;
    assert_eq!(status(stolen), 403, "another site's upload");
    assert_eq!(status(two.abort_upload("/site/2/x", &begun.upload_id).await), 403);
    let early = one.complete_multipart_upload("/site/1/other", &begun.upload_id, Vec::new()).await;
    assert_eq!(status(early), 400, "no parts yet");
    let part = one
        .put_multipart_chunk(b"late".to_vec(), "/site/1/other", 1, &begun.upload_id, "text/plain")
        .await
        .expect("the upload is still there");
    one.complete_multipart_upload("/site/1/other", &begun.upload_id, vec![part])
        .await
        .expect("completes");
    assert_eq!(one.get_object("/site/1/other").await.expect("reads").as_slice(), b"late");

    let begun = one.initiate_multipart_upload("/site/1/gone", "text/plain").await.expect("begins");
    one.abort_upload("/site/1/gone", &begun.upload_id).await.expect("aborts");
    let names = files_of(&fixture);
    assert!(!names.iter().any(|name| name.contains("upload")), "{names:?}");
}

#[tokio::test]
async fn what_is_deleted_leaves_nothing() {
    let fixture = Fixture::start().await;
    fixture.put_key("site-one", "site/1").await;
    let one = fixture.site("site-one");
    one.put_object("/site/1/blob/a", b"a").await.expect("puts");
    one.put_object("/site/1/blob/b", b"b").await.expect("puts");
    assert_eq!(
        status(one.put_object("/site/1/blob", b"x").await),
        400,
        "a directory is in the way"
    );
    assert_eq!(status(one.put_object("/site/1/blob/a/x", b"x").await), 400, "an object is");
    assert_eq!(status(one.get_object("/site/1/blob").await), 404, "a directory is no object");
    one.delete_object("/site/1/blob/a").await.expect("deletes");
    let admin = fixture.admin();
    let listed = admin.list(String::new(), None).await.expect("an admin sees all");
    assert_eq!(listed[0].contents.len(), 1);
    admin.delete_object("/site/1/blob/b").await.expect("deletes");
    assert_eq!(files_of(&fixture), [BUCKET.to_owned()], "neither attributes nor directories");
}

fn files_of(fixture: &Fixture) -> Vec<String> {
    let objects = fixture.directory.path().join("objects");
    let mut names = Vec::new();
    let mut pending = vec![objects.clone()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.strip_prefix(&objects).expect("below");
            names.push(name.to_str().expect("text").to_owned());
            if path.is_dir() {
                pending.push(path);
            }
        }
    }
    names
}

#[tokio::test]
async fn keys_are_made_by_those_who_know_the_token() {
    let fixture = Fixture::start().await;
    let url = fixture.store.key_admin_url();
    let token = fixture.store.identity.key_admin_token.clone();
    for wrong in ["", "x", &token[1..], &format!("{token}x")] {
        let answer = fixture.http.get(&url).bearer_auth(wrong).send().await.expect("answers");
        assert_eq!(answer.status(), 401);
    }
    assert_eq!(fixture.http.get(&url).send().await.expect("answers").status(), 401);
    for (key, body) in [
        ("site-one", serde_json::json!({"secret_key": SECRET, "bucket": BUCKET, "prefix": ""})),
        ("site-one", serde_json::json!({"secret_key": SECRET, "bucket": BUCKET, "prefix": "../x"})),
        ("site-one", serde_json::json!({"secret_key": "x", "bucket": BUCKET, "prefix": "a"})),
        ("site-one", serde_json::json!({"secret_key": SECRET, "bucket": BUCKET})),
        ("a%2Fb", serde_json::json!({"secret_key": SECRET, "bucket": BUCKET, "prefix": "a"})),
        (
            fixture.store.identity.admin_access_key.as_str(),
            serde_json::json!({"secret_key": SECRET, "bucket": BUCKET, "prefix": "a"}),
        ),
    ] {
        let put = fixture.http.put(format!("{url}/{key}")).bearer_auth(&token).json(&body);
        let answer = put.send().await.expect("answers");
        assert_eq!(answer.status(), 400, "{key} {body}");
    }
    fixture.put_key("site-one", "site/1").await;
    fixture.put_key("site-one", "site/1").await;
    let listed = fixture.http.get(&url).bearer_auth(&token).send().await.expect("answers");
    let listed: serde_json::Value = listed.json().await.expect("JSON");
    assert!(listed.to_string().contains(r#""prefix":"site/1""#), "{listed}");
    assert!(!listed.to_string().contains(SECRET), "no secret is told");
    let one = fixture.site("site-one");
    one.put_object("/site/1/a", b"a").await.expect("puts");
    assert_eq!(status(fixture.bucket("site-one", "wrong").get_object("/site/1/a").await), 403);
    for _ in 0..2 {
        let gone = fixture.http.delete(format!("{url}/site-one")).bearer_auth(&token);
        assert_eq!(gone.send().await.expect("answers").status(), 204);
    }
    assert_eq!(status(one.get_object("/site/1/a").await), 403, "the key is gone at once");
    let anonymous = format!("{}/{BUCKET}/site/1/a", fixture.store.url());
    assert_eq!(fixture.http.get(anonymous).send().await.expect("answers").status(), 403);
}

#[tokio::test]
async fn a_key_that_only_reads_changes_nothing() {
    let fixture = Fixture::start().await;
    fixture.put_key("site-one", "site/1").await;
    fixture.site("site-one").put_object("/site/1/a", b"a").await.expect("puts");
    let grant = serde_json::json!({
        "secret_key": SECRET, "bucket": BUCKET, "prefix": "site/1", "read_only": true
    });
    fixture.put_grant("preview", &grant).await;
    let fixture = fixture.restart().await;
    let preview = fixture.site("preview");
    assert_eq!(preview.get_object("/site/1/a").await.expect("reads").as_slice(), b"a");
    assert_eq!(status(preview.put_object("/site/1/a", b"b").await), 403);
    assert_eq!(status(preview.put_object("/site/1/b", b"b").await), 403);
    assert_eq!(status(preview.delete_object("/site/1/a").await), 403);
    assert_eq!(status(preview.initiate_multipart_upload("/site/1/c", "text/plain").await), 403);
    assert_eq!(status(preview.copy_object_internal("/site/1/a", "/site/1/d").await), 403);
    assert_eq!(status(preview.get_object("/site/2/a").await), 403);
    assert_eq!(preview.get_object("/site/1/a").await.expect("reads").as_slice(), b"a");
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let fixture = Fixture::start().await;
    fixture.put_key("site-one", "site/1").await;
    fixture.site("site-one").put_object("/site/1/a", b"kept").await.expect("puts");
    let (url, token) = (fixture.store.url(), fixture.store.identity.key_admin_token.clone());
    let fixture = fixture.restart().await;
    assert_eq!(fixture.store.url(), url, "the same port");
    assert_eq!(fixture.store.identity.key_admin_token, token);
    let read = fixture.site("site-one").get_object("/site/1/a").await.expect("reads");
    assert_eq!(read.as_slice(), b"kept");
}

#[tokio::test]
async fn it_takes_connections_with_tls_at_the_same_port() {
    let fixture = Fixture::start().await;
    fixture.put_key("site-one", "site/1").await;
    let url = fixture.store.url().replace("http://", "https://");
    let token = &fixture.store.identity.key_admin_token;
    for host in ["127.0.0.1", "localhost"] {
        let keys = fixture.store.key_admin_url().replace(&fixture.store.url(), &url);
        let keys = keys.replace("127.0.0.1", host);
        let body = serde_json::json!({
            "secret_key": SECRET, "bucket": BUCKET, "prefix": "site/2"
        });
        let request = fixture.http.put(format!("{keys}/site-two")).bearer_auth(token).json(&body);
        assert_eq!(request.send().await.expect("answers").status(), 204, "{host}");
    }
    let stranger = reqwest::Client::new().get(&url).send().await.expect_err("is not trusted");
    assert!(stranger.is_connect(), "{stranger:?}");
    // Who is silent holds up neither the others nor the end.
    let address = fixture.store.url().replace("http://", "");
    let silent = tokio::net::TcpStream::connect(&address).await.expect("connects");
    fixture.site("site-two").put_object("/site/2/a", b"there").await.expect("writes");
    let begun = std::time::Instant::now();
    fixture.store.stop().await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "waited for a silent one");
    drop(silent);
}
