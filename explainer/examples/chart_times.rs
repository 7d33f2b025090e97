//! How long charts take: `cargo run --release -p castwatch-explainer --example chart_times [FOLDER]`.
//! With a folder, every sample is left there to look at.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/samples/mod.rs"]
mod samples;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use castwatch_explainer::{Lang, chart};

fn median(runs: usize, mut work: impl FnMut() -> usize) -> (Duration, usize) {
    let mut bytes = 0;
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            bytes = work();
            start.elapsed()
        })
        .collect();
    times.sort();
    (times[times.len() / 2], bytes)
}

fn main() {
    let folder = std::env::args().nth(1).map(PathBuf::from);
    println!("{:10} {:2} {:>10} {:>9} {:>10} {:>9}", "sample", "", "png", "bytes", "svg", "bytes");
    for (name, explanation) in samples::all() {
        for (lang, tag) in [(Lang::Ko, "ko"), (Lang::En, "en")] {
            let (png, png_bytes) = median(100, || chart::png(&explanation, lang).len());
            let (svg, svg_bytes) = median(200, || chart::svg(&explanation, lang).len());
            println!("{name:10} {tag} {png:>10.2?} {png_bytes:>9} {svg:>10.2?} {svg_bytes:>9}");
            if let Some(folder) = &folder {
                std::fs::create_dir_all(folder).unwrap();
                std::fs::write(folder.join(format!("{name}-{tag}.png")), chart::png(&explanation, lang))
                    .unwrap();
                std::fs::write(folder.join(format!("{name}-{tag}.svg")), chart::svg(&explanation, lang))
                    .unwrap();
            }
        }
    }
}
