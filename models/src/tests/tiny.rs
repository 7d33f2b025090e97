//! A whole bundle in a temporary folder, golden values from the naive models.

use std::fmt::Write as _;
use std::path::Path;

use castwatch_core::{EndedAt, Readings, Shot};
use sha2::{Digest, Sha256};

use super::onnx::{self, Encoder, Kind, Tree};

/// What a tiny bundle is made of.
#[derive(Clone, Debug)]
pub(super) struct Tiny {
    pub(super) readings: Vec<String>,
    pub(super) encoder: Option<Encoder>,
    /// `features`, `features+latent` or `features+latent+anomaly`.
    pub(super) inputs: &'static str,
    pub(super) scaled: bool,
    pub(super) trees: Vec<Tree>,
    pub(super) kind: Kind,
    pub(super) calibration: &'static str,
}

/// What the naive models say of a row.
pub(super) struct Naive {
    pub(super) margin: f64,
    pub(super) anomaly: Option<f64>,
}

pub(super) const BASE: f32 = -0.75;

impl Tiny {
    /// Three readings, no network, two trees.
    pub(super) fn plain() -> Self {
        let low = Tree::branch(0, 1.0, Tree::leaf(-1.0, 30), Tree::leaf(2.0, 10));
        let mixed = Tree::branch(
            1,
            -0.5,
            Tree::branch(2, 0.25, Tree::leaf(0.5, 5), Tree::leaf(-0.25, 9)),
            Tree::branch(0, 0.0, Tree::leaf(0.125, 20), Tree::leaf(1.5, 6)),
        );
        Self {
            readings: ["pressure", "speed", "melt"].map(String::from).to_vec(),
            encoder: None,
            inputs: "features",
            scaled: false,
            trees: vec![low, mixed],
            kind: Kind::Regressor,
            calibration: "kind = \"platt\"\na = 1.25\nb = -0.5",
        }
    }

    /// The original plant's model in small: scaled features and 12 latent values into a classifier.
    pub(super) fn original(bases: usize) -> Self {
        let readings: Vec<String> = (0..30).map(|i| format!("Process_{i}")).collect();
        let trees = (0..7)
            .map(|i| {
                let split = |input: usize, t: f32, a: f32, b: f32| {
                    Tree::branch(input, t, Tree::leaf(a, 4 + i), Tree::leaf(b, 9))
                };
                let latent = 30 + (i as usize * 5) % 12;
                Tree::branch(i as usize * 4, 0.1, split(latent, 0.05, -0.3, 0.4), split(3, -0.2, 0.7, -0.1))
            })
            .collect();
        Self {
            encoder: Some(Encoder { width: 30, latent: 12 }),
            readings,
            inputs: "features+latent",
            scaled: true,
            trees,
            kind: Kind::Classifier { bases },
            calibration: "kind = \"none\"",
        }
    }

    pub(super) fn mean(i: usize) -> f64 {
        0.25 * (i % 5) as f64
    }

    pub(super) fn scale(i: usize) -> f64 {
        1.0 + (i % 3) as f64
    }

    pub(super) fn shot(&self, values: &[Option<f64>]) -> Shot {
        Shot {
            machine: "DCM-01".into(),
            die: "1".into(),
            cycle: 1,
            ended_at: EndedAt::parse("2026-01-15T16:45:06+09:00").unwrap(),
            try_shot: false,
            readings: self.readings.iter().cloned().zip(values.iter().copied()).collect::<Readings>(),
        }
    }

    pub(super) fn naive(&self, row: &[f32]) -> Naive {
        let scaled: Vec<f32> = row
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let s = (f64::from(*x) - Self::mean(i)) / Self::scale(i);
                if x.is_nan() { 0.0 } else { s.clamp(-10.0, 10.0) as f32 }
            })
            .collect();
        let mut inputs = if self.scaled { scaled.clone() } else { row.to_vec() };
        let mut anomaly = None;
        if let Some(encoder) = &self.encoder {
            let (latent, reconstruction) = encoder.naive(&scaled);
            let there: Vec<f64> = (0..row.len())
                .filter(|i| !row[*i].is_nan())
                .map(|i| (f64::from(scaled[i]) - reconstruction[i]).powi(2))
                .collect();
            anomaly = Some(there.iter().sum::<f64>() / there.len() as f64);
            if self.inputs != "features" {
                inputs.extend(latent.iter().map(|x| *x as f32));
            }
            if self.inputs == "features+latent+anomaly" {
                inputs.extend(anomaly.map(|a| a as f32));
            }
        }
        let margin = f64::from(BASE) + self.trees.iter().map(|t| t.value(&inputs)).sum::<f64>();
        Naive { margin, anomaly }
    }

    fn probability(&self, margin: f64) -> f64 {
        let x = if self.calibration.contains("platt") { 1.25 * margin - 0.5 } else { margin };
        1.0 / (1.0 + (-x).exp())
    }

    pub(super) fn rows(&self) -> Vec<Vec<f32>> {
        (0..40_usize)
            .map(|r| {
                (0..self.readings.len())
                    .map(|i| match (r * 31 + i * 17) % 23 {
                        0 => f32::NAN,
                        n => (n as f32 - 11.0) / 4.0,
                    })
                    .collect()
            })
            .collect()
    }

    pub(super) fn golden(&self) -> String {
        let null = |x: f32| if x.is_nan() { "null".into() } else { x.to_string() };
        let expected = |row: &[f32]| {
            let naive = self.naive(row);
            let features: Vec<String> = row.iter().map(|x| null(*x)).collect();
            format!(
                r#"{{"features":[{}],"margin":{},"probability":{},"anomaly":{}}}"#,
                features.join(","),
                naive.margin,
                self.probability(naive.margin),
                naive.anomaly.map_or("null".into(), |a| a.to_string())
            )
        };
        let rows: Vec<String> = self.rows().iter().map(|row| expected(row)).collect();
        let shots: Vec<String> = self.rows()[..3]
            .iter()
            .map(|row| {
                let values: Vec<Option<f64>> =
                    row.iter().map(|x| (!x.is_nan()).then(|| f64::from(*x))).collect();
                let shot = serde_json::to_string(&self.shot(&values)).unwrap();
                format!(r#"{{"shot":{shot},"expected":{}}}"#, expected(row))
            })
            .collect();
        format!(r#"{{"shots":[{}],"rows":[{}]}}"#, shots.join(","), rows.join(","))
    }

    pub(super) fn manifest(&self) -> String {
        let mut text = String::from("name = \"tiny\"\nversion = \"0.1.0\"\n");
        text += "[features]\nof_readings = [\"raw\"]\n[history]\nmax_missing = 1\n";
        for name in &self.readings {
            let words = "{ ko = \"가\", en = \"a\" }";
            writeln!(text, "[[reading]]\nname = \"{name}\"\nplausible = [-100, 100]\nno_sensor = [99]")
                .unwrap();
            writeln!(
                text,
                "words = {words}\nequipment = {words}\nadvice_low = {words}\nadvice_high = {words}"
            )
            .unwrap();
        }
        if self.encoder.is_some() {
            let list =
                |f: fn(usize) -> f64| (0..self.readings.len()).map(|i| f(i).to_string()).collect::<Vec<_>>();
            let (mean, scale) = (list(Self::mean).join(", "), list(Self::scale).join(", "));
            writeln!(text, "[scale]\nmean = [{mean}]\nscale = [{scale}]").unwrap();
            text += "[autoencoder]\nfile = \"autoencoder.onnx\"\nlatent = \"latent\"\nlatent_size = 12\n";
            text += "reconstruction = \"reconstruction\"\n";
        }
        writeln!(
            text,
            "[trees]\nfile = \"trees.onnx\"\ninputs = \"{}\"\nscaled = {}",
            self.inputs, self.scaled
        )
        .unwrap();
        writeln!(text, "[calibration]\n{}", self.calibration).unwrap();
        text + "[thresholds]\nsuspect = 0.3\ndefect = 0.8\n"
    }

    pub(super) fn trees_onnx(&self) -> Vec<u8> {
        let node = onnx::ensemble(&self.trees, self.kind, BASE);
        onnx::model(vec![node], Vec::new(), self.readings.len(), &["margin"])
    }

    pub(super) fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut files = vec![("golden.json", self.golden().into_bytes()), ("trees.onnx", self.trees_onnx())];
        files.extend(self.encoder.as_ref().map(|e| ("autoencoder.onnx", e.bytes())));
        files
    }

    /// Writes the bundle and gives its folder.
    pub(super) fn write(&self) -> tempfile::TempDir {
        write(&self.manifest(), &self.files())
    }
}

/// Writes any bundle, with the right digests.
pub(super) fn write(manifest: &str, files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_to(dir.path(), manifest, files);
    dir
}

pub(super) fn write_to(dir: &Path, manifest: &str, files: &[(&str, Vec<u8>)]) {
    let mut text = format!("{manifest}[files]\n");
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
        writeln!(text, "\"{name}\" = \"{}\"", castwatch_core::event::hex(&Sha256::digest(bytes))).unwrap();
    }
    std::fs::write(dir.join("bundle.toml"), text).unwrap();
}
