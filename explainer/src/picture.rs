//! A picture of rectangles and texts, drawn as SVG or as PNG.
//!
//! **Both come from the same shapes and the same picture gives the same bytes.** A text in an SVG
//! carries the width it has in the bundled font, so that a viewer without that font squeezes its
//! own into the same place.

use ab_glyph::{Font as _, point};

use crate::font::{self, FAMILY, Weight};

/// A colour: red, green, blue.
pub(crate) type Ink = [u8; 3];

/// Which end of a text its place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    End,
}

/// One thing to draw.
#[derive(Clone, Debug)]
enum Shape {
    Rect { x: f32, y: f32, w: f32, h: f32, radius: f32, ink: Ink },
    Text { x: f32, y: f32, wide: f32, style: Style, text: String },
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub weight: Weight,
    pub size: f32,
    pub ink: Ink,
}

/// Shapes on white, later ones above earlier ones.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    width: u32,
    height: u32,
    title: String,
    shapes: Vec<Shape>,
}

impl Picture {
    /// An empty picture; `title` is what a screen reader says of it.
    pub(crate) fn new(width: u32, height: u32, title: String) -> Self {
        Self { width, height, title, shapes: Vec::new() }
    }

    /// Adds a rectangle with round corners.
    pub(crate) fn rect(&mut self, (x, y): (f32, f32), (w, h): (f32, f32), radius: f32, ink: Ink) {
        if w > 0.0 && h > 0.0 {
            self.shapes.push(Shape::Rect { x, y, w, h, radius: radius.min(w / 2.0).min(h / 2.0), ink });
        }
    }

    /// Adds a text whose base line is at `y`, and returns its width.
    pub(crate) fn text(&mut self, (x, y): (f32, f32), anchor: Anchor, style: Style, text: &str) -> f32 {
        let wide = font::width(text, style.weight, style.size);
        let x = if anchor == Anchor::End { x - wide } else { x };
        if !text.is_empty() {
            self.shapes.push(Shape::Text { x, y, wide, style, text: text.to_owned() });
        }
        wide
    }

    /// The picture as SVG.
    pub(crate) fn svg(&self) -> String {
        use std::fmt::Write as _;
        let (w, h) = (self.width, self.height);
        let mut out = String::with_capacity(16 * 1024);
        let _ = write!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
             role=\"img\" font-family=\"{FAMILY}\">\n<title>"
        );
        escape(&self.title, &mut out);
        let _ = writeln!(out, "</title>\n<rect width=\"{w}\" height=\"{h}\" fill=\"#fff\"/>");
        for shape in &self.shapes {
            match shape {
                Shape::Rect { x, y, w, h, radius, ink } => {
                    let _ =
                        write!(out, "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" ");
                    if *radius > 0.0 {
                        let _ = write!(out, "rx=\"{radius:.1}\" ");
                    }
                    let _ = writeln!(out, "fill=\"{}\"/>", Hex(*ink));
                }
                Shape::Text { x, y, wide, style, text } => {
                    let _ = write!(
                        out,
                        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{:.1}\" fill=\"{}\" textLength=\"{wide:.1}\" \
                         lengthAdjust=\"spacingAndGlyphs\"",
                        style.size,
                        Hex(style.ink)
                    );
                    out.push_str(if style.weight == Weight::Bold { " font-weight=\"700\">" } else { ">" });
                    escape(text, &mut out);
                    out.push_str("</text>\n");
                }
            }
        }
        out.push_str("</svg>\n");
        out
    }

    /// The picture as PNG.
    pub(crate) fn png(&self) -> Vec<u8> {
        let mut canvas = Canvas::white(self.width as usize, self.height as usize);
        for shape in &self.shapes {
            match shape {
                Shape::Rect { x, y, w, h, radius, ink } => canvas.rect((*x, *y), (*w, *h), *radius, *ink),
                Shape::Text { x, y, style, text, .. } => canvas.text((*x, *y), *style, text),
            }
        }
        canvas.encode()
    }
}

struct Hex(Ink);

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [r, g, b] = self.0;
        write!(f, "#{r:02x}{g:02x}{b:02x}")
    }
}

/// Text as XML character data; what XML cannot hold is left out.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
}

/// How many steps an edge has between a colour and what lies under it: few enough that a chart's
/// colours fit a palette, enough that nobody sees them.
const STEPS: u32 = 24;

/// Pixels as `0xrrggbb`, row by row.
struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u32>,
}

impl Canvas {
    fn white(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![0x00ff_ffff; width * height] }
    }

    fn blend(&mut self, x: usize, y: usize, ink: Ink, cover: f32) {
        let step = (cover * STEPS as f32 + 0.5) as u32;
        if x >= self.width || y >= self.height || step == 0 {
            return;
        }
        let step = step.min(STEPS);
        let pixel = &mut self.pixels[y * self.width + x];
        let [_, r, g, b] = pixel.to_be_bytes();
        let mix = |old: u8, new: u8| (u32::from(old) * (STEPS - step) + u32::from(new) * step) / STEPS;
        *pixel = mix(r, ink[0]) << 16 | mix(g, ink[1]) << 8 | mix(b, ink[2]);
    }

    fn rect(&mut self, (x, y): (f32, f32), (w, h): (f32, f32), radius: f32, ink: Ink) {
        let (middle, half) = ((x + w / 2.0, y + h / 2.0), (w / 2.0 - radius, h / 2.0 - radius));
        for py in y.floor().max(0.0) as usize..((y + h).ceil() as usize).min(self.height) {
            for px in x.floor().max(0.0) as usize..((x + w).ceil() as usize).min(self.width) {
                // How far the pixel's centre lies outside the rounded rectangle.
                let dx = (px as f32 + 0.5 - middle.0).abs() - half.0;
                let dy = (py as f32 + 0.5 - middle.1).abs() - half.1;
                let corner = if dx > 0.0 && dy > 0.0 { dx.hypot(dy) } else { dx.max(dy) };
                self.blend(px, py, ink, 0.5 - (corner - radius));
            }
        }
    }

    fn text(&mut self, (x, y): (f32, f32), style: Style, text: &str) {
        let scale = font::scale(style.weight, style.size);
        for (id, offset) in font::glyphs(text, style.weight, style.size) {
            let glyph = id.with_scale_and_position(scale, point(x + offset, y));
            if let Some(outline) = style.weight.font().outline_glyph(glyph) {
                let corner = outline.px_bounds().min;
                outline.draw(|dx, dy, cover| {
                    let (px, py) = (corner.x + dx as f32, corner.y + dy as f32);
                    if px >= 0.0 && py >= 0.0 {
                        self.blend(px as usize, py as usize, style.ink, cover);
                    }
                });
            }
        }
    }

    /// The colours in the order they are met and each pixel's place among them, if a byte holds it.
    fn palette(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut colours: Vec<u32> = Vec::with_capacity(256);
        let mut last = (self.pixels.first().copied()?, 0);
        colours.push(last.0);
        let mut places = Vec::with_capacity(self.pixels.len());
        for &pixel in &self.pixels {
            if pixel != last.0 {
                let place = colours.iter().position(|c| *c == pixel).unwrap_or_else(|| {
                    colours.push(pixel);
                    colours.len() - 1
                });
                last = (pixel, u8::try_from(place).ok()?);
            }
            places.push(last.1);
        }
        Some((colours.iter().flat_map(|c| rgb(*c)).collect(), places))
    }

    /// A PNG of the pixels. Writing into memory can't fail, and the size is right by construction.
    #[allow(clippy::expect_used)]
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 * 1024);
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_compression(png::Compression::Fast);
        encoder.set_depth(png::BitDepth::Eight);
        let data = if let Some((palette, places)) = self.palette() {
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette(palette);
            encoder.set_filter(png::Filter::Sub);
            places
        } else {
            encoder.set_color(png::ColorType::Rgb);
            self.pixels.iter().flat_map(|p| rgb(*p)).collect()
        };
        encoder
            .write_header()
            .and_then(|mut writer| {
                writer.write_image_data(&data)?;
                writer.finish()
            })
            .expect("a PNG into memory");
        bytes
    }
}

const fn rgb(pixel: u32) -> [u8; 3] {
    let [_, r, g, b] = pixel.to_be_bytes();
    [r, g, b]
}
