//! Charts against golden pictures, in both languages. `CASTWATCH_GOLDEN=write` writes them anew:
//! look at them before you commit them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod samples;

use std::path::{Path, PathBuf};

use castwatch_core::payload::Explanation;
use castwatch_explainer::{Lang, chart};

/// How much two pixels may differ in one colour, and how many pixels may differ by more.
const CLOSE: u8 = 24;
const MOST: usize = 200;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn pixels(png: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(png));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().unwrap();
    let mut data = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut data).unwrap();
    assert_eq!(frame.color_type, png::ColorType::Rgb);
    (frame.width, frame.height, data)
}

fn same_picture(name: &str, explanation: &Explanation, lang: Lang) {
    let png = chart::png(explanation, lang);
    assert_eq!(png, chart::png(explanation, lang), "{name}: the same record gave other bytes");
    let svg = chart::svg(explanation, lang);
    if std::env::var("CASTWATCH_GOLDEN").is_ok_and(|v| v == "write") {
        std::fs::write(golden(&format!("{name}.png")), &png).unwrap();
        std::fs::write(golden(&format!("{name}.svg")), &svg).unwrap();
    }
    let expected = pixels(&std::fs::read(golden(&format!("{name}.png"))).unwrap());
    let found = pixels(&png);
    assert_eq!((found.0, found.1), (chart::WIDTH, chart::HEIGHT));
    assert_eq!((expected.0, expected.1), (found.0, found.1));
    let off = expected.2.chunks(3).zip(found.2.chunks(3));
    let off = off.filter(|(a, b)| a.iter().zip(*b).any(|(x, y)| x.abs_diff(*y) > CLOSE)).count();
    assert!(off <= MOST, "{name}.png: {off} pixels differ from the golden picture");
    assert_eq!(svg, std::fs::read_to_string(golden(&format!("{name}.svg"))).unwrap(), "{name}.svg");
}

#[test]
fn pictures_are_the_golden_ones() {
    same_picture("plain-ko", &samples::plain(), Lang::Ko);
    same_picture("plain-en", &samples::plain(), Lang::En);
    same_picture("long-ko", &samples::long(), Lang::Ko);
}

#[test]
fn every_sample_is_drawn_inside_the_picture() {
    for (name, explanation) in samples::all() {
        for lang in [Lang::Ko, Lang::En] {
            let (width, height, data) = pixels(&chart::png(&explanation, lang));
            let white = |x: u32, y: u32| {
                let at = ((y * width + x) * 3) as usize;
                data[at..at + 3] == [255; 3]
            };
            for x in 0..width {
                assert!(white(x, 3) && white(x, height - 4), "{name}: ink at the upper or lower edge");
            }
            for y in 0..height {
                assert!(white(3, y) && white(width - 4, y), "{name}: ink at the left or right edge");
            }
        }
    }
}

/// The texts of an SVG, as a reader of XML sees them.
fn texts(svg: &str) -> Vec<String> {
    svg.split("<text ")
        .skip(1)
        .map(|t| t[t.find('>').unwrap() + 1..t.find("</text>").unwrap()].to_owned())
        .map(|t| t.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
        .collect()
}

#[test]
fn bars_add_up_and_the_rest_is_one_bar() {
    let explanation = samples::plain();
    for (lang, others) in [(Lang::Ko, "그 밖의 3개"), (Lang::En, "3 others")] {
        let texts = texts(&chart::svg(&explanation, lang));
        assert!(texts.iter().any(|t| t == others), "{texts:?}");
        let shares: Vec<f64> = texts
            .iter()
            .filter(|t| t.starts_with(['+', '−']) && t.chars().nth(1).is_some_and(|c| c.is_ascii_digit()))
            .map(|t| t.replace('−', "-").parse().unwrap())
            .collect();
        assert_eq!(shares.len(), chart::BARS);
        let sum = explanation.base + shares.iter().sum::<f64>();
        assert!((sum - explanation.score.margin.unwrap()).abs() < 0.005 * chart::BARS as f64, "{sum}");
    }
}

#[test]
fn bars_are_as_long_as_their_shares() {
    for (name, explanation) in [("plain", samples::plain()), ("against", samples::against())] {
        let svg = chart::svg(&explanation, Lang::Ko);
        let number = |rect: &str, key: &str| -> f64 {
            let from = rect.split_once(&format!(" {key}=\"")).unwrap().1;
            from[..from.find('"').unwrap()].parse().unwrap()
        };
        let coloured = |rect: &&str| rect.contains("#D55E00") || rect.contains("#0072B2");
        // Before the bars: what is behind the verdict, and the two colours of the legend.
        let bars: Vec<(f64, f64, bool)> = svg
            .lines()
            .filter(coloured)
            .filter(|line| line.starts_with("<rect"))
            .skip(3)
            .map(|bar| (number(bar, "x"), number(bar, "width"), bar.contains("#D55E00")))
            .collect();
        let shares: Vec<f64> = explanation.attributions.iter().map(|a| a.contribution).collect();
        let zero = bars[0].0 + if bars[0].2 { 0.0 } else { bars[0].1 };
        let scale = bars[0].1 / shares[0].abs();
        for ((x, wide, towards), share) in bars.iter().zip(&shares[..shares.len().min(chart::BARS - 1)]) {
            assert_eq!(*towards, *share > 0.0, "{name}: {share}");
            assert_eq!(if *towards { *x } else { x + wide }, zero, "{name}: {share} does not start at zero");
            assert!((wide - (share.abs() * scale).max(2.0)).abs() <= 1.0, "{name}: {share} is {wide} wide");
        }
    }
}

#[test]
fn the_title_says_what_and_when() {
    let all = texts(&chart::svg(&samples::plain(), Lang::Ko)).join("\n");
    for part in
        ["불량 95%", "DCM-03 · 금형 8722", "샷 번호 258 · 2026-01-15 16:45:06 (+09:00)", "331 ± 4", "268 bar"]
    {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
    let all = texts(&chart::svg(&samples::plain(), Lang::En)).join("\n");
    for part in ["Defect 95%", "DCM-03 · die 8722", "Shot 258", "Casting pressure", "none", "−3.12", "+2.94"]
    {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
}

#[test]
fn names_cannot_break_out_of_the_svg() {
    let mut explanation = samples::plain();
    explanation.score.machine = "</text><script>alert(1)</script>&\"'\u{0}\u{1b}".into();
    explanation.attributions[0].name.ko = "<b>&amp;".into();
    let svg = chart::svg(&explanation, Lang::Ko);
    assert!(!svg.contains("<script") && !svg.contains("<b>") && !svg.contains(['\u{0}', '\u{1b}']));
    assert!(svg.contains("&lt;b&gt;&amp;amp;"));
    assert_eq!(svg.matches("<text ").count(), svg.matches("</text>").count());
}
