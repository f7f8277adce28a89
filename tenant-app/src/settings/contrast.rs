//! Colours that can be read. An institution picks any colour; what is shown keeps its hue and is
//! made lighter or darker until text on it reaches WCAG AA.

/// The least contrast of text with what is behind it (WCAG 2.2, 1.4.3).
pub const TEXT: f64 = 4.5;

/// The least contrast of a button with the page (WCAG 2.2, 1.4.11).
pub const UI: f64 = 3.0;

/// An sRGB colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color {
    /// Red, green, blue.
    pub rgb: [u8; 3],
}

/// White.
pub const WHITE: Color = Color { rgb: [255, 255, 255] };

impl Color {
    /// From `#rrggbb`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6)?;
        let mut rgb = [0; 3];
        hex::decode_to_slice(digits, &mut rgb).ok()?;
        Some(Self { rgb })
    }

    /// As `#rrggbb`.
    pub fn css(self) -> String {
        format!("#{}", hex::encode(self.rgb))
    }

    fn linear(self) -> [f64; 3] {
        self.rgb.map(|channel| {
            let value = f64::from(channel) / 255.0;
            if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        })
    }

    fn luminance(self) -> f64 {
        let [red, green, blue] = self.linear();
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    /// Contrast with another colour, 1 to 21.
    pub fn contrast(self, other: Self) -> f64 {
        let (a, b) = (self.luminance(), other.luminance());
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    /// The same hue, moved towards black until it reaches `least` against `behind`.
    pub fn darker_until(self, behind: Self, least: f64) -> Self {
        self.moved_until(Self { rgb: [0, 0, 0] }, behind, least)
    }

    /// The same hue, moved towards white until it reaches `least` against `behind`.
    pub fn lighter_until(self, behind: Self, least: f64) -> Self {
        self.moved_until(WHITE, behind, least)
    }

    fn moved_until(self, goal: Self, behind: Self, least: f64) -> Self {
        const STEPS: u32 = 200;
        (0..=STEPS)
            .map(|step| self.mixed(goal, f64::from(step) / f64::from(STEPS)))
            .find(|color| color.contrast(behind) >= least)
            .unwrap_or(goal)
    }

    /// A mix in OKLab, where equal steps look equal; `share` of `other`.
    pub fn mixed(self, other: Self, share: f64) -> Self {
        let (a, b) = (self.oklab(), other.oklab());
        let mix = |index: usize| a[index] + (b[index] - a[index]) * share;
        Self::from_oklab([mix(0), mix(1), mix(2)])
    }

    fn oklab(self) -> [f64; 3] {
        let [r, g, b] = self.linear();
        let l = (0.412_221_470_8 * r + 0.536_332_536_3 * g + 0.051_445_992_9 * b).cbrt();
        let m = (0.211_903_498_2 * r + 0.680_699_545_1 * g + 0.107_396_956_6 * b).cbrt();
        let s = (0.088_302_461_9 * r + 0.281_718_837_6 * g + 0.629_978_700_5 * b).cbrt();
        [
            0.210_454_255_3 * l + 0.793_617_785_0 * m - 0.004_072_046_8 * s,
            1.977_998_495_1 * l - 2.428_592_205_0 * m + 0.450_593_709_9 * s,
            0.025_904_037_1 * l + 0.782_771_766_2 * m - 0.808_675_766_0 * s,
        ]
    }

    fn from_oklab([lightness, a, b]: [f64; 3]) -> Self {
        let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
        let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
        let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
        let linear = [
            4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
            -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
            -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s,
        ];
        Self { rgb: linear.map(encoded) }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=255 before"
)]
fn encoded(linear: f64) -> u8 {
    let value =
        if linear <= 0.003_130_8 { linear * 12.92 } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 };
    (value * 255.0).round().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_contrasts() {
        let black = Color { rgb: [0, 0, 0] };
        assert!((WHITE.contrast(black) - 21.0).abs() < 0.01);
        let blue = Color::parse("#3b82f6").expect("a colour");
        assert!((blue.contrast(WHITE) - 3.68).abs() < 0.01);
        assert_eq!(blue.css(), "#3b82f6");
        for bad in ["", "3b82f6", "#3b82f", "#3b82fg", "#3b82f6ff"] {
            assert_eq!(Color::parse(bad), None);
        }
    }

    proptest! {
        #[test]
        fn mixing_nothing_changes_nothing(rgb in any::<[u8; 3]>()) {
            let color = Color { rgb };
            let same = color.mixed(WHITE, 0.0);
            for (a, b) in color.rgb.into_iter().zip(same.rgb) {
                prop_assert!(a.abs_diff(b) <= 1);
            }
        }

        #[test]
        fn every_colour_can_be_repaired(rgb in any::<[u8; 3]>()) {
            let color = Color { rgb };
            prop_assert!(color.darker_until(WHITE, TEXT).contrast(WHITE) >= TEXT);
            let night = Color { rgb: [0x14, 0x17, 0x1c] };
            prop_assert!(color.lighter_until(night, TEXT).contrast(night) >= TEXT);
        }
    }
}
