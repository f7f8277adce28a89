//! What a file is, told by its bytes and never by what the browser said. What is not in this table
//! is not taken: above all nothing that a browser would run (HTML, SVG, scripts) and no programs.

use serde::Serialize;

use super::name::extension;

/// A kind of file that the site takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MediaType {
    /// `type/subtype`.
    pub name: &'static str,
    /// Whether browsers may show it in place; all else is downloaded.
    pub shown: bool,
    /// What it can be in a lesson besides a download.
    pub role: Role,
}

/// What a file can be in a lesson.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A picture.
    Image,
    /// Moving.
    Video,
    /// Only something to download or open.
    File,
}

const fn kind(name: &'static str, shown: bool, role: Role) -> MediaType {
    MediaType { name, shown, role }
}

const PNG: MediaType = kind("image/png", true, Role::Image);
const JPEG: MediaType = kind("image/jpeg", true, Role::Image);
const GIF: MediaType = kind("image/gif", true, Role::Image);
const WEBP: MediaType = kind("image/webp", true, Role::Image);
const AVIF: MediaType = kind("image/avif", true, Role::Image);
const MP4: MediaType = kind("video/mp4", true, Role::Video);
const WEBM: MediaType = kind("video/webm", true, Role::Video);
const MP3: MediaType = kind("audio/mpeg", true, Role::File);
const M4A: MediaType = kind("audio/mp4", true, Role::File);
const OGG: MediaType = kind("audio/ogg", true, Role::File);
/// A document for reading and printing.
pub const PDF: MediaType = kind("application/pdf", true, Role::File);
const ZIP: MediaType = kind("application/zip", false, Role::File);
const DOCX: MediaType = kind(
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    false,
    Role::File,
);
const XLSX: MediaType =
    kind("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", false, Role::File);
const PPTX: MediaType = kind(
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    false,
    Role::File,
);
const ODT: MediaType = kind("application/vnd.oasis.opendocument.text", false, Role::File);
const ODS: MediaType = kind("application/vnd.oasis.opendocument.spreadsheet", false, Role::File);
const ODP: MediaType = kind("application/vnd.oasis.opendocument.presentation", false, Role::File);
const EPUB: MediaType = kind("application/epub+zip", false, Role::File);
const OLE: MediaType = kind("application/x-ole-storage", false, Role::File);
const TEXT: MediaType = kind("text/plain", false, Role::File);
const CSV: MediaType = kind("text/csv", false, Role::File);
const MARKDOWN: MediaType = kind("text/markdown", false, Role::File);
const OTHER: MediaType = kind("application/octet-stream", false, Role::File);

const ALL: &[MediaType] = &[
    PNG, JPEG, GIF, WEBP, AVIF, MP4, WEBM, MP3, M4A, OGG, PDF, ZIP, DOCX, XLSX, PPTX, ODT, ODS,
    ODP, EPUB, OLE, TEXT, CSV, MARKDOWN,
];

impl MediaType {
    /// What the row of a file says. Unknown ones are only ever downloaded.
    pub fn of_stored(name: &str) -> Self {
        ALL.iter().copied().find(|kind| kind.name == name).unwrap_or(OTHER)
    }

    /// What the first bytes say; of zips and texts the name decides which kind. None if it is not
    /// taken.
    pub fn sniffed(head: &[u8], name: &str) -> Option<Self> {
        let extension = extension(name);
        match head {
            [0x89, b'P', b'N', b'G', ..] => Some(PNG),
            [0xff, 0xd8, 0xff, ..] => Some(JPEG),
            [b'G', b'I', b'F', b'8', ..] => Some(GIF),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(WEBP),
            [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4)? {
                b"avif" | b"avis" => Some(AVIF),
                b"M4A " => Some(M4A),
                _ => Some(MP4),
            },
            [0x1a, 0x45, 0xdf, 0xa3, ..] => Some(WEBM),
            [b'I', b'D', b'3', ..] | [0xff, 0xe2..=0xff, ..] => Some(MP3),
            [b'O', b'g', b'g', b'S', ..] => Some(OGG),
            [b'%', b'P', b'D', b'F', ..] => Some(PDF),
            [b'P', b'K', 3, 4, ..] => Some(zip(&extension)),
            [0xd0, 0xcf, 0x11, 0xe0, ..] if matches!(&*extension, "doc" | "xls" | "ppt") => {
                Some(OLE)
            }
            _ => text(head, &extension),
        }
    }
}

fn zip(extension: &str) -> MediaType {
    match extension {
        "docx" => DOCX,
        "xlsx" => XLSX,
        "pptx" => PPTX,
        "odt" => ODT,
        "ods" => ODS,
        "odp" => ODP,
        "epub" => EPUB,
        _ => ZIP,
    }
}

/// Text of a kind that nothing runs. It is never shown in place, whatever it holds.
fn text(head: &[u8], extension: &str) -> Option<MediaType> {
    let whole = match std::str::from_utf8(head) {
        Ok(_) => true,
        // The last letter may be cut.
        Err(error) => error.error_len().is_none(),
    };
    if !whole || head.contains(&0) {
        return None;
    }
    match extension {
        "txt" => Some(TEXT),
        "csv" => Some(CSV),
        "md" => Some(MARKDOWN),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_decide() {
        assert_eq!(MediaType::sniffed(b"\x89PNG\r\n\x1a\n", "a.html"), Some(PNG));
        assert_eq!(MediaType::sniffed(b"PK\x03\x04....", "a.docx"), Some(DOCX));
        assert_eq!(MediaType::sniffed(b"PK\x03\x04....", "a.jar"), Some(ZIP));
        assert_eq!(MediaType::sniffed(b"\0\0\0\x18ftypisom", "a"), Some(MP4));
        assert_eq!(MediaType::sniffed("salam é".as_bytes(), "a.txt"), Some(TEXT));
        assert_eq!(MediaType::sniffed(&"é".as_bytes()[..1], "a.md"), Some(MARKDOWN));
        for (bytes, name) in [
            (&b"<html><script>"[..], "a.html"),
            (b"<svg xmlns='...'>", "a.svg"),
            (b"<html>", "a.png"),
            (b"MZ\x90\0", "a.exe"),
            (b"\x7fELF", "a"),
            (b"#!/bin/sh", "a.sh"),
            (b"", "a.pdf"),
            (b"MZ\0", "a.txt"),
        ] {
            assert_eq!(MediaType::sniffed(bytes, name), None, "{name}");
        }
    }

    #[test]
    fn what_is_stored_but_unknown_is_downloaded() {
        for name in ["text/html", "image/svg+xml", "application/javascript", ""] {
            assert_eq!(MediaType::of_stored(name), OTHER);
        }
    }
}
