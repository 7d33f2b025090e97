//! The importance chart of one defect: which readings made it one, and by how much.
//!
//! **A chart is a pure function of the record**: the same [`Explanation`] gives the same bytes, so
//! a chart that is not among the objects is made again from the record. **The bars add up**: what
//! is not drawn on its own is in the last bar, and the foot says from where to where they lead.

use std::ops::Range;

use castwatch_core::payload::{Attribution, Explanation};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::backend::{Png, Svg};
use crate::font::{self, FAMILY};
use crate::words::{self, Lang};

/// Width in pixels.
pub const WIDTH: u32 = 900;
/// Height in pixels.
pub const HEIGHT: u32 = 600;
/// The most bars, the one of all others too.
pub const BARS: usize = 12;

const LEFT: i32 = 28;
const RIGHT: i32 = WIDTH as i32 - 28;
const TEXT: RGBColor = RGBColor(0x1a, 0x1d, 0x21);
const MUTED: RGBColor = RGBColor(0x5c, 0x66, 0x70);
const FAINT: RGBColor = RGBColor(0xe3, 0xe6, 0xea);
// Vermilion and blue of Okabe and Ito: told apart by every kind of colour vision, and in grey.
const TOWARDS: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const AWAY: RGBColor = RGBColor(0x00, 0x72, 0xb2);

const ROW: f32 = 20.0;
const SMALL: f32 = 17.0;
const GAP: i32 = 20;
/// From the middle of a row down to the base line of its texts.
const BASE: i32 = 8;

type Area<B> = DrawingArea<B, Shift>;
type Drawn<B, T = ()> = Result<T, DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// The chart as SVG. Drawing into memory can't fail.
#[must_use]
#[allow(clippy::expect_used)]
pub fn svg(explanation: &Explanation, lang: Lang) -> String {
    let title = format!("{}: {}", headline(explanation, lang), lang.of(&explanation.summary));
    let mut svg = Svg::new((WIDTH, HEIGHT), &title);
    draw(svg.backend(), explanation, lang).expect("a drawing into memory");
    svg.finish()
}

/// The chart as PNG. Drawing into memory can't fail.
#[must_use]
#[allow(clippy::expect_used)]
pub fn png(explanation: &Explanation, lang: Lang) -> Vec<u8> {
    let mut png = Png::new((WIDTH, HEIGHT));
    draw(png.backend(), explanation, lang).expect("a drawing into memory");
    png.finish()
}

/// One line of the table beside the bars.
struct Row {
    name: String,
    value: String,
    usual: String,
    share: f64,
    weight: FontStyle,
}

fn draw<B: DrawingBackend>(backend: B, explanation: &Explanation, lang: Lang) -> Drawn<B> {
    let area = backend.into_drawing_area();
    area.fill(&WHITE)?;
    let top = head(&area, explanation, lang)?;
    let bottom = foot(&area, explanation, lang)?;
    table(&area, &rows(explanation, lang), lang, top, bottom)?;
    area.present()
}

fn style(weight: FontStyle, size: f32, ink: RGBColor) -> TextStyle<'static> {
    (FAMILY, size, weight).into_font().color(&ink)
}

/// The same, with its end where the text's place is.
fn flush_right(style: TextStyle<'static>) -> TextStyle<'static> {
    style.pos(Pos::new(HPos::Right, VPos::Bottom))
}

/// Draws a text that is at most `most` wide.
fn fitted<B: DrawingBackend>(
    area: &Area<B>,
    at: (i32, i32),
    style: TextStyle<'_>,
    text: &str,
    most: i32,
) -> Drawn<B> {
    let font = &style.font;
    let (text, size) = font::fit(text, font.get_style(), font.get_size() as f32, most as f32);
    let font = font.resize(size.into());
    area.draw_text(&text, &TextStyle { font, ..style }, at)
}

fn rect<B: DrawingBackend>(
    area: &Area<B>,
    (x, y): (i32, i32),
    (w, h): (i32, i32),
    ink: RGBColor,
) -> Drawn<B> {
    area.draw(&Rectangle::new([(x, y), (x + w, y + h)], ink.filled()))
}

/// The width of a text in whole pixels.
fn width(text: &str, weight: FontStyle, size: f32) -> i32 {
    font::width(text, weight, size).ceil() as i32
}

fn headline(explanation: &Explanation, lang: Lang) -> String {
    let score = &explanation.score;
    format!("{} · {} {}", score.machine, lang.pick("금형", "die"), score.die)
}

/// Verdict, machine, die, shot number, time and the summary; returns where it ends.
fn head<B: DrawingBackend>(area: &Area<B>, explanation: &Explanation, lang: Lang) -> Drawn<B, i32> {
    let score = &explanation.score;
    let mut badge = words::verdict(score.verdict, lang).to_owned();
    if let Some(probability) = score.probability {
        badge = format!("{badge} {}", words::percent(probability));
    }
    let wide = width(&badge, FontStyle::Bold, 26.0) + 28;
    rect(area, (LEFT, 22), (wide, 46), TOWARDS)?;
    area.draw_text(&badge, &style(FontStyle::Bold, 26.0, WHITE), (LEFT + 14, 54))?;

    let x = LEFT + wide + 18;
    let machine = headline(explanation, lang);
    fitted(area, (x, 42), style(FontStyle::Bold, 23.0, TEXT), &machine, RIGHT - x)?;
    let at = score.ended_at;
    let time = at.offset().to_datetime(at.instant()).strftime("%Y-%m-%d %H:%M:%S");
    let offset = at.to_string().split_off(at.to_string().len() - 6);
    let line = format!("{} {} · {time} ({offset})", lang.pick("샷 번호", "Shot"), score.cycle);
    fitted(area, (x, 67), style(FontStyle::Normal, 18.0, MUTED), &line, RIGHT - x)?;

    let (summary, room) = (lang.of(&explanation.summary), (RIGHT - LEFT) as f32);
    let mut y = 74;
    for line in font::wrap(summary, FontStyle::Normal, 20.0, room, 2) {
        y += 26;
        area.draw_text(&line, &style(FontStyle::Normal, 20.0, TEXT), (LEFT, y))?;
    }
    Ok(y + 14)
}

/// What the colours and the numbers mean; returns where it begins.
fn foot<B: DrawingBackend>(area: &Area<B>, explanation: &Explanation, lang: Lang) -> Drawn<B, i32> {
    let y = HEIGHT as i32 - 44;
    let text = style(FontStyle::Normal, SMALL, MUTED);
    let mut x = LEFT;
    for (ink, said) in [
        (TOWARDS, lang.pick("+ 불량 쪽으로", "+ towards a defect")),
        (AWAY, lang.pick("− 양품 쪽으로", "− towards a good part")),
    ] {
        rect(area, (x, y - 12), (14, 14), ink)?;
        area.draw_text(said, &text, (x + 21, y))?;
        x += 21 + width(said, FontStyle::Normal, SMALL) + 22;
    }
    area.draw_text(lang.pick("단위: 로그 오즈", "in log-odds"), &flush_right(text.clone()), (RIGHT, y))?;
    let base = words::signed(explanation.base);
    let line = match (explanation.score.margin.map(words::signed), lang) {
        (Some(margin), Lang::Ko) => {
            format!(
                "평균 샷의 {base}에서 시작해 막대를 모두 더하면 이 샷의 {margin} (클수록 불량 가능성이 높음)"
            )
        }
        (Some(margin), Lang::En) => format!(
            "From the average shot's {base}, all bars add up to this shot's {margin}: the higher, the likelier a defect"
        ),
        (None, Lang::Ko) => format!("평균 샷의 {base}에서 시작"),
        (None, Lang::En) => format!("From the average shot's {base}"),
    };
    fitted(area, (LEFT, y + 24), text, &line, RIGHT - LEFT)?;
    Ok(y - 30)
}

fn rows(explanation: &Explanation, lang: Lang) -> Vec<Row> {
    let all = &explanation.attributions;
    let own = if all.len() > BARS { BARS - 1 } else { all.len() };
    let mut rows: Vec<Row> = all[..own]
        .iter()
        .map(|it| Row {
            name: words::capital(name(it, lang)),
            value: it.value.map_or_else(
                || if it.usual.is_some() { lang.pick("없음", "none").into() } else { "–".into() },
                |value| words::quantity(value, it.usual.as_ref(), &it.unit),
            ),
            usual: it.usual.as_ref().map_or_else(|| "–".into(), words::around),
            share: it.contribution,
            weight: if it.reading == explanation.cause { FontStyle::Bold } else { FontStyle::Normal },
        })
        .collect();
    if let rest @ [_, ..] = &all[own..] {
        rows.push(Row {
            name: match lang {
                Lang::Ko => format!("그 밖의 {}개", rest.len()),
                Lang::En => format!("{} others", rest.len()),
            },
            value: String::new(),
            usual: String::new(),
            share: rest.iter().map(|it| it.contribution).sum(),
            weight: FontStyle::Normal,
        });
    }
    rows
}

/// A reading without a name in this language goes by its own.
fn name(attribution: &Attribution, lang: Lang) -> &str {
    match lang.of(&attribution.name) {
        "" => &attribution.reading,
        name => name,
    }
}

/// Names, values, usual values and bars between `top` and `bottom`.
fn table<B: DrawingBackend>(area: &Area<B>, rows: &[Row], lang: Lang, top: i32, bottom: i32) -> Drawn<B> {
    let header = style(FontStyle::Normal, SMALL, MUTED);
    let titles = [
        lang.pick("항목", "Reading"),
        lang.pick("이번 샷", "This shot"),
        lang.pick("평소", "Usual"),
        lang.pick("판정에 미친 영향", "Effect on the verdict"),
    ];
    let column = |texts: fn(&Row) -> &str, title: &str, most: i32| {
        let widest = rows.iter().map(|r| width(texts(r), r.weight, ROW)).max().unwrap_or(0);
        widest.min(most).max(width(title, FontStyle::Normal, SMALL))
    };
    let names = column(|r| &r.name, titles[0], 230);
    let values = column(|r| &r.value, titles[1], 150);
    let usuals = column(|r| &r.usual, titles[2], 150);
    let value_end = LEFT + names + GAP + values;
    let usual_end = value_end + GAP + usuals;
    let bars_start = usual_end + GAP * 3 / 2;

    let line = top + 20;
    area.draw_text(titles[0], &header, (LEFT, line))?;
    area.draw_text(titles[1], &flush_right(header.clone()), (value_end, line))?;
    area.draw_text(titles[2], &flush_right(header.clone()), (usual_end, line))?;
    area.draw_text(titles[3], &header, (bars_start, line))?;

    let first = top + 30;
    let high = ((bottom - first) / rows.len().max(1) as i32).min(46);
    let end = first + high * rows.len() as i32;
    for (i, row) in rows.iter().enumerate() {
        let y = first + high * i as i32;
        rect(area, (LEFT, y), (RIGHT - LEFT, 1), FAINT)?;
        let base = y + high / 2 + BASE;
        fitted(area, (LEFT, base), style(row.weight, ROW, TEXT), &row.name, names)?;
        fitted(area, (value_end, base), flush_right(style(row.weight, ROW, TEXT)), &row.value, values)?;
        fitted(
            area,
            (usual_end, base),
            flush_right(style(FontStyle::Normal, ROW, MUTED)),
            &row.usual,
            usuals,
        )?;
    }
    if !rows.is_empty() {
        rect(area, (LEFT, end), (RIGHT - LEFT, 1), FAINT)?;
        bars(area, rows, bars_start..RIGHT, first..end)?;
    }
    Ok(())
}

/// The bars, each with its number behind it, and the line from which they start.
fn bars<B: DrawingBackend>(area: &Area<B>, rows: &[Row], across: Range<i32>, down: Range<i32>) -> Drawn<B> {
    // How far the bars of one side reach, and the room that their numbers take.
    let side = |negative: bool| {
        let shares = rows.iter().map(|row| row.share).filter(|share| (*share < 0.0) == negative);
        let number = |share| width(&words::signed(share), FontStyle::Bold, ROW) + 8;
        (shares.clone().map(f64::abs).fold(0.0, f64::max), shares.map(number).max().unwrap_or(0))
    };
    let ((minus, before), (plus, after)) = (side(true), side(false));
    let left = across.start + before;
    let right = (across.end - after).max(left + 1);
    let plus = if plus + minus > 0.0 { plus } else { 1.0 };
    let scale = Cartesian2d::<RangedCoordf64, RangedCoordf64>::new(
        -minus..plus,
        0.0..rows.len() as f64,
        (left..right, down.clone()),
    );
    let bars = area.apply_coord_spec(scale);

    let height = down.end - down.start;
    let high = height / rows.len() as i32;
    let thick = (high as f32 * 0.58).min(24.0).round() as i32;
    let margin = (high - thick) as u32;
    // A bar too short for a pixel is seen all the same.
    let least = 2.0 * (plus + minus) / f64::from(right - left);
    for (i, row) in rows.iter().enumerate() {
        let (y, number) = (i as f64, words::signed(row.share));
        let bold = |ink| style(FontStyle::Bold, ROW, ink);
        let (end, ink, aside, text) = if words::negligible(row.share) {
            (0.0, MUTED, 7, style(FontStyle::Normal, ROW, MUTED))
        } else if row.share < 0.0 {
            (row.share.min(-least), AWAY, -7, flush_right(bold(AWAY)))
        } else {
            (row.share.max(least), TOWARDS, 7, bold(TOWARDS))
        };
        if end != 0.0 {
            let mut bar = Rectangle::new([(0.0, y), (end, y + 1.0)], ink.filled());
            bars.draw(bar.set_margin(margin.div_ceil(2), margin / 2, 0, 0))?;
        }
        bars.draw(&(EmptyElement::at((end, y + 0.5)) + Text::new(number, (aside, BASE), text)))?;
    }
    let (zero, _) = bars.map_coordinate(&(0.0, 0.0));
    rect(area, (zero, down.start + 1), (1, height - 1), MUTED)
}
