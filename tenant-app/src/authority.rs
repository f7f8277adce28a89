//! What a database says of itself in `platform.site_authority`: whether it is a site's home, or where
//! the site has gone. One row, which only the provisioner writes.

use std::error::Error;

use control_types::{Generation, SiteId};
use sqlx::PgPool;

use crate::rejection::Rejection;

/// The longest name of a region.
const MAX_REGION_BYTES: usize = 63;

/// Where a site has gone, as the home that it left says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As which generation it is at home there.
    pub generation: Generation,
    /// The region. Fit for a header.
    pub region: String,
}

/// What a database is to a site of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is that generation's home; it may be fenced.
    Home,
    /// It was, and the site has gone for good; where to, if that can be read.
    Gone(Option<Place>),
    /// It is a newer generation's: the site left and came back.
    Newer(Generation),
    /// It is not the home yet, or will never be.
    NotHome(String),
    /// It does not answer now.
    Unreachable(String),
    /// It is none of the site's, or none at all.
    Wrong(String),
}

impl Standing {
    /// Whether the database may be used.
    ///
    /// # Errors
    /// When not.
    pub fn into_result(self) -> Result<(), Rejection> {
        match self {
            Self::Home => Ok(()),
            Self::NotHome(why) | Self::Unreachable(why) => {
                Err(Rejection::Unavailable(anyhow::Error::msg(why)))
            }
            Self::Wrong(why) => Err(Rejection::Internal(anyhow::Error::msg(why))),
            gone => gone.into_gone().map_or(Ok(()), Err),
        }
    }

    /// What everybody is told, if the site has left what this generation's home was.
    pub fn into_gone(self) -> Option<Rejection> {
        match self {
            Self::Gone(place) => Some(Rejection::Moved(place)),
            Self::Newer(generation) => Some(Rejection::OtherGeneration(generation)),
            _ => None,
        }
    }
}

/// Asks the database.
pub async fn read(database: &PgPool, site: SiteId, generation: Generation) -> Standing {
    let row = sqlx::query!(
        r#"select site_id, generation, state::text as "state!", moving_to
           from platform.site_authority"#
    )
    .fetch_optional(database)
    .await;
    let row = match row {
        Ok(Some(row)) => row,
        Ok(None) => {
            let why = "the database has no platform.site_authority row: it was made for no site";
            return Standing::Wrong(why.to_owned());
        }
        Err(error) => return unread(error),
    };
    if row.site_id != site.0 {
        return Standing::Wrong(format!(
            "the database is site {}'s, not site {site}'s",
            row.site_id
        ));
    }
    if row.generation > generation.0 {
        return Standing::Newer(Generation(row.generation));
    }
    if row.generation == generation.0 {
        match row.state.as_str() {
            // Also while fenced: reading goes on, and the move may yet be given up.
            "primary" | "fenced" => return Standing::Home,
            "retired" => return Standing::Gone(place(row.moving_to.as_deref(), generation)),
            _ => {}
        }
    }
    Standing::NotHome(format!(
        "the database is {} at generation {}, wanted primary at {generation}",
        row.state, row.generation
    ))
}

fn unread(error: sqlx::Error) -> Standing {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    match Rejection::from(error) {
        Rejection::Internal(_) => Standing::Wrong(text),
        // Also when the row may not be read any more: whoever closed the database knows why.
        _ => Standing::Unreachable(text),
    }
}

/// What `moving_to` names: `<generation> <region> <operation>`, of which only the newer counts.
fn place(moving_to: Option<&str>, left: Generation) -> Option<Place> {
    let mut words = moving_to?.split(' ');
    let (generation, region) = (words.next()?.parse().ok()?, words.next()?);
    let fits = region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_name = fits && (1..=MAX_REGION_BYTES).contains(&region.len());
    (generation > left.0 && is_name)
        .then(|| Place { generation: Generation(generation), region: region.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_newer_place_in_a_region_is_one() {
        let read = |text| place(Some(text), Generation(7));
        let there = Place { generation: Generation(8), region: "sg-singapore".to_owned() };
        assert_eq!(read("8 sg-singapore 0193a.1"), Some(there.clone()));
        assert_eq!(read("8 sg-singapore"), Some(there));
        for wrong in ["", "8", "8 ", "7 sg-singapore 0193a.1", "x sg-singapore", "8 sg\r\nx a"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        assert_eq!(read(&format!("8 {} a", "x".repeat(64))), None);
        assert_eq!(place(None, Generation(7)), None);
    }
}
