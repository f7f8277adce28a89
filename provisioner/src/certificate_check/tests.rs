//! Chains and keys, right and wrong.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use time::Duration;

use super::*;

struct Made {
    chain: String,
    key: String,
    root: String,
}

fn make(name: &str, from: OffsetDateTime, until: OffsetDateTime) -> Made {
    let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut root = CertificateParams::new(Vec::<String>::new()).expect("no names");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "Root");
    let root_pem = root.self_signed(&root_key).expect("signs").pem();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut leaf = CertificateParams::new([name.to_owned()]).expect("a name");
    leaf.not_before = from;
    leaf.not_after = until;
    let chain = leaf.signed_by(&key, &issuer).expect("signs").pem();
    Made { chain, key: key.serialize_pem(), root: root_pem }
}

#[test]
fn what_cannot_serve_is_refused_in_words() {
    let now = OffsetDateTime::now_utc();
    let made = |name, from: i64, until: i64| {
        make(name, now + Duration::days(from), now + Duration::days(until))
    };
    let good = made("a.example", -1, 30);
    let full = good.chain.clone() + &good.root;
    let says = |hostname: &str, chain: &str, key: &str| {
        check(hostname, chain, key, now, &Anchors::Complete)
            .map(|_| String::new())
            .unwrap_or_else(|unfit| unfit.to_string())
    };
    assert_eq!(says("a.example", &full, &good.key), "");
    assert!(says("b.example", &full, &good.key).contains("not for b.example"));
    assert!(says("a.example", &good.chain, &good.key).contains("not complete"));
    let other = made("a.example", -1, 30);
    assert!(says("a.example", &full, &other.key).contains("does not belong"));
    assert!(says("a.example", &full, "no key").contains("no private key"));
    assert!(says("a.example", "", &good.key).contains("no certificate"));
    let broken = good.chain.clone() + &made("c.example", -1, 30).chain;
    assert!(says("a.example", &broken, &good.key).contains("broken"));
    let ended = made("a.example", -30, -1);
    assert!(says("a.example", &(ended.chain + &ended.root), &ended.key).contains("ended"));
    let early = made("a.example", 2, 30);
    assert!(says("a.example", &(early.chain + &early.root), &early.key).contains("before"));
    let wild = made("*.example.org", -1, 30);
    let chain = wild.chain + &wild.root;
    assert_eq!(says("*.example.org", &chain, &wild.key), "");
    assert_eq!(says("a.example.org", &chain, &wild.key), "");
    assert!(says("a.b.example.org", &chain, &wild.key).contains("not for"));
}
