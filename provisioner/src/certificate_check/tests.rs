//! Chains and keys, right and wrong.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, NameConstraints, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
};
use time::Duration;

use super::*;

/// Words that only libraries use.
const RAW: [&str; 6] = ["Error", "CaUsed", "InvalidCertificate", "Eku", "webpki", "{"];

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn root(name: &str) -> Authority {
    let (key, params) = (new_key(), authority_params(name));
    let pem = params.self_signed(&key).expect("signs").pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

impl Authority {
    fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (key, mut params) = (new_key(), authority_params(name));
        change(&mut params);
        let pem = params.signed_by(&key, &self.issuer).expect("signs").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate that is good for 30 days, and its key.
    fn leaf(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = new_key();
        (self.leaf_of(&key, name, change), key.serialize_pem())
    }

    fn leaf_of(
        &self,
        key: &KeyPair,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> String {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = OffsetDateTime::now_utc() - Duration::DAY;
        params.not_after = OffsetDateTime::now_utc() + Duration::days(30);
        change(&mut params);
        params.signed_by(key, &self.issuer).expect("signs").pem()
    }
}

fn says(hostname: &str, chain: &[&str], key: &str) -> String {
    let now = OffsetDateTime::now_utc();
    check(hostname, &chain.concat(), key, now, &Anchors::Complete)
        .map(|_| String::new())
        .unwrap_or_else(|unfit| unfit.to_string())
}

#[track_caller]
fn refused(hostname: &str, chain: &[&str], key: &str, words: &str) {
    let said = says(hostname, chain, key);
    assert!(said.contains(words), "no {words:?} in {said:?}");
    for raw in RAW {
        assert!(!said.contains(raw), "{raw:?} is a library's word: {said}");
    }
}

#[test]
fn what_can_serve_is_taken() {
    let root = root("Root");
    let middle = root.below("Middle", |_| {});
    let (leaf, key) = middle.leaf("a.example", |_| {});
    assert_eq!(says("a.example", &[&leaf, &middle.pem, &root.pem], &key), "");
    assert_eq!(says("a.example", &[&leaf, &leaf, &middle.pem, &root.pem], &key), "");
    let (wild, key) = root.leaf("*.example.org", |_| {});
    assert_eq!(says("*.example.org", &[&wild, &root.pem], &key), "");
    assert_eq!(says("a.example.org", &[&wild, &root.pem], &key), "");
    refused("a.b.example.org", &[&wild, &root.pem], &key, "not for a.b.example.org");
}

#[test]
fn a_certificate_that_is_wrong_by_itself_is_refused() {
    let root = root("Root");
    let now = OffsetDateTime::now_utc();
    let (leaf, key) = root.leaf("a.example", |_| {});
    refused("b.example", &[&leaf, &root.pem], &key, "not for b.example; it is for a.example");
    let (nameless, its) = root.leaf("a.example", |params| params.subject_alt_names.clear());
    refused("a.example", &[&nameless, &root.pem], &its, "names no hostname");
    let (ended, its) = root.leaf("a.example", |params| {
        params.not_before = now - Duration::days(30);
        params.not_after = now - Duration::DAY;
    });
    refused("a.example", &[&ended, &root.pem], &its, "the certificate ended at");
    let (early, its) = root.leaf("a.example", |params| params.not_before = now + Duration::days(2));
    refused("a.example", &[&early, &root.pem], &its, "not valid before");
    let (client, its) = root.leaf("a.example", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    refused("a.example", &[&client, &root.pem], &its, "not meant for servers");
    let (marked, its) = root.leaf("a.example", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    refused("a.example", &[&marked, &root.pem], &its, "CA:TRUE");
    refused("a.example", &[&root.pem], &key, "that of an authority ('CN=Root')");
    let own = new_key();
    let mut params = CertificateParams::new(["a.example".to_owned()]).expect("a name");
    params.not_before = now - Duration::DAY;
    let alone = params.self_signed(&own).expect("signs").pem();
    refused("a.example", &[&alone], &own.serialize_pem(), "signed by itself");
}

#[test]
fn a_chain_that_is_wrong_is_refused() {
    let root = root("Root");
    let (middle, other) = (root.below("Middle", |_| {}), root.below("Other", |_| {}));
    let (leaf, key) = middle.leaf("a.example", |_| {});
    refused("a.example", &[&leaf], &key, "not complete: it ends with 'CN=a.example', issued by");
    refused("a.example", &[&leaf, &middle.pem], &key, "not complete: it ends with 'CN=Middle'");
    refused("a.example", &[&leaf, &root.pem], &key, "whose certificate is missing");
    refused("a.example", &[&leaf, &other.pem, &root.pem], &key, "whose certificate is missing");
    refused("a.example", &[&leaf, &root.pem, &middle.pem], &key, "wrong order: after 'CN=a.exam");
    refused("a.example", &[&middle.pem, &leaf], &key, "wrong order: the hostname's own");
    refused("a.example", &[&leaf, &middle.pem, &root.pem, &other.pem], &key, "nothing may follow");
    let many: Vec<&str> = (0..12).map(|n| if n == 0 { &*leaf } else { &*middle.pem }).collect();
    refused("a.example", &many, &key, "more than 10");
    let namesake = root.below("Middle", |_| {});
    refused("a.example", &[&leaf, &namesake.pem, &root.pem], &key, "was not signed by");
    let now = OffsetDateTime::now_utc();
    let ended = root.below("Ended", |params| {
        params.not_before = now - Duration::days(9);
        params.not_after = now - Duration::DAY;
    });
    let (leaf, key) = ended.leaf("a.example", |_| {});
    refused("a.example", &[&leaf, &ended.pem, &root.pem], &key, "the authority 'CN=Ended'");
    let bound = root.below("Bound", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("b.example".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    });
    let (leaf, key) = bound.leaf("a.example", |_| {});
    refused("a.example", &[&leaf, &bound.pem, &root.pem], &key, "browsers would refuse the chain");
    let mut params = authority_params("None");
    params.is_ca = IsCa::ExplicitNoCa;
    let none = new_key();
    let none_pem = params.signed_by(&none, &root.issuer).expect("signs").pem();
    let none = Authority { issuer: Issuer::new(params, none), pem: none_pem };
    let (leaf, key) = none.leaf("a.example", |_| {});
    refused("a.example", &[&leaf, &none.pem, &root.pem], &key, "'CN=None' is no authority");
}

#[test]
fn what_is_no_pem_or_the_wrong_one_is_refused() {
    let root = root("Root");
    let (leaf, key) = root.leaf("a.example", |_| {});
    let chain = [leaf.as_str(), root.pem.as_str()];
    refused("a.example", &[""], &key, "it is empty");
    refused("a.example", &["nothing of use"], &key, "it must be PEM");
    refused("a.example", &[&key], &leaf, "were swapped");
    refused("a.example", &["a\0b"], &key, "NUL");
    let (begin, _) = leaf.split_at(leaf.len() / 2);
    refused("a.example", &[begin], &key, "its end was cut off");
    let odd = leaf.replacen("M", "*", 1);
    refused("a.example", &[&odd], &key, "characters that do not belong there");
    let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    refused("a.example", &[hollow], &key, "cannot be read");
    let request = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
    refused("a.example", &[request], &key, "a request for one");

    let (_, other) = root.leaf("a.example", |_| {});
    refused("a.example", &chain, &other, "does not belong to the certificate");
    refused("a.example", &chain, &format!("{key}{other}"), "there are 2 private keys");
    refused("a.example", &chain, "", "it is empty");
    refused("a.example", &chain, "no key", "there is no private key");
    refused("a.example", &chain, &leaf, "were swapped");
    refused("a.example", &chain, &new_key().public_key_pem(), "a public key");
    let hollow = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    refused("a.example", &chain, hollow, "the key cannot be read");
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    refused("a.example", &chain, locked, "passphrase");
    let strange = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let leaf = root.leaf_of(&strange, "a.example", |_| {});
    refused("a.example", &[&leaf, &root.pem], &strange.serialize_pem(), "neither RSA nor ECDSA");
}
