//! A small world of records: what is decided of it, and that following the advice leads to a domain
//! with nothing left to do.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::{collection::vec, option, prelude::*, sample::select};
use provisioner_api::domains::{DomainCheck, Ownership, Pointing, RecordStatus};
use time::OffsetDateTime;

use super::{Expected, Observed, decide};
use crate::dns::{Alias, Answer, CaaRecord, CaaSet, LookupError};

const PLATFORM_NAME: &str = "kampus.sites.test";
const EDGE: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const OTHER_EDGE: &str = "192.0.2.9";
const AUTHORITY: &str = "pebble.test";

/// What the zones say, by name and type.
#[derive(Clone, Debug, Default)]
struct Zones {
    records: BTreeMap<(String, &'static str), Vec<String>>,
    silent: Option<&'static str>,
}

impl Zones {
    fn get(&self, name: &str, kind: &'static str) -> &[String] {
        self.records.get(&(name.to_owned(), kind)).map_or(&[], Vec::as_slice)
    }

    fn set(&mut self, name: &str, kind: &'static str, values: Vec<String>) {
        self.records.insert((name.to_owned(), kind), values);
    }

    fn aliases(&self, name: &str) -> Vec<Alias> {
        let (mut chain, mut from): (Vec<Alias>, _) = (Vec::new(), name.to_owned());
        while let [to, ..] = self.get(&from, "CNAME") {
            chain.push(Alias { from, to: to.clone(), ttl_secs: 3600 });
            from = to.clone();
        }
        chain
    }

    fn addresses<T: std::str::FromStr>(&self, name: &str, kind: &'static str) -> Answer<T> {
        let end = self.aliases(name).last().map_or(name.to_owned(), |alias| alias.to.clone());
        answer(self.get(&end, kind).iter().filter_map(|text| text.parse().ok()).collect())
    }

    fn observed(&self, expected: &Expected) -> Observed {
        let name = expected.hostname.as_str();
        let caa = self.get(name, "CAA");
        let caa = CaaSet {
            at: (!caa.is_empty()).then(|| name.to_owned()),
            records: caa
                .iter()
                .map(|value| CaaRecord {
                    critical: false,
                    tag: "issue".to_owned(),
                    value: value.trim_start_matches("0 issue ").trim_matches('"').to_owned(),
                })
                .collect(),
        };
        Observed {
            txt: self.heard("TXT", answer(self.get(&expected.txt_name(), "TXT").to_vec())),
            aliases: self.heard("CNAME", self.aliases(name)),
            ipv4: self.heard("A", self.addresses(name, "A")),
            ipv6: self.heard("AAAA", self.addresses(name, "AAAA")),
            caa: self.heard("CAA", caa),
        }
    }

    fn heard<T>(&self, kind: &'static str, found: T) -> Result<T, LookupError> {
        if self.silent == Some(kind) {
            let reason = "no answer in time".to_owned();
            return Err(LookupError { name: "it".to_owned(), kind, reason });
        }
        Ok(found)
    }

    /// Does what a check says, record by record.
    fn follow(&mut self, check: &DomainCheck) {
        for row in check.records.iter().filter(|row| row.status != RecordStatus::Ok) {
            let kind = ["TXT", "CNAME", "A", "AAAA", "CAA"]
                .into_iter()
                .find(|kind| *kind == row.kind)
                .expect("a known type");
            assert_eq!(row.found.is_empty(), self.get(&row.name, kind).is_empty(), "{row:?}");
            let mut values = row.wanted.clone();
            if kind == "TXT" || kind == "CAA" {
                values.extend(self.get(&row.name, kind).to_vec());
            }
            self.set(&row.name, kind, values);
        }
    }
}

fn answer<T>(records: Vec<T>) -> Answer<T> {
    if records.is_empty() { Answer::NoRecord } else { Answer::Records { records, ttl_secs: 3600 } }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

prop_compose! {
    fn expected()(
        hostname in select(vec!["belajar.kampus.test", "kampus.test"]),
        cname_proves: bool,
        owned: bool,
        n_edge in 0..=2usize,
        strict: bool,
    ) -> Expected {
        Expected {
            hostname: hostname.parse().expect("a hostname"),
            platform_name: PLATFORM_NAME.to_owned(),
            token: "right".to_owned(),
            cname_proves,
            owned,
            edge: addresses(&EDGE[..n_edge]),
            other_edges: addresses(&[OTHER_EDGE]),
            authorities: if strict { vec![AUTHORITY.to_owned()] } else { Vec::new() },
        }
    }
}

fn some(values: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<String>> {
    vec(select(values), 0..=most).prop_map(|all| all.into_iter().map(str::to_owned).collect())
}

prop_compose! {
    fn zones(expected: Expected)(
        txt in some(&["ta3lem-site-verification=right", "ta3lem-site-verification=old", "hello"], 2),
        alias in option::of(select(vec![PLATFORM_NAME, "cdn.kampus.test", "elsewhere.test"])),
        via in select(vec![PLATFORM_NAME, "edge.kampus.test"]),
        ipv4 in some(&["192.0.2.1", "192.0.2.2", OTHER_EDGE, "198.51.100.7"], 3),
        ipv6 in some(&["2001:db8::7"], 1),
        caa in some(&[AUTHORITY, "other.test", ";"], 2),
        silent in option::weighted(0.3, select(vec!["TXT", "CNAME", "A", "AAAA", "CAA"])),
    ) -> (Expected, Zones) {
        let name = expected.hostname.as_str();
        let mut zones = Zones { silent, ..Zones::default() };
        zones.set(&expected.txt_name(), "TXT", txt);
        zones.set(name, "CAA", caa);
        zones.set("cdn.kampus.test", "CNAME", vec![via.to_owned()]);
        zones.set(PLATFORM_NAME, "A", EDGE.map(str::to_owned).to_vec());
        zones.set("elsewhere.test", "A", vec!["198.51.100.8".to_owned()]);
        match alias {
            Some(alias) => zones.set(name, "CNAME", vec![alias.to_owned()]),
            None => {
                zones.set(name, "A", ipv4);
                zones.set(name, "AAAA", ipv6);
            }
        }
        (expected.clone(), zones)
    }
}

fn looked(expected: &Expected, zones: &Zones) -> DomainCheck {
    decide(expected, &zones.observed(expected), OffsetDateTime::UNIX_EPOCH)
}

proptest! {
    #[test]
    fn ownership_is_what_the_records_show((expected, zones) in expected().prop_flat_map(zones)) {
        let check = looked(&expected, &zones);
        let txt = zones.get(&expected.txt_name(), "TXT").contains(&expected.txt_value())
            && zones.silent != Some("TXT");
        let direct = zones.get(expected.hostname.as_str(), "CNAME") == [PLATFORM_NAME]
            && zones.silent != Some("CNAME");
        let shown = txt || (direct && expected.cname_proves);
        match check.ownership {
            Ownership::Txt => prop_assert!(txt),
            Ownership::Cname => prop_assert!(direct && expected.cname_proves),
            Ownership::Before => prop_assert!(expected.owned && !shown),
            Ownership::NotShown => prop_assert!(!shown && !expected.owned && !check.is_well()),
            Ownership::Unknown => prop_assert!(!shown && zones.silent.is_some()),
        }
    }

    #[test]
    fn a_name_points_here_only_with_all_it_has(
        (expected, zones) in expected().prop_flat_map(zones)
    ) {
        let check = looked(&expected, &zones);
        let name = expected.hostname.as_str();
        let by_alias = zones.aliases(name).iter().any(|alias| alias.to == PLATFORM_NAME);
        let found: Vec<IpAddr> = {
            let ipv4: Answer<Ipv4Addr> = zones.addresses(name, "A");
            let ipv6: Answer<Ipv6Addr> = zones.addresses(name, "AAAA");
            let ipv4 = ipv4.records().iter().copied().map(IpAddr::from);
            ipv4.chain(ipv6.records().iter().copied().map(IpAddr::from)).collect()
        };
        let all_here = !found.is_empty() && found.iter().all(|a| expected.edge.contains(a));
        match check.pointing {
            Pointing::Here => prop_assert!(by_alias || all_here),
            Pointing::Unknown => prop_assert!(zones.silent.is_some()),
            Pointing::Nowhere => prop_assert!(found.is_empty() && !by_alias),
            Pointing::OtherRegion | Pointing::Mixed | Pointing::Elsewhere => {
                prop_assert!(!by_alias && !all_here && !found.is_empty());
            }
        }
        prop_assert_eq!(check.is_unknown() && check.is_well(), false);
    }

    #[test]
    fn every_row_says_what_to_do((expected, zones) in expected().prop_flat_map(zones)) {
        let check = looked(&expected, &zones);
        for row in &check.records {
            let is_ok = row.status == RecordStatus::Ok;
            prop_assert_eq!(is_ok, row.advice.is_none(), "{:?}", row);
            if let Some(advice) = &row.advice {
                prop_assert!(check.to_do.contains(advice));
                prop_assert!(advice.ends_with('.'), "{}", advice);
            }
            if row.status == RecordStatus::Missing && row.kind != "TXT" && row.kind != "CAA" {
                prop_assert!(row.found.is_empty());
            }
        }
    }

    #[test]
    fn whoever_follows_the_advice_is_done((expected, zones) in expected().prop_flat_map(zones)) {
        let mut zones = Zones { silent: None, ..zones };
        let before = looked(&expected, &zones);
        zones.follow(&before);
        let after = looked(&expected, &zones);
        prop_assert!(after.is_well(), "{:#?}\n{:#?}\n{:#?}", before, zones, after);
        prop_assert_eq!(after.pointing, Pointing::Here);
        prop_assert!(after.ownership != Ownership::NotShown);
    }
}

#[test]
fn a_name_below_localhost_is_this_machine() {
    let expected = Expected {
        hostname: "belajar.kampus.localhost".parse().expect("a hostname"),
        platform_name: "kampus.localhost".to_owned(),
        token: "right".to_owned(),
        cname_proves: true,
        owned: false,
        edge: addresses(&["127.0.0.1"]),
        other_edges: Vec::new(),
        authorities: Vec::new(),
    };
    let zones = Zones { silent: Some("TXT"), ..Zones::default() };
    let check = looked(&expected, &zones);
    assert_eq!((check.ownership, check.pointing), (Ownership::NotShown, Pointing::Here));
    assert!(check.to_do[0].contains("vouch"), "{check:?}");
    let vouched = Expected { owned: true, ..expected };
    assert!(looked(&vouched, &zones).is_well());
}
