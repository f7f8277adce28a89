//! Files with certificates and keys, as far as they can be told apart before anybody is asked.

use std::{
    io::{ErrorKind, Read as _},
    path::Path,
};

use crate::failure::{Code, Failure};

/// Longest file: chains and keys have some thousand bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads the file of an option that should hold PEM blocks of this kind.
pub fn read(option: &str, path: &Path, kind: &str) -> Result<String, Failure> {
    let shown = path.display();
    let wrong = |what: String| Failure::new(Code::Usage, format!("{option} {shown}: {what}"));
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => wrong("there is no such file".to_owned()),
            ErrorKind::PermissionDenied => wrong("it may not be read by this user".to_owned()),
            ErrorKind::IsADirectory => wrong("it is a directory; a file is wanted".to_owned()),
            _ => wrong(format!("it cannot be read: {error}")),
        })?;
    if bytes.is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong("it is longer than 1 MiB, so it holds something else".to_owned()));
    }
    String::from_utf8(bytes).map_err(|_| {
        let tool = if kind == "CERTIFICATE" { "x509" } else { "pkey" };
        wrong(format!("it is no text, and PEM is wanted, with a line -----BEGIN {kind}-----"))
            .hint(format!("if it is DER: openssl {tool} -inform der -in FILE -out NEW-FILE"))
    })
}
