//! The importance chart of one defect: which readings made it one, and by how much.
//!
//! **A chart is a pure function of the record**: the same [`Explanation`] gives the same bytes, so
//! a chart that is not among the objects is made again from the record. **The bars add up**: what
//! is not drawn on its own is in the last bar, and the foot says from where to where they lead.

use castwatch_core::payload::{Attribution, Explanation};

use crate::font::{self, Weight};
use crate::picture::{Anchor, Ink, Picture, Style};
use crate::words::{self, Lang};

/// Width in pixels.
pub const WIDTH: u32 = 900;
/// Height in pixels.
pub const HEIGHT: u32 = 600;
/// The most bars, the one of all others too.
pub const BARS: usize = 12;

const LEFT: f32 = 28.0;
const RIGHT: f32 = WIDTH as f32 - 28.0;
const TEXT: Ink = [0x1a, 0x1d, 0x21];
const MUTED: Ink = [0x5c, 0x66, 0x70];
const FAINT: Ink = [0xe3, 0xe6, 0xea];
// Vermilion and blue of Okabe and Ito: told apart by every kind of colour vision, and in grey.
const TOWARDS: Ink = [0xd5, 0x5e, 0x00];
const AWAY: Ink = [0x00, 0x72, 0xb2];

const ROW: f32 = 20.0;
const SMALL: f32 = 17.0;
const GAP: f32 = 20.0;

/// The chart as SVG.
#[must_use]
pub fn svg(explanation: &Explanation, lang: Lang) -> String {
    draw(explanation, lang).svg()
}

/// The chart as PNG.
#[must_use]
pub fn png(explanation: &Explanation, lang: Lang) -> Vec<u8> {
    draw(explanation, lang).png()
}

/// One line of the table beside the bars.
struct Row {
    name: String,
    value: String,
    usual: String,
    share: f64,
    weight: Weight,
}

fn draw(explanation: &Explanation, lang: Lang) -> Picture {
    let summary = lang.of(&explanation.summary);
    let mut picture = Picture::new(WIDTH, HEIGHT, format!("{}: {summary}", headline(explanation, lang)));
    let top = head(&mut picture, explanation, lang);
    let bottom = foot(&mut picture, explanation, lang);
    table(&mut picture, &rows(explanation, lang), lang, top, bottom);
    picture
}

const fn style(weight: Weight, size: f32, ink: Ink) -> Style {
    Style { weight, size, ink }
}

/// Draws a text that is at most `most` wide.
fn fitted(
    picture: &mut Picture,
    at: (f32, f32),
    anchor: Anchor,
    mut style: Style,
    text: &str,
    most: f32,
) -> f32 {
    let (text, size) = font::fit(text, style.weight, style.size, most);
    style.size = size;
    picture.text(at, anchor, style, &text)
}

fn headline(explanation: &Explanation, lang: Lang) -> String {
    let score = &explanation.score;
    format!("{} · {} {}", score.machine, lang.pick("금형", "die"), score.die)
}

/// Verdict, machine, die, cycle, time and the summary; returns where it ends.
fn head(picture: &mut Picture, explanation: &Explanation, lang: Lang) -> f32 {
    let score = &explanation.score;
    let mut badge = words::verdict(score.verdict, lang).to_owned();
    if let Some(probability) = score.probability {
        badge = format!("{badge} {}", words::percent(probability));
    }
    let white = style(Weight::Bold, 26.0, [255; 3]);
    let wide = font::width(&badge, white.weight, white.size);
    picture.rect((LEFT, 22.0), (wide + 28.0, 46.0), 8.0, TOWARDS);
    picture.text((LEFT + 14.0, 54.0), Anchor::Start, white, &badge);

    let x = LEFT + wide + 28.0 + 18.0;
    let (machine, size) = font::fit(&headline(explanation, lang), Weight::Bold, 23.0, RIGHT - x);
    picture.text((x, 42.0), Anchor::Start, style(Weight::Bold, size, TEXT), &machine);
    let at = score.ended_at;
    let time = at.offset().to_datetime(at.instant()).strftime("%Y-%m-%d %H:%M:%S");
    let offset = at.to_string().split_off(at.to_string().len() - 6);
    let line = format!("{} {} · {time} ({offset})", lang.pick("사이클", "Cycle"), score.cycle);
    fitted(picture, (x, 67.0), Anchor::Start, style(Weight::Regular, 18.0, MUTED), &line, RIGHT - x);

    let mut y = 74.0;
    for line in font::wrap(lang.of(&explanation.summary), Weight::Regular, 20.0, RIGHT - LEFT, 2) {
        y += 26.0;
        picture.text((LEFT, y), Anchor::Start, style(Weight::Regular, 20.0, TEXT), &line);
    }
    y + 14.0
}

/// What the colours and the numbers mean; returns where it begins.
fn foot(picture: &mut Picture, explanation: &Explanation, lang: Lang) -> f32 {
    let y = HEIGHT as f32 - 44.0;
    let text = style(Weight::Regular, SMALL, MUTED);
    let mut x = LEFT;
    for (ink, said) in [
        (TOWARDS, lang.pick("+ 불량 쪽으로", "+ towards a defect")),
        (AWAY, lang.pick("− 양품 쪽으로", "− towards a good part")),
    ] {
        picture.rect((x, y - 12.0), (14.0, 14.0), 3.0, ink);
        x += 21.0 + picture.text((x + 21.0, y), Anchor::Start, text, said) + 22.0;
    }
    let unit = lang.pick("단위: 로그 오즈", "in log-odds");
    picture.text((RIGHT, y), Anchor::End, text, unit);
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
    fitted(picture, (LEFT, y + 24.0), Anchor::Start, text, &line, RIGHT - LEFT);
    y - 30.0
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
            weight: if it.reading == explanation.cause { Weight::Bold } else { Weight::Regular },
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
            weight: Weight::Regular,
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

/// The widest of some texts, at most `most`.
fn widest<'a>(texts: impl Iterator<Item = (&'a str, Weight)>, most: f32) -> f32 {
    texts.map(|(text, weight)| font::width(text, weight, ROW)).fold(0.0, f32::max).min(most).ceil()
}

/// Names, values, usual values and bars between `top` and `bottom`.
fn table(picture: &mut Picture, rows: &[Row], lang: Lang, top: f32, bottom: f32) {
    let header = style(Weight::Regular, SMALL, MUTED);
    let titles = [
        lang.pick("항목", "Reading"),
        lang.pick("이번 샷", "This shot"),
        lang.pick("평소", "Usual"),
        lang.pick("불량에 준 영향", "Effect on the verdict"),
    ];
    let names = widest(rows.iter().map(|r| (r.name.as_str(), r.weight)), 230.0);
    let column = |texts: fn(&Row) -> &str, title: &str| {
        widest(rows.iter().map(|r| (texts(r), r.weight)), 150.0).max(font::width(
            title,
            header.weight,
            header.size,
        ))
    };
    let values = column(|r| &r.value, titles[1]);
    let usuals = column(|r| &r.usual, titles[2]);
    let value_end = LEFT + names + GAP + values;
    let usual_end = value_end + GAP + usuals;
    let bars = Bars::new(rows, usual_end + GAP * 1.5, RIGHT);

    let line = top + 20.0;
    picture.text((LEFT, line), Anchor::Start, header, titles[0]);
    picture.text((value_end, line), Anchor::End, header, titles[1]);
    picture.text((usual_end, line), Anchor::End, header, titles[2]);
    picture.text((usual_end + GAP * 1.5, line), Anchor::Start, header, titles[3]);

    let first = top + 30.0;
    let high = ((bottom - first) / rows.len().max(1) as f32).min(46.0).floor();
    for (i, row) in rows.iter().enumerate() {
        let y = first + high * i as f32;
        picture.rect((LEFT, y), (RIGHT - LEFT, 1.0), 0.0, FAINT);
        let base = (y + high / 2.0 + ROW * 0.36).round();
        fitted(picture, (LEFT, base), Anchor::Start, style(row.weight, ROW, TEXT), &row.name, names);
        fitted(picture, (value_end, base), Anchor::End, style(row.weight, ROW, TEXT), &row.value, values);
        fitted(
            picture,
            (usual_end, base),
            Anchor::End,
            style(Weight::Regular, ROW, MUTED),
            &row.usual,
            usuals,
        );
        bars.draw(picture, row, y, high, base);
    }
    if !rows.is_empty() {
        let end = first + high * rows.len() as f32;
        picture.rect((LEFT, end), (RIGHT - LEFT, 1.0), 0.0, FAINT);
        picture.rect((bars.zero - 0.5, first + 1.0), (1.0, end - first - 1.0), 0.0, MUTED);
    }
}

/// Where nothing is, and how many pixels one of the log-odds has.
struct Bars {
    zero: f32,
    scale: f64,
}

impl Bars {
    /// Room for the longest bars on both sides, each with its number behind it.
    fn new(rows: &[Row], left: f32, right: f32) -> Self {
        let (mut plus, mut minus) = (0.0_f64, 0.0_f64);
        let (mut plus_text, mut minus_text) = (0.0_f32, 0.0_f32);
        for row in rows {
            let wide = font::width(&words::signed(row.share), Weight::Bold, ROW) + 8.0;
            if row.share < 0.0 {
                minus = minus.max(-row.share);
                minus_text = minus_text.max(wide);
            } else {
                plus = plus.max(row.share);
                plus_text = plus_text.max(wide);
            }
        }
        let room = f64::from((right - left - plus_text - minus_text).max(1.0));
        let scale = if plus + minus > 0.0 { room / (plus + minus) } else { 0.0 };
        Self { zero: (left + minus_text + (minus * scale) as f32).round(), scale }
    }

    fn draw(&self, picture: &mut Picture, row: &Row, y: f32, high: f32, base: f32) {
        let long = ((row.share.abs() * self.scale) as f32).max(1.5);
        let thick = (high * 0.58).min(24.0).round();
        let top = (y + (high - thick) / 2.0).round();
        let number = words::signed(row.share);
        if words::negligible(row.share) {
            picture.text((self.zero + 7.0, base), Anchor::Start, style(Weight::Regular, ROW, MUTED), &number);
        } else if row.share < 0.0 {
            picture.rect((self.zero - long, top), (long, thick), 2.0, AWAY);
            let at = (self.zero - long - 7.0, base);
            picture.text(at, Anchor::End, style(Weight::Bold, ROW, AWAY), &number);
        } else {
            picture.rect((self.zero, top), (long, thick), 2.0, TOWARDS);
            let at = (self.zero + long + 7.0, base);
            picture.text(at, Anchor::Start, style(Weight::Bold, ROW, TOWARDS), &number);
        }
    }
}
