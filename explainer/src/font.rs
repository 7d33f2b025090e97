//! The bundled font: how wide a text is, and how to make it fit.
//!
//! **No font of the system is ever asked for**, so the same text is as wide everywhere.

use std::sync::LazyLock;

use ab_glyph::{Font as _, FontRef, OutlinedGlyph, PxScaleFont, ScaleFont as _, point};
use plotters::style::FontStyle;

/// The font's name in an SVG.
pub(crate) const FAMILY: &str = "Castwatch Sans, Pretendard, Malgun Gothic, Apple SD Gothic Neo, sans-serif";

static REGULAR: LazyLock<FontRef<'static>> =
    LazyLock::new(|| bundled(include_bytes!("../fonts/castwatch-sans-regular.otf")));
static BOLD: LazyLock<FontRef<'static>> =
    LazyLock::new(|| bundled(include_bytes!("../fonts/castwatch-sans-bold.otf")));

/// The bytes are part of the program, and every test that draws reads them.
#[allow(clippy::expect_used)]
fn bundled(bytes: &'static [u8]) -> FontRef<'static> {
    FontRef::try_from_slice(bytes).expect("the bundled font is a font")
}

/// The bundle has no slanted fonts.
fn font(style: FontStyle) -> &'static FontRef<'static> {
    if matches!(style, FontStyle::Bold) { &BOLD } else { &REGULAR }
}

/// The font at the scale at which one em is `size` pixels, as in CSS.
fn scaled(style: FontStyle, size: f32) -> PxScaleFont<&'static FontRef<'static>> {
    let font = font(style);
    font.as_scaled(size * font.height_unscaled() / font.units_per_em().unwrap_or(1000.0))
}

/// The shapes of a text's glyphs, each where it stands when the text begins at `x` on the base line `y`.
pub(crate) fn outlines(
    text: &str,
    style: FontStyle,
    size: f32,
    (mut x, y): (f32, f32),
) -> impl Iterator<Item = OutlinedGlyph> {
    let font = scaled(style, size);
    text.chars().filter_map(move |c| {
        let id = font.glyph_id(c);
        let glyph = id.with_scale_and_position(font.scale(), point(x, y));
        x += font.h_advance(id);
        font.outline_glyph(glyph)
    })
}

/// The width of a text in pixels.
pub(crate) fn width(text: &str, style: FontStyle, size: f32) -> f32 {
    let font = scaled(style, size);
    text.chars().map(|c| font.h_advance(font.glyph_id(c))).sum()
}

/// `text` at a size at which it is at most `most` wide: a little smaller if need be, and cut with
/// an ellipsis if that is not enough.
pub(crate) fn fit(text: &str, style: FontStyle, size: f32, most: f32) -> (String, f32) {
    let wide = width(text, style, size);
    if wide <= most {
        return (text.to_owned(), size);
    }
    let smaller = (size * most / wide).max(size * 0.84);
    (cut(text, style, smaller, most), smaller)
}

fn cut(text: &str, style: FontStyle, size: f32, most: f32) -> String {
    if width(text, style, size) <= most + 0.5 {
        return text.to_owned();
    }
    let room = most - width("…", style, size);
    let mut used = 0.0;
    let kept: String = text
        .chars()
        .take_while(|c| {
            used += width(c.encode_utf8(&mut [0; 4]), style, size);
            used <= room
        })
        .collect();
    format!("{}…", kept.trim_end())
}

/// `text` in at most `lines` lines, broken at spaces; what does not fit ends in an ellipsis.
pub(crate) fn wrap(text: &str, style: FontStyle, size: f32, most: f32, lines: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match out.last_mut() {
            Some(line) if width(&format!("{line} {word}"), style, size) <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => out.push(word.to_owned()),
        }
    }
    if out.len() > lines {
        let rest = out.split_off(lines).join(" ");
        if let Some(last) = out.last_mut() {
            last.push(' ');
            last.push_str(&rest);
        }
    }
    out.iter().map(|line| cut(line, style, size, most)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_made_to_fit() {
        let long = "하금형 온도 2 (고정측 냉각 채널 뒤, 조작측)";
        let (same, size) = fit("용탕 온도", FontStyle::Bold, 20.0, 200.0);
        assert_eq!((same.as_str(), size), ("용탕 온도", 20.0));
        for most in [60.0, 120.0, 300.0] {
            let (text, size) = fit(long, FontStyle::Normal, 20.0, most);
            assert!(width(&text, FontStyle::Normal, size) <= most + 0.5, "{text} {size}");
            assert!(size >= 16.0);
        }
        let lines = wrap("a bb ccc dddd eeeee ffffff ggggggg", FontStyle::Normal, 20.0, 80.0, 2);
        assert_eq!(lines.len(), 2);
        assert!(lines[1].ends_with('…'), "{lines:?}");
        assert_eq!(wrap("한 줄", FontStyle::Normal, 20.0, 800.0, 2), ["한 줄"]);
        assert!(wrap("", FontStyle::Normal, 20.0, 800.0, 2).is_empty());
    }

    #[test]
    fn every_sign_that_charts_use_has_a_glyph() {
        let mut signs: String = "±−–—…·→>°℃µ²³%,.:()[]+~0123456789AZaz샷값".into();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        for file in
            ["src/words.rs", "src/chart.rs", "src/explain.rs", "../models/bundles/default/bundle.toml"]
        {
            signs.push_str(&std::fs::read_to_string(root.join(file)).unwrap());
        }
        for style in [FontStyle::Normal, FontStyle::Bold] {
            for c in signs.chars().filter(|c| !c.is_control()) {
                assert_ne!(font(style).glyph_id(c).0, 0, "no glyph for {c}");
            }
        }
    }
}
