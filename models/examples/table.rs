//! Writes what a bundle makes of shots as plain numbers, for the trainer and for comparisons with
//! other runtimes: little-endian, row by row, no header.
//!
//! ```text
//! table features BUNDLE SHOTS.jsonl OUT.f32     f32: the features of each shot, in the bundle's order
//! table judge BUNDLE FEATURES.f32 OUT.f64       f64: probability, margin, anomaly (NaN without one)
//! table attribute BUNDLE FEATURES.f32 OUT.f64   f64: base, the value of each input, margin
//! ```
//!
//! `features` takes any bundle.toml, with or without models.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use castwatch_core::Shot;
use castwatch_models::{Bundle, DieHistory, Features};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, bundle, input, output] = args.as_slice() else {
        return Err("usage: table features|judge|attribute BUNDLE INPUT OUTPUT".into());
    };
    let bundle = Path::new(bundle);
    let mut out = BufWriter::new(File::create(output)?);
    match what.as_str() {
        "features" => features(&Bundle::draft(bundle)?, input, &mut out)?,
        "judge" => {
            let bundle = Bundle::load(bundle)?;
            let rows: Vec<Features> = rows(&bundle, input)?.into_iter().map(alone).collect();
            for judged in bundle.judge(&rows.iter().collect::<Vec<_>>())? {
                for x in [judged.probability, judged.margin, judged.anomaly.unwrap_or(f64::NAN)] {
                    out.write_all(&x.to_le_bytes())?;
                }
            }
        }
        "attribute" => {
            let bundle = Bundle::load(bundle)?;
            for row in rows(&bundle, input)? {
                let split = bundle.attribute(&row)?;
                for x in std::iter::once(split.base).chain(split.values).chain([split.margin]) {
                    out.write_all(&x.to_le_bytes())?;
                }
            }
        }
        other => return Err(format!("features, judge or attribute, not `{other}`").into()),
    }
    out.flush()?;
    Ok(())
}

fn features(bundle: &Bundle, shots: &str, out: &mut impl std::io::Write) -> Outcome<()> {
    let mut dies: HashMap<(String, String), DieHistory> = HashMap::new();
    for line in BufReader::new(File::open(shots)?).lines() {
        let shot = Shot::from_json(line?.as_bytes())?;
        let die = dies.entry((shot.machine.clone(), shot.die.clone())).or_default();
        for x in bundle.extract(&shot, die).values {
            out.write_all(&x.to_le_bytes())?;
        }
    }
    Ok(())
}

fn rows(bundle: &Bundle, input: &str) -> Outcome<Vec<Vec<f32>>> {
    let bytes = std::fs::read(input)?;
    let numbers: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let width = bundle.features().len();
    if bytes.len() % (4 * width) != 0 {
        return Err(format!("{input} does not hold rows of {width} features").into());
    }
    Ok(numbers.chunks_exact(width).map(<[f32]>::to_vec).collect())
}

fn alone(values: Vec<f32>) -> Features {
    Features { values, missing: 0, nulled: 0, unknown: 0, usual: Vec::new(), unscorable: None }
}
