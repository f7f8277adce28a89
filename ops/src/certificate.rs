//! `ta3lem certificate`.

mod files;
mod shown;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use control_types::Hostname;
use provisioner_api::{
    certificates::{Certificate, UploadCertificate},
    client::Client,
};

use crate::{
    cli::{SiteName, domain, site_name},
    connection::{Again, Connection},
    failure::{Code, Failure},
    output::Output,
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
    /// The one certificate for all names right below the platform's domain
    #[command(subcommand)]
    Wildcard(WildcardCommand),
}

/// What can be done with the platform's wildcard certificate.
#[derive(Subcommand)]
pub enum WildcardCommand {
    /// Show it, and when it ends
    Show,
    /// Let all names right below the platform's domain serve with it, in all regions
    Upload(FileArgs),
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

/// What to upload, for which hostname.
#[derive(Args)]
#[command(after_help = FILES)]
pub struct UploadArgs {
    #[command(flatten)]
    name: NameArgs,
    #[command(flatten)]
    files: FileArgs,
}

/// What goes with an upload.
const FILES: &str = "\
The chain begins with the hostname's own certificate, each followed by that of its issuer. A
certificate that was uploaded is not renewed by itself: `ta3lem status` tells 14 days before its end.
Where certificates come by ACME, one of those takes its place 7 days before its end.
";

/// What to upload.
#[derive(Args)]
pub struct FileArgs {
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
                let hint = format!("`ta3lem certificate list {}` shows those it has", name.site.0);
                return Err(Failure::new(Code::NotFound, message).hint(hint));
            }
            each(&found, output)
        }
        CertificateCommand::Renew(name) => {
            let host = name.host.as_str();
            let answer = client.renew_certificate(&name.site.0, host).await;
            list(&[connection.answer(answer)?], output)
        }
        CertificateCommand::Upload(UploadArgs { name, files }) => {
            let upload = files.read(name.host.to_string())?;
            let send =
                async |client: &Client| client.upload_certificate(&name.site.0, &upload).await;
            each(&[connection.change(Again::NotSent, send).await?], output)
        }
        CertificateCommand::Wildcard(WildcardCommand::Show) => {
            let found = connection.answer(client.platform_certificate().await)?;
            if found.is_empty() {
                let message = "there is no certificate for all names of the platform";
                return Err(Failure::new(Code::NotFound, message).hint(
                    "each site's name has its own; to upload one for all: \
                     ta3lem certificate wildcard upload --chain FILE --key FILE",
                ));
            }
            each(&found, output)
        }
        CertificateCommand::Wildcard(WildcardCommand::Upload(files)) => {
            let upload = files.read(String::new())?;
            let send = async |client: &Client| client.put_platform_certificate(&upload).await;
            each(&connection.change(Again::NotSent, send).await?, output)
        }
    }
}

impl FileArgs {
    fn read(&self, hostname: String) -> Result<UploadCertificate, Failure> {
        let chain_pem = files::read("--chain", &self.chain, "CERTIFICATE")?;
        let key_pem = files::read("--key", &self.key, "PRIVATE KEY")?;
        Ok(UploadCertificate { hostname, chain_pem, key_pem })
    }
}

fn list(certificates: &[Certificate], output: &Output) -> Result<(), Failure> {
    if output.json { output.document(&certificates) } else { shown::table(certificates, output) }
}

/// All that is known of each.
fn each(certificates: &[Certificate], output: &Output) -> Result<(), Failure> {
    if output.json {
        return output.document(&certificates);
    }
    for (index, certificate) in certificates.iter().enumerate() {
        if index > 0 {
            output.print("")?;
        }
        shown::print(certificate, output)?;
    }
    Ok(())
}
