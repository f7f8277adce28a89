//! What a person is told when all is up: what to open, who to be, what to type first.

use std::fmt::Write as _;

use super::{progress::paint, ready::Ready};
use crate::data_dir::DataDir;

/// The whole text.
pub fn text(ready: &Ready, data: &DataDir, seconds: f64) -> String {
    let mut text = String::new();
    let ca = ready.certificate_authority.display();
    let option = data.as_option();
    let bold = |text: &str| paint("1", text);
    let _ = writeln!(text, "\n{} in {seconds:.1} s\n", bold("Ta3lem is up"));
    for site in &ready.sites {
        let _ = writeln!(text, "  {}  ({})", bold(&site.name), site.region);
        for url in &site.urls {
            let _ = writeln!(text, "    {}", paint("36", url));
        }
        for login in &site.logins {
            let _ = writeln!(text, "    {:<11} {:<34} {}", login.role, login.email, login.password);
        }
        text.push('\n');
    }
    if ready.sites.is_empty() {
        let _ = writeln!(text, "  No sites yet.\n");
    }
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {:<14}{value}", name);
    };
    row("API", format!("{} (token: {})", ready.api.url, ready.api.token_file.display()));
    for region in &ready.regions {
        let router = &region.router;
        row(&region.name, format!("https {}  http {}", router.https, router.http));
    }
    row("data, logs", format!("{}", data.root().display()));
    row("authority", format!("{ca}"));
    row("  browser", "import that file among the authorities, or accept the warning".to_owned());
    let url = ready.sites.first().map_or("https://…", |site| site.url.as_str());
    row("  curl", format!("curl --cacert {ca} {url}/"));
    let _ = writeln!(
        text,
        "\n  Try   ta3lem{option} site create acme --name \"Acme Academy\" --region id-jakarta \
         --plan professional --admin admin@acme.test\n  Stop  Ctrl-C, or: ta3lem down{option}\n"
    );
    text
}
