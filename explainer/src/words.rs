//! Numbers and sentences as a supervisor reads them, in Korean and English.
//!
//! **A number is never longer than what is known of it**: a value is written to the digit at
//! which its usual spread begins, otherwise to three significant digits.

use castwatch_core::payload::{Usual, Words};
use castwatch_core::verdict::Verdict;

/// The language of a chart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    /// Korean.
    #[default]
    Ko,
    /// English.
    En,
}

impl Lang {
    /// The text of `words` in this language.
    #[must_use]
    pub fn of(self, words: &Words) -> &str {
        self.pick(&words.ko, &words.en)
    }

    /// One of two texts.
    #[must_use]
    pub const fn pick<'a>(self, ko: &'a str, en: &'a str) -> &'a str {
        match self {
            Self::Ko => ko,
            Self::En => en,
        }
    }
}

/// The same text in both languages made by one function of the language.
pub(crate) fn both(say: impl Fn(Lang) -> String) -> Words {
    Words { ko: say(Lang::Ko), en: say(Lang::En) }
}

/// The verdict as a title says it.
pub(crate) const fn verdict(verdict: Verdict, lang: Lang) -> &'static str {
    match (lang, verdict) {
        (Lang::Ko, _) => verdict.korean(),
        (Lang::En, Verdict::Ok) => "OK",
        (Lang::En, Verdict::Suspect) => "Suspect",
        (Lang::En, Verdict::Defect) => "Defect",
        (Lang::En, Verdict::Unscorable) => "Unscorable",
    }
}

/// A probability in percent: whole ones, but tenths where a tenth matters.
pub(crate) fn percent(probability: f64) -> String {
    let percent = probability * 100.0;
    match percent {
        p if p >= 99.95 => ">99.9%".into(),
        p if p < 0.05 => "<0.1%".into(),
        p if (1.0..99.0).contains(&p) => format!("{p:.0}%"),
        p => format!("{p:.1}%"),
    }
}

/// Whether a share is nothing once it is written.
pub(crate) fn negligible(share: f64) -> bool {
    share.abs() < 0.005
}

/// A share of the log-odds, with its sign.
pub(crate) fn signed(share: f64) -> String {
    let size = share.abs();
    if negligible(share) {
        return "0.00".into();
    }
    let places = if size < 99.95 { 2 } else { 0 };
    format!("{}{}", if share < 0.0 { '−' } else { '+' }, fixed(size, places))
}

/// A value with its unit.
pub(crate) fn quantity(value: f64, usual: Option<&Usual>, unit: &str) -> String {
    with_unit(number(value, usual), unit)
}

/// The usual value as `331 ± 4`.
pub(crate) fn around(usual: &Usual) -> String {
    format!("{} ± {}", number(usual.centre, Some(usual)), number(usual.spread, Some(usual)))
}

/// A text with a unit behind it, if there is one.
pub(crate) fn with_unit(text: String, unit: &str) -> String {
    if unit.is_empty() { text } else { format!("{text} {unit}") }
}

/// A number to the digit at which the usual spread begins, or else to three significant digits.
pub(crate) fn number(value: f64, usual: Option<&Usual>) -> String {
    let spread = usual.map_or(0.0, |u| u.spread.abs());
    if spread >= 1e-6 && value.abs() < 1e9 {
        return fixed(value, places(spread, 1));
    }
    if value != 0.0 && !(1e-5..1e9).contains(&value.abs()) {
        return format!("{value:.2e}").replacen('-', "−", usize::from(value < 0.0));
    }
    let text = fixed(value, places(value, 3));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// How many decimal places show `digits` significant digits of `value`.
fn places(value: f64, digits: i32) -> usize {
    if value == 0.0 {
        return 0;
    }
    let lead = value.abs().log10().floor() as i32;
    usize::try_from(digits - 1 - lead).unwrap_or(0).min(7)
}

/// Fixed decimals, thousands apart, a true minus sign, and no minus before nothing.
fn fixed(value: f64, places: usize) -> String {
    let text = format!("{:.places$}", value.abs());
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(w, r)| (w, Some(r)));
    let mut out = String::with_capacity(text.len() + 4);
    if value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('−');
    }
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(rest) = rest {
        out.push('.');
        out.push_str(rest);
    }
    out
}

/// A text with a capital letter in front.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Sentences one after the other, each with one full stop; empty ones are left out.
pub(crate) fn sentences(parts: &[&str]) -> String {
    let parts: Vec<&str> =
        parts.iter().map(|p| p.trim().trim_end_matches('.')).filter(|p| !p.is_empty()).collect();
    if parts.is_empty() { String::new() } else { format!("{}.", parts.join(". ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_what_is_known() {
        let usual = |centre, spread| Usual { centre, spread };
        assert_eq!(around(&usual(331.24, 4.2)), "331 ± 4");
        assert_eq!(around(&usual(331.24, 0.34)), "331.2 ± 0.3");
        assert_eq!(around(&usual(12.3, 20.0)), "12 ± 20");
        assert_eq!(around(&usual(0.012_34, 0.000_42)), "0.0123 ± 0.0004");
        assert_eq!(around(&usual(331.24, 0.0)), "331 ± 0");
        assert_eq!(quantity(268.4, Some(&usual(331.0, 4.0)), "bar"), "268 bar");
        assert_eq!(quantity(-0.3, Some(&usual(0.0, 4.0)), ""), "0");
        assert_eq!(quantity(65_535.0, None, "tonf"), "65,535 tonf");
        assert_eq!(quantity(1_234_567.8, None, ""), "1,234,568");
        assert_eq!(quantity(0.5, None, "mm"), "0.5 mm");
        assert_eq!(quantity(7.0, None, "s"), "7 s");
        assert_eq!(quantity(41.27, None, "s"), "41.3 s");
        assert_eq!(quantity(-1.5e12, None, ""), "−1.50e12");
        assert_eq!(quantity(3.2e-9, None, ""), "3.20e-9");
        assert_eq!(quantity(0.0, None, "s"), "0 s");
    }

    #[test]
    fn shares_carry_their_sign() {
        assert_eq!(signed(2.314), "+2.31");
        assert_eq!(signed(-0.4), "−0.40");
        assert_eq!(signed(-12_345.6), "−12,346");
        assert_eq!(signed(-0.004), "0.00");
    }

    #[test]
    fn percent_never_says_certain() {
        let said: Vec<String> =
            [1.0, 0.9996, 0.994, 0.94, 0.5, 0.004, 0.0].into_iter().map(percent).collect();
        assert_eq!(said, [">99.9%", ">99.9%", "99.4%", "94%", "50%", "0.4%", "<0.1%"]);
    }

    #[test]
    fn sentences_end_once() {
        assert_eq!(
            sentences(&["사출 압력을 올리세요.", "", "목표 3 bar"]),
            "사출 압력을 올리세요. 목표 3 bar."
        );
        assert_eq!(sentences(&["", " "]), "");
    }
}
