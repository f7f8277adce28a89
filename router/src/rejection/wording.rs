//! The words of the rejection pages, in each language: a title and one sentence or two that say
//! what the reader can do.

use http::{HeaderMap, header::ACCEPT_LANGUAGE};

use super::Reason;

/// A language that pages are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Indonesian.
    Indonesian,
    /// English.
    English,
}

impl Language {
    /// The language of a site, by the tag in the control database.
    pub fn of_site(tag: &str) -> Self {
        if tag == "en" { Self::English } else { Self::Indonesian }
    }

    /// The first language of `Accept-Language` that there are pages in; English otherwise.
    pub fn accepted(asked: &HeaderMap) -> Self {
        let line = asked.get(ACCEPT_LANGUAGE).and_then(|line| line.to_str().ok()).unwrap_or("");
        for entry in line.split(',') {
            let tag = entry.trim().get(..2).unwrap_or("");
            if tag.eq_ignore_ascii_case("id") {
                return Self::Indonesian;
            }
            if tag.eq_ignore_ascii_case("en") {
                return Self::English;
            }
        }
        Self::English
    }

    /// The tag for `lang` and `Content-Language`.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Indonesian => "id",
            Self::English => "en",
        }
    }

    /// What the status and the request's id are called.
    pub const fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Indonesian => ("Status", "ID permintaan"),
            Self::English => ("Status", "Request ID"),
        }
    }
}

/// The title and the text for `reason`. They stand in HTML as they are, so no markup in them.
pub const fn wording(reason: Reason, language: Language) -> (&'static str, &'static str) {
    match language {
        Language::Indonesian => indonesian(reason),
        Language::English => english(reason),
    }
}

const fn english(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::BadRequest | Reason::BadHost | Reason::BadBody => (
            "This request cannot be read",
            "The browser or program sent a malformed request. Check the address and try again.",
        ),
        Reason::UnknownHost => (
            "There is no site at this address",
            "Check the spelling of the address. If you set up this domain yourself, its setup may not be finished yet.",
        ),
        Reason::MethodNotAllowed | Reason::MethodUnknown => (
            "This kind of request is not possible here",
            "The program used a method that no page answers.",
        ),
        Reason::ExpectationFailed => (
            "This request expects something unknown",
            "The program sent an Expect header that is not supported.",
        ),
        Reason::Misdirected => (
            "This connection belongs to another site",
            "Open the address in a new tab or restart the browser.",
        ),
        Reason::BodyTooLarge => (
            "This upload is too large",
            "The file is larger than this site allows. Choose a smaller file, or ask the site's administrator.",
        ),
        Reason::BodyTimeout => (
            "The upload stopped",
            "Nothing more arrived for a minute. Check your connection and try again.",
        ),
        Reason::Suspended => (
            "This site is currently closed",
            "All its content is kept. Please contact the institution that runs it.",
        ),
        Reason::Deleting => (
            "This site has been closed",
            "Please contact the institution that ran it if you still need something from it.",
        ),
        Reason::Starting => (
            "This site is starting",
            "It will be here in a few seconds. Please load the page again.",
        ),
        Reason::Relocating | Reason::Held => (
            "One moment please",
            "This site is being maintained for a few seconds. Nothing was changed; please try again.",
        ),
        Reason::Busy | Reason::SiteOverLimit => (
            "This site is very busy",
            "Many people are using it right now. Please try again in a few seconds.",
        ),
        Reason::ClientOverLimit => (
            "Too many requests",
            "More was asked for from your network than is usual for people. Please wait a moment and try again.",
        ),
        Reason::UpstreamFailed => (
            "This page cannot be shown right now",
            "Something went wrong on our side. Please try again; if it stays so, tell the site's administrator the number below.",
        ),
        Reason::UpstreamTimeout => (
            "This page takes too long",
            "The site did not answer in time. Please try again; if it stays so, tell the site's administrator the number below.",
        ),
        Reason::NoRoutes => {
            ("The service is starting", "It will be here in a moment. Please load the page again.")
        }
    }
}

const fn indonesian(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::BadRequest | Reason::BadHost | Reason::BadBody => (
            "Permintaan ini tidak dapat dibaca",
            "Peramban atau program mengirim permintaan yang salah bentuk. Periksa alamatnya lalu coba lagi.",
        ),
        Reason::UnknownHost => (
            "Tidak ada situs di alamat ini",
            "Periksa ejaan alamatnya. Jika Anda sendiri yang memasang domain ini, mungkin pemasangannya belum selesai.",
        ),
        Reason::MethodNotAllowed | Reason::MethodUnknown => (
            "Jenis permintaan ini tidak dapat dipakai di sini",
            "Program memakai metode yang tidak dijawab oleh halaman mana pun.",
        ),
        Reason::ExpectationFailed => (
            "Permintaan ini mengharapkan hal yang tidak dikenal",
            "Program mengirim header Expect yang tidak didukung.",
        ),
        Reason::Misdirected => (
            "Koneksi ini milik situs lain",
            "Buka alamatnya di tab baru atau mulai ulang peramban.",
        ),
        Reason::BodyTooLarge => (
            "Unggahan ini terlalu besar",
            "Berkas lebih besar daripada yang diizinkan situs ini. Pilih berkas yang lebih kecil, atau hubungi administrator situs.",
        ),
        Reason::BodyTimeout => (
            "Unggahan terhenti",
            "Tidak ada data yang diterima selama satu menit. Periksa koneksi Anda lalu coba lagi.",
        ),
        Reason::Suspended => (
            "Situs ini sedang ditutup",
            "Semua isinya tetap tersimpan. Silakan hubungi lembaga yang mengelolanya.",
        ),
        Reason::Deleting => (
            "Situs ini telah ditutup",
            "Silakan hubungi lembaga yang mengelolanya jika Anda masih memerlukan sesuatu dari situs ini.",
        ),
        Reason::Starting => (
            "Situs ini sedang disiapkan",
            "Situs akan siap dalam beberapa detik. Silakan muat ulang halaman ini.",
        ),
        Reason::Relocating | Reason::Held => (
            "Mohon tunggu sebentar",
            "Situs ini sedang dirawat selama beberapa detik. Tidak ada yang berubah; silakan coba lagi.",
        ),
        Reason::Busy | Reason::SiteOverLimit => (
            "Situs ini sedang sangat ramai",
            "Banyak orang sedang memakainya. Silakan coba lagi dalam beberapa detik.",
        ),
        Reason::ClientOverLimit => (
            "Terlalu banyak permintaan",
            "Permintaan dari jaringan Anda lebih banyak daripada yang wajar. Tunggu sebentar lalu coba lagi.",
        ),
        Reason::UpstreamFailed => (
            "Halaman ini belum dapat ditampilkan",
            "Terjadi kesalahan di pihak kami. Silakan coba lagi; jika tetap terjadi, sampaikan nomor di bawah kepada administrator situs.",
        ),
        Reason::UpstreamTimeout => (
            "Halaman ini terlalu lama",
            "Situs tidak menjawab tepat waktu. Silakan coba lagi; jika tetap terjadi, sampaikan nomor di bawah kepada administrator situs.",
        ),
        Reason::NoRoutes => (
            "Layanan sedang disiapkan",
            "Layanan akan siap sebentar lagi. Silakan muat ulang halaman ini.",
        ),
    }
}
