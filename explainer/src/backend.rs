//! Where plotters draws: pixels for a PNG, or an SVG, with every text in the bundled font.
//!
//! **The same drawing gives the same bytes, and both formats put every text in the same place.**
//! plotters draws the shapes. Texts are set here, because its own drop a glyph's left bearing, stand
//! on whole pixels, and are as wide in an SVG as the viewer's font makes them. A text's place is on
//! its base line, which texts of all sizes share, and its size is that of CSS.

use std::fmt::Write as _;

use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::style::FontStyle;
use plotters_backend::text_anchor::HPos;
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingErrorKind};

use crate::font::{self, FAMILY};

/// One text in its place.
struct Line<'a> {
    text: &'a str,
    x: f32,
    y: f32,
    wide: f32,
    style: FontStyle,
    size: f32,
    color: BackendColor,
}

/// A backend of plotters that leaves texts to `write`.
struct Lettered<B, W> {
    shapes: B,
    write: W,
}

type Drawn<B> = Result<(), DrawingErrorKind<<B as DrawingBackend>::ErrorType>>;

impl<B: DrawingBackend, W: FnMut(&mut B, &Line<'_>) -> Drawn<B>> DrawingBackend for Lettered<B, W> {
    type ErrorType = B::ErrorType;

    fn get_size(&self) -> (u32, u32) {
        self.shapes.get_size()
    }

    fn ensure_prepared(&mut self) -> Drawn<B> {
        self.shapes.ensure_prepared()
    }

    fn present(&mut self) -> Drawn<B> {
        self.shapes.present()
    }

    fn draw_pixel(&mut self, point: BackendCoord, color: BackendColor) -> Drawn<B> {
        self.shapes.draw_pixel(point, color)
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        upper_left: BackendCoord,
        bottom_right: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Drawn<B> {
        self.shapes.draw_rect(upper_left, bottom_right, style, fill)
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Drawn<B> {
        if text.is_empty() {
            return Ok(());
        }
        let (font, size) = (style.style(), style.size() as f32);
        let wide = font::width(text, font, size);
        let x = at.0 as f32
            - match style.anchor().h_pos {
                HPos::Left => 0.0,
                HPos::Center => wide / 2.0,
                HPos::Right => wide,
            };
        let line = Line { text, x, y: at.1 as f32, wide, style: font, size, color: style.color() };
        (self.write)(&mut self.shapes, &line)
    }
}

/// An SVG: plotters' shapes, and above them the texts with the width they have in the bundled font,
/// so that a viewer without that font squeezes its own into the same place.
pub(crate) struct Svg {
    size: (u32, u32),
    shapes: String,
    texts: String,
}

impl Svg {
    /// An empty picture; `title` is what a screen reader says of it.
    pub(crate) fn new(size: (u32, u32), title: &str) -> Self {
        let mut shapes = String::with_capacity(16 * 1024);
        let (w, h) = size;
        let _ = writeln!(
            shapes,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
             role=\"img\" font-family=\"{FAMILY}\">\n<title>{}</title>",
            escaped(title)
        );
        Self { size, shapes, texts: String::with_capacity(8 * 1024) }
    }

    pub(crate) fn backend(&mut self) -> impl DrawingBackend {
        Lettered {
            shapes: SVGBackend::with_string(&mut self.shapes, self.size),
            write: |_: &mut SVGBackend<'_>, line: &Line<'_>| {
                let Line { x, y, size, wide, .. } = line;
                let (r, g, b) = line.color.rgb;
                let bold = if matches!(line.style, FontStyle::Bold) { " font-weight=\"700\"" } else { "" };
                let text = escaped(line.text);
                let _ = writeln!(
                    self.texts,
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size:.1}\" fill=\"#{r:02x}{g:02x}{b:02x}\" \
                     textLength=\"{wide:.1}\" lengthAdjust=\"spacingAndGlyphs\"{bold}>{text}</text>"
                );
                Ok(())
            },
        }
    }

    /// The whole file.
    pub(crate) fn finish(self) -> String {
        self.shapes + &self.texts + "</svg>\n"
    }
}

/// Text as XML character data; what XML cannot hold is left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}

/// How many steps an edge has between a colour and what lies under it: few enough that a chart's
/// colours fit a palette, enough that nobody sees them.
const STEPS: f32 = 24.0;

/// Pixels for a PNG.
pub(crate) struct Png {
    size: (u32, u32),
    rgb: Vec<u8>,
}

impl Png {
    /// A black picture.
    pub(crate) fn new((w, h): (u32, u32)) -> Self {
        Self { size: (w, h), rgb: vec![0; (w * h * 3) as usize] }
    }

    pub(crate) fn backend(&mut self) -> impl DrawingBackend {
        Lettered {
            shapes: BitMapBackend::with_buffer(&mut self.rgb, self.size),
            write: |pixels: &mut BitMapBackend<'_>, line: &Line<'_>| {
                let mut drawn = Ok(());
                for outline in font::outlines(line.text, line.style, line.size, (line.x, line.y)) {
                    let corner = outline.px_bounds().min;
                    outline.draw(|dx, dy, cover| {
                        let at = (corner.x as i32 + dx as i32, corner.y as i32 + dy as i32);
                        let step = ((cover * STEPS + 0.5) as u8 as f32 / STEPS).min(1.0);
                        if step > 0.0 && drawn.is_ok() {
                            drawn = pixels.draw_pixel(at, line.color.mix(step.into()));
                        }
                    });
                }
                drawn
            },
        }
    }

    /// The colours in the order they are met and each pixel's place among them, if a byte holds it.
    fn palette(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let pixels = self.rgb.as_chunks::<3>().0.iter().map(|&[r, g, b]| u32::from_be_bytes([0, r, g, b]));
        let (mut colours, mut last) = (Vec::with_capacity(256), (u32::MAX, 0));
        let mut places = Vec::with_capacity(pixels.len());
        for pixel in pixels {
            if pixel != last.0 {
                let place = colours.iter().position(|c| *c == pixel).unwrap_or_else(|| {
                    colours.push(pixel);
                    colours.len() - 1
                });
                last = (pixel, u8::try_from(place).ok()?);
            }
            places.push(last.1);
        }
        let rgb = colours.iter().flat_map(|c| c.to_be_bytes().into_iter().skip(1)).collect();
        Some((rgb, places))
    }

    /// The file. Writing into memory can't fail, and the size is right by construction.
    #[allow(clippy::expect_used)]
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 * 1024);
        let mut encoder = png::Encoder::new(&mut bytes, self.size.0, self.size.1);
        encoder.set_compression(png::Compression::Fast);
        encoder.set_depth(png::BitDepth::Eight);
        let data = if let Some((palette, places)) = self.palette() {
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette(palette);
            encoder.set_filter(png::Filter::Sub);
            places
        } else {
            encoder.set_color(png::ColorType::Rgb);
            self.rgb
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
