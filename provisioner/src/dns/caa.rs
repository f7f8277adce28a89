//! Which authorities a domain lets issue certificates for it (RFC 8659).

/// One CAA record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaaRecord {
    /// Whether an authority that does not know the tag must not issue.
    pub critical: bool,
    /// The property in lower case, as `issue`.
    pub tag: String,
    /// As `letsencrypt.org; validationmethods=http-01`.
    pub value: String,
}

impl CaaRecord {
    /// The authority that an `issue` property names; none when it names nobody (`;`).
    pub fn issuer(&self) -> Option<String> {
        let name = self.value.split(';').next().unwrap_or_default().trim();
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        (!name.is_empty()).then_some(name)
    }

    /// The value of a parameter of an `issue` property, as `validationmethods`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.value.split(';').skip(1).find_map(|parameter| {
            let (key, value) = parameter.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl std::fmt::Display for CaaRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} \"{}\"", u8::from(self.critical) << 7, self.tag, self.value)
    }
}

/// The CAA records that rule over a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaaSet {
    /// The name that has them: the one asked for, or one above it. None when there are no records.
    pub at: Option<String>,
    /// The records.
    pub records: Vec<CaaRecord>,
}

/// The properties that authorities know (RFC 8659, RFC 9495, CA/Browser Forum).
const KNOWN_TAGS: [&str; 6] =
    ["issue", "issuewild", "iodef", "issuemail", "contactemail", "contactphone"];

impl CaaSet {
    /// Whether an authority may issue for the name itself (not for a wildcard). `authority` is the
    /// name that it goes by in CAA records, as `letsencrypt.org`.
    pub fn permits(&self, authority: &str) -> bool {
        let strange = |record: &&CaaRecord| !KNOWN_TAGS.contains(&record.tag.as_str());
        if self.records.iter().filter(strange).any(|record| record.critical) {
            return false;
        }
        let mut issue = self.records.iter().filter(|record| record.tag == "issue").peekable();
        let unrestricted = issue.peek().is_none();
        unrestricted
            || issue.any(|record| {
                record.issuer().is_some_and(|name| name.eq_ignore_ascii_case(authority))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(records: &[(bool, &str, &str)]) -> CaaSet {
        let record = |(critical, tag, value): &(bool, &str, &str)| CaaRecord {
            critical: *critical,
            tag: (*tag).to_owned(),
            value: (*value).to_owned(),
        };
        CaaSet { at: None, records: records.iter().map(record).collect() }
    }

    #[test]
    fn only_an_issue_property_restricts() {
        assert!(set(&[]).permits("a.test"));
        assert!(set(&[(false, "iodef", "mailto:x@y.test")]).permits("a.test"));
        assert!(set(&[(false, "issuewild", ";")]).permits("a.test"));
        assert!(!set(&[(false, "issue", ";")]).permits("a.test"));
        assert!(!set(&[(false, "issue", "b.test")]).permits("a.test"));
        let both = set(&[(false, "issue", "b.test"), (true, "issue", " A.test. ; x=1")]);
        assert!(both.permits("a.test"));
        assert_eq!(both.records[1].parameter("X"), Some("1"));
    }

    #[test]
    fn what_is_critical_and_unknown_forbids_all() {
        assert!(!set(&[(true, "tbs", "x"), (false, "issue", "a.test")]).permits("a.test"));
        assert!(set(&[(false, "tbs", "x"), (false, "issue", "a.test")]).permits("a.test"));
    }
}
