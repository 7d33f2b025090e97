//! A bundle as the stages use it: load, extract, judge, attribute.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use castwatch_core::event::hex;
use castwatch_core::{Shot, Verdict};
use sha2::{Digest, Sha256};

use crate::error::{BundleError, JudgeError};
use crate::features::{FeatureSpec, Features};
use crate::forest::Forest;
use crate::forest_onnx;
use crate::golden::Golden;
use crate::history::DieHistory;
use crate::manifest::{GOLDEN, Manifest, ReadingSpec, Steps, TreeInputs};
use crate::network::{Coded, Network};
use crate::shap::Explainer;

/// The manifest's file name.
const MANIFEST: &str = "bundle.toml";
/// The largest file that is read.
const LARGEST: u64 = 64 * 1024 * 1024;
/// How far attributions may be from adding up.
const ADDITIVE: f64 = 1e-6;

/// A model bundle, loaded and checked.
pub struct Bundle {
    manifest: Manifest,
    digest: String,
    models: Option<Models>,
}

struct Models {
    steps: Steps,
    network: Option<Network>,
    forest: Forest,
    explainer: Option<Explainer>,
}

/// What the bundle says of one shot.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Calibrated probability of a defect.
    pub probability: f64,
    /// Log-odds of the trees before calibration.
    pub margin: f64,
    /// Mean squared reconstruction error over the features the shot has, in scaled units.
    pub anomaly: Option<f64>,
    /// The verdict.
    pub verdict: Verdict,
}

/// Why the margin is what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Attributions {
    /// The margin of the average training shot.
    pub base: f64,
    /// What each of [`Bundle::inputs`] adds to it.
    pub values: Vec<f64>,
    /// The margin: base and all values together.
    pub margin: f64,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle({} {} {})", self.manifest.name, self.manifest.version, self.digest)
    }
}

impl Bundle {
    /// Loads a bundle and checks digests, shapes and golden values.
    ///
    /// # Errors
    /// [`BundleError`] with the file and what would be right.
    pub fn load(dir: &Path) -> Result<Self, BundleError> {
        let (manifest, text) = read_manifest(dir, false)?;
        let mut bundle = Self { manifest, digest: String::new(), models: None };
        let Some(steps) = bundle.manifest.steps.clone() else { return Ok(bundle) };
        let mut hash = Sha256::new();
        hash.update(&text);
        let mut files = std::collections::BTreeMap::new();
        for (name, expected) in &steps.files {
            let bytes = read_file(&dir.join(name))?;
            let found = hex(&Sha256::digest(&bytes));
            if found != *expected {
                return Err(BundleError::Digest { file: name.clone(), expected: expected.clone(), found });
            }
            hash.update(name.as_bytes());
            hash.update(found.as_bytes());
            files.insert(name.as_str(), bytes);
        }
        bundle.digest = hex(&hash.finalize()[..8]);
        // The manifest's reader has made sure that every file it names is listed.
        let file = |name: &str| files.get(name).map_or(&[][..], Vec::as_slice);
        let width = bundle.manifest.features.len();
        let network = match &steps.autoencoder {
            Some(spec) => Some(Network::read(spec, file(&spec.file), width)?),
            None => None,
        };
        let inputs = bundle.inputs().len();
        let forest = forest_onnx::read(&steps.trees.file, file(&steps.trees.file), inputs)?;
        let golden = Golden::parse(file(GOLDEN))?;
        let explainer = Explainer::new(&forest);
        bundle.models = Some(Models { steps, network, forest, explainer });
        golden.check(&bundle)?;
        Ok(bundle)
    }

    /// Opens a bundle for its features alone; its models need not exist yet.
    ///
    /// # Errors
    /// [`BundleError`] when the manifest can't be read.
    pub fn draft(dir: &Path) -> Result<Self, BundleError> {
        let (manifest, text) = read_manifest(dir, true)?;
        let digest = hex(&Sha256::digest(&text)[..8]);
        Ok(Self { manifest, digest, models: None })
    }

    /// The first 16 hexadecimal digits of the sha256 over the manifest and all files.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The bundle's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// The bundle's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.manifest.version
    }

    /// The readings it knows.
    #[must_use]
    pub fn readings(&self) -> &[ReadingSpec] {
        &self.manifest.readings
    }

    /// The features it makes, in order.
    #[must_use]
    pub fn features(&self) -> &[FeatureSpec] {
        &self.manifest.features
    }

    /// The names of what the trees take, in the order of [`Attributions::values`]: the features,
    /// then `latent_0` and so on and `anomaly` where the trees take them.
    #[must_use]
    pub fn inputs(&self) -> Vec<String> {
        let mut names: Vec<String> = self.manifest.features.iter().map(|f| f.name.clone()).collect();
        let Some(steps) = &self.manifest.steps else { return names };
        if steps.trees.inputs != TreeInputs::Features {
            let latent = steps.autoencoder.as_ref().and_then(|a| a.latent.as_ref()).map_or(0, |l| l.1);
            names.extend((0..latent).map(|i| format!("latent_{i}")));
        }
        if steps.trees.inputs == TreeInputs::LatentAndAnomaly {
            names.push("anomaly".into());
        }
        names
    }

    /// Makes the features of a shot and lets the die learn from it.
    pub fn extract(&self, shot: &Shot, die: &mut DieHistory) -> Features {
        self.manifest.layout.extract(&self.manifest.readings, shot, die)
    }

    /// Judges shots; each result depends on its own row alone.
    ///
    /// # Errors
    /// [`JudgeError`] for a draft, a row of another bundle, or a network that fails.
    pub fn judge(&self, rows: &[&Features]) -> Result<Vec<Judgement>, JudgeError> {
        let models = self.models()?;
        let values: Vec<&[f32]> = rows.iter().map(|f| f.values.as_slice()).collect();
        let mut judged = Vec::with_capacity(rows.len());
        self.prepare(models, &values, |inputs, anomaly| {
            let margin = models.forest.margin(inputs);
            let probability = models.steps.calibration.probability(margin);
            let limits = models.steps.thresholds;
            let unlike = matches!((anomaly, limits.anomaly), (Some(a), Some(limit)) if a >= limit);
            let verdict = if rows[judged.len()].unscorable.is_some() {
                Verdict::Unscorable
            } else if probability >= limits.defect {
                Verdict::Defect
            } else if probability >= limits.suspect || unlike {
                Verdict::Suspect
            } else {
                Verdict::Ok
            };
            judged.push(Judgement { probability, margin, anomaly, verdict });
        })?;
        Ok(judged)
    }

    /// Splits the margin of one row among [`Bundle::inputs`].
    ///
    /// # Errors
    /// [`JudgeError`], also when the trees carry no training counts or the split does not add up.
    pub fn attribute(&self, features: &[f32]) -> Result<Attributions, JudgeError> {
        let models = self.models()?;
        let explainer = models.explainer.as_ref().ok_or(JudgeError::NoCounts)?;
        let mut row = Vec::new();
        self.prepare(models, &[features], |inputs, _| row = inputs.to_vec())?;
        let margin = models.forest.margin(&row);
        let values = explainer.values(&row);
        let base = explainer.base();
        let sum = base + values.iter().sum::<f64>();
        if (sum - margin).abs() <= ADDITIVE {
            Ok(Attributions { base, values, margin })
        } else {
            Err(JudgeError::Additivity { sum, margin })
        }
    }

    fn models(&self) -> Result<&Models, JudgeError> {
        self.models.as_ref().ok_or(JudgeError::Draft)
    }

    /// Makes the trees' inputs of each row: scales, runs the network, measures the anomaly.
    fn prepare(
        &self,
        models: &Models,
        rows: &[&[f32]],
        mut each: impl FnMut(&[f32], Option<f64>),
    ) -> Result<(), JudgeError> {
        let width = self.manifest.features.len();
        if let Some(row) = rows.iter().find(|r| r.len() != width) {
            return Err(JudgeError::Width { expected: width, found: row.len() });
        }
        let steps = &models.steps;
        let mut all_scaled = Vec::new();
        if let Some(scale) = &steps.scale {
            all_scaled.reserve_exact(rows.len() * width);
            rows.iter().for_each(|row| scale.apply(row, &mut all_scaled));
        }
        let coded = match &models.network {
            Some(network) if steps.scale.is_some() => network.run(&all_scaled)?,
            _ => Coded::default(),
        };
        let mut inputs = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let scaled = all_scaled.get(at * width..(at + 1) * width).unwrap_or(row);
            let anomaly = coded.reconstruction(at).map(|reconstruction| error(row, scaled, reconstruction));
            inputs.clear();
            inputs.extend_from_slice(if steps.trees.scaled { scaled } else { row });
            if steps.trees.inputs != TreeInputs::Features {
                inputs.extend_from_slice(coded.latent(at));
            }
            if steps.trees.inputs == TreeInputs::LatentAndAnomaly {
                inputs.extend(anomaly.map(|a| a as f32));
            }
            each(&inputs, anomaly);
        }
        Ok(())
    }
}

/// Mean squared difference over the features that are there: an absent sensor is no anomaly.
fn error(row: &[f32], scaled: &[f32], reconstruction: &[f32]) -> f64 {
    let (mut sum, mut there) = (0.0, 0_u32);
    for ((x, s), r) in row.iter().zip(scaled).zip(reconstruction) {
        if !x.is_nan() {
            sum += (f64::from(*s) - f64::from(*r)).powi(2);
            there += 1;
        }
    }
    sum / f64::from(there.max(1))
}

fn read_manifest(dir: &Path, draft: bool) -> Result<(Manifest, Vec<u8>), BundleError> {
    if !dir.is_dir() {
        return Err(BundleError::Folder { dir: dir.to_owned() });
    }
    let path = dir.join(MANIFEST);
    let bytes = read_file(&path)?;
    let text = std::str::from_utf8(&bytes).map_err(|e| BundleError::File {
        path: path.clone(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, e),
    })?;
    let manifest = Manifest::read(&path.display().to_string(), text, draft)?;
    Ok((manifest, bytes))
}

fn read_file(path: &Path) -> Result<Vec<u8>, BundleError> {
    let failed = |source| BundleError::File { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > LARGEST {
        return Err(BundleError::TooLarge { path: path.to_owned(), bytes, most: LARGEST });
    }
    let mut out = Vec::with_capacity(bytes as usize);
    file.read_to_end(&mut out).map_err(failed)?;
    Ok(out)
}
