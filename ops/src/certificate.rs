//! `ta3lem certificate`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use control_types::Hostname;
use provisioner_api::certificates::{Certificate, UploadCertificate};
use time::OffsetDateTime;

use crate::{
    cli::{SiteName, domain, site_name},
    connection::Connection,
    failure::{Code, Failure},
    output::{Cell, Output, Tone},
    when,
};

/// What can be done with certificates.
#[derive(Subcommand)]
pub enum CertificateCommand {
    /// List the certificates, of all sites or of one
    List(ListArgs),
    /// Show one certificate, and why there is no newer one
    Show(NameArgs),
    /// Ask for a new certificate now
    Renew(NameArgs),
    /// Let a hostname serve with a certificate of one's own
    Upload(UploadArgs),
}

/// Of which site.
#[derive(Args)]
pub struct ListArgs {
    /// The site's slug or id
    #[arg(value_name = "SITE", value_parser = site_name)]
    site: Option<SiteName>,
}

/// Which hostname of which site.
#[derive(Args)]
pub struct NameArgs {
    /// The site's slug or id
    #[arg(value_name = "SITE", value_parser = site_name)]
    site: SiteName,
    /// The full hostname, as belajar.example.ac.id
    #[arg(value_name = "HOST", value_parser = domain)]
    host: Hostname,
}

/// What to upload.
#[derive(Args)]
pub struct UploadArgs {
    #[command(flatten)]
    name: NameArgs,
    /// The certificate and all intermediate ones, in PEM
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// The private key without a passphrase, in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Does it.
pub async fn run(
    command: CertificateCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let client = &connection.client;
    match command {
        CertificateCommand::List(ListArgs { site }) => {
            let answer = match site {
                Some(site) => client.site_certificates(&site.0).await,
                None => client.certificates().await,
            };
            list(&connection.answer(answer)?, output)
        }
        CertificateCommand::Show(name) => {
            let all = connection.answer(client.site_certificates(&name.site.0).await)?;
            let host = name.host.as_str();
            let found: Vec<_> = all.into_iter().filter(|one| one.hostname == host).collect();
            if found.is_empty() {
                let message = format!("site '{}' has no certificate for {host}", name.site.0);
                return Err(Failure::new(Code::NotFound, message));
            }
            list(&found, output)?;
            for error in found.iter().filter_map(|one| one.last_error.as_ref()) {
                output.say(&format!("The last attempt failed: {error}"));
            }
            Ok(())
        }
        CertificateCommand::Renew(name) => {
            let host = name.host.as_str();
            let answer = client.renew_certificate(&name.site.0, host).await;
            list(&[connection.answer(answer)?], output)
        }
        CertificateCommand::Upload(UploadArgs { name, chain, key }) => {
            let upload = UploadCertificate {
                hostname: name.host.to_string(),
                chain_pem: read(&chain)?,
                key_pem: read(&key)?,
            };
            let answer = client.upload_certificate(&name.site.0, &upload).await;
            list(&[connection.answer(answer)?], output)
        }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Code::Usage, format!("cannot read {}: {error}", path.display()))
    })
}

fn list(certificates: &[Certificate], output: &Output) -> Result<(), Failure> {
    if output.json {
        return output.document(&certificates);
    }
    let now = OffsetDateTime::now_utc();
    let rows: Vec<_> = certificates
        .iter()
        .map(|one| {
            vec![
                one.hostname.as_str().into(),
                one.region.as_str().into(),
                Cell::or_dash(one.issuer.as_deref()),
                Cell::or_dash(one.not_after.map(|at| when::relative(at, now))),
                match (&one.last_error, one.state) {
                    (Some(_), _) if one.failures > 0 => Cell::toned("failing", Tone::Bad),
                    (_, Some(state)) => state.as_str().into(),
                    (_, None) => Cell::or_dash(None::<String>),
                },
            ]
        })
        .collect();
    let header = ["hostname", "region", "issuer", "ends", "state"];
    output.table(&header, &rows, "There are no certificates.")
}
