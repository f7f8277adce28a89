//! The institution's two colours as the custom properties that the stylesheet uses, in a light and
//! a dark set, each readable.

use super::contrast::{Color, TEXT, UI, WHITE};

/// Backgrounds that `assets/app.css` lays text in the institution's colours on: the darkest of the
/// light set and the lightest of the dark set.
const LIGHT_BEHIND: Color = Color { rgb: [0xf1, 0xf3, 0xf6] };
const DARK_BEHIND: Color = Color { rgb: [0x22, 0x27, 0x30] };

/// The two colours as chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    primary: Color,
    secondary: Color,
}

impl Theme {
    /// From `#rrggbb`; what is none becomes the default.
    pub fn of(primary: &str, secondary: &str) -> Self {
        let or = |text: &str, rgb| Color::parse(text).unwrap_or(Color { rgb });
        Self {
            primary: or(primary, [0x3b, 0x82, 0xf6]),
            secondary: or(secondary, [0x10, 0xb9, 0x81]),
        }
    }

    /// Behind white text.
    pub fn primary_fill(self) -> Color {
        self.primary.darker_until(WHITE, TEXT)
    }

    /// Behind white text.
    pub fn secondary_fill(self) -> Color {
        self.secondary.darker_until(WHITE, TEXT)
    }

    /// Name, in the light set, in the dark set.
    fn properties(self) -> Vec<(&'static str, Color, Color)> {
        let night = Color { rgb: [0x0b, 0x0e, 0x14] };
        let fill = self.primary_fill();
        let hover = fill.mixed(night, 0.18);
        // A button stands out from a dark page, too; white text on it stays readable (4.9 : 1).
        let fill_dark = fill.lighter_until(DARK_BEHIND, UI);
        // The hero's two ends lie behind white text in both sets.
        let deep = fill.mixed(night, 0.5);
        let deep_end = fill.mixed(night, 0.08);
        let text = |color: Color| {
            (color.darker_until(LIGHT_BEHIND, TEXT), color.lighter_until(DARK_BEHIND, TEXT))
        };
        let (primary_light, primary_dark) = text(self.primary);
        let (secondary_light, secondary_dark) = text(self.secondary);
        vec![
            ("brand-fill", fill, fill_dark),
            ("brand-fill-hover", hover, fill_dark.mixed(night, 0.18)),
            ("brand-deep", deep, deep.mixed(night, 0.35)),
            ("brand-deep-end", deep_end, deep_end.mixed(night, 0.35)),
            ("brand-text", primary_light, primary_dark),
            ("brand-text-2", secondary_light, secondary_dark),
        ]
    }

    /// The stylesheet with the properties, about 400 bytes.
    pub fn stylesheet(self) -> String {
        let mut css = String::from(":root{");
        for (name, light, dark) in self.properties() {
            let (light, dark) = (light.css(), dark.css());
            if light == dark {
                css.push_str(&format!("--{name}:{light};"));
            } else {
                css.push_str(&format!("--{name}:light-dark({light},{dark});"));
            }
        }
        css.push('}');
        css
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_colours_stay_readable(first in any::<[u8; 3]>(), second in any::<[u8; 3]>()) {
            let theme = Theme { primary: Color { rgb: first }, secondary: Color { rgb: second } };
            for (name, light, dark) in theme.properties() {
                let (day, night) = if name.contains("text") {
                    (LIGHT_BEHIND, DARK_BEHIND)
                } else {
                    (WHITE, WHITE)
                };
                prop_assert!(light.contrast(day) >= TEXT, "{name} {}", light.css());
                prop_assert!(dark.contrast(night) >= TEXT, "{name} {}", dark.css());
            }
        }
    }

    #[test]
    fn the_default_is_repaired() {
        let css = Theme::of("#3b82f6", "nonsense").stylesheet();
        assert!(css.starts_with(":root{--brand-fill:#"), "{css}");
        assert!(css.len() < 500);
    }
}
