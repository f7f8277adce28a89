//! Pictures of courses. A course without one gets a pattern of its own in the institution's
//! colours, drawn from its id; so does the site's icon.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::header,
    response::{IntoResponse as _, Response},
};
use uuid::Uuid;

use crate::{
    assets, files,
    rejection::Rejection,
    settings::{
        Settings,
        contrast::{Color, WHITE},
    },
    site::Site,
};

/// The path of a course's picture.
pub fn path(course: Uuid, cover: Option<(Uuid, String)>, settings: &Settings) -> String {
    match cover {
        Some((id, name)) => files::path(id, &name),
        None => format!("/covers/{course}-{}.svg", settings.look),
    }
}

/// `GET /covers/{name}`
pub async fn show(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
) -> Result<Response, Rejection> {
    let (seed, look) = name
        .strip_suffix(".svg")
        .and_then(|stem| stem.rsplit_once('-'))
        .ok_or(Rejection::NotFound)?;
    let settings = site.settings.current(&site).await?;
    let keep = if look == settings.look { assets::FOR_EVER } else { "no-cache" };
    let svg = match (seed, seed.parse::<Uuid>()) {
        ("icon", _) => icon(&settings),
        (_, Ok(id)) => pattern(id, &settings),
        _ => return Err(Rejection::NotFound),
    };
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CACHE_CONTROL, keep),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
    ];
    Ok((headers, svg).into_response())
}

fn icon(settings: &Settings) -> String {
    let letter = settings.name.chars().find(|letter| letter.is_alphanumeric()).unwrap_or('•');
    let letter: String = letter.to_uppercase().collect();
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 64 64'>\
         <rect width='64' height='64' rx='16' fill='{}'/>\
         <text x='32' y='33' font-family='system-ui,sans-serif' font-size='36' font-weight='700' \
         fill='#fff' text-anchor='middle' dominant-baseline='central'>{letter}</text></svg>",
        settings.theme.primary_fill().css()
    )
}

/// Numbers that only the id decides (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

fn pattern(id: Uuid, settings: &Settings) -> String {
    let (high, low) = id.as_u64_pair();
    let mut dice = Dice(high ^ low);
    let night = Color { rgb: [0x0b, 0x0e, 0x14] };
    let (first, second) = (settings.theme.primary_fill(), settings.theme.secondary_fill());
    // Shades of one colour: two different hues would meet in grey.
    let base = if dice.below(3) == 0 { second } else { first };
    let (from, to) = (base.mixed(night, 0.45), base.mixed(WHITE, 0.12));
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 640 360' \
         preserveAspectRatio='xMidYMid slice'><defs><linearGradient id='g' x1='0' y1='0' x2='1' \
         y2='1'><stop stop-color='{}'/><stop offset='1' stop-color='{}'/></linearGradient></defs>\
         <rect width='640' height='360' fill='url(#g)'/>",
        from.css(),
        to.css()
    );
    match dice.below(3) {
        0 => arcs(&mut svg, &mut dice),
        1 => grid(&mut svg, &mut dice),
        _ => waves(&mut svg, &mut dice),
    }
    svg.push_str("</svg>");
    svg
}

// Writing to a string cannot fail.
fn arcs(svg: &mut String, dice: &mut Dice) {
    let (x, y) = (120 + dice.below(420), dice.below(360));
    for ring in 1..8 {
        let radius = ring * 46;
        let _ = write!(
            svg,
            "<circle cx='{x}' cy='{y}' r='{radius}' fill='none' stroke='{}' stroke-opacity='.{}' \
             stroke-width='{}'/>",
            WHITE.css(),
            26 - ring * 2,
            6 + dice.below(20)
        );
    }
}

fn grid(svg: &mut String, dice: &mut Dice) {
    for row in 0..5 {
        for column in 0..9 {
            let (x, y) = (column * 72, row * 72);
            let shade = 4 + dice.below(14);
            let shape = match dice.below(4) {
                0 => format!("<path d='M{x} {y}h72v72a72 72 0 0 1-72-72z'"),
                1 => format!("<path d='M{} {y}v72h-72a72 72 0 0 1 72-72z'", x + 72),
                2 => format!("<circle cx='{}' cy='{}' r='24'", x + 36, y + 36),
                _ => continue,
            };
            let _ = write!(svg, "{shape} fill='#fff' fill-opacity='.{shade:02}'/>");
        }
    }
}

fn waves(svg: &mut String, dice: &mut Dice) {
    for wave in 0..6 {
        let y = 60 + wave * 52;
        let bend = 30 + i64::try_from(dice.below(90)).unwrap_or(0);
        let _ = write!(
            svg,
            "<path d='M0 {y}C160 {} 320 {} 640 {y}V360H0z' fill='#fff' fill-opacity='.06'/>",
            y - bend,
            y + bend
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_the_same_every_time() {
        let rolls = |seed| (0..4).map(|_| Dice(seed).below(100)).collect::<Vec<_>>();
        assert_eq!(rolls(7), rolls(7));
        let mut svg = String::new();
        for seed in 0..300 {
            arcs(&mut svg, &mut Dice(seed));
            grid(&mut svg, &mut Dice(seed));
            waves(&mut svg, &mut Dice(seed));
        }
        assert!(!svg.contains("'.-"));
    }
}
