//! `bundle.toml`: what a bundle measures, how its features are made and which steps judge them.
//!
//! **Every mistake is reported at once, with its line.** A draft is the part before `[scale]`: it
//! makes features for training before there is anything to judge with.
//!
//! ```toml
//! name = "default"
//! version = "1.0.0"
//!
//! [features]
//! of_readings = ["raw", "deviation", "ratio"]   # the reading, minus its centre, that over its spread
//! steps = [0.02, 0.2]                           # slow and fast; the first makes the usual values
//! shot_gap = true
//! shots_since_restart = true
//!
//! [history]                                     # seconds and counts
//! restart_after = 1800
//! gap_most = 3600
//! shots_most = 300
//! max_missing = 8                               # with more readings missing: unscorable
//!
//! [[reading]]
//! name = "cast_pressure"
//! unit = "bar"
//! plausible = [0, 500]
//! no_sensor = [65535]
//! actionable = true
//! words = { ko = "주조 압력", en = "casting pressure" }
//! equipment = { ko = "증압부", en = "intensifier" }
//! advice_low = { ko = "...", en = "..." }
//! advice_high = { ko = "...", en = "..." }
//!
//! [scale]                                       # one number per feature
//! mean = [0.0]
//! scale = [1.0]
//! clip = 10
//!
//! [autoencoder]                                 # optional; outputs by their names in the graph
//! file = "autoencoder.onnx"
//! latent = "latent"
//! latent_size = 12
//! reconstruction = "reconstruction"             # without it there is no anomaly
//!
//! [trees]
//! file = "trees.onnx"
//! inputs = "features"                           # or features+latent, features+latent+anomaly
//! scaled = false                                # scaled: what is missing stands at 0
//!
//! [calibration]
//! kind = "platt"                                # a, b; or none; or isotonic: margins, probabilities
//! a = 1.0
//! b = 0.0
//!
//! [thresholds]
//! suspect = 0.05
//! defect = 0.25
//! anomaly = 0.8
//!
//! [training]                                    # facts, any keys
//! shots = 240000
//!
//! [files]                                       # sha256 of every file
//! "trees.onnx" = "..."
//! ```

use std::collections::BTreeMap;

use castwatch_core::payload::Words;
use castwatch_core::spec::{Doc, Problems, Table};

use crate::calibration::Calibration;
use crate::features::{FeatureSpec, Form, Layout};

/// One sensor value that the bundle knows.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadingSpec {
    /// As in the shot's readings.
    pub name: String,
    /// Its unit, empty when it has none.
    pub unit: String,
    /// The lowest and highest value that can be true.
    pub plausible: (f64, f64),
    /// Values by which the machine says that there is no sensor.
    pub no_sensor: Vec<f64>,
    /// Its name for people.
    pub words: Words,
    /// The part of the machine to look at.
    pub equipment: Words,
    /// What to do when it is too low.
    pub advice_low: Words,
    /// What to do when it is too high.
    pub advice_high: Words,
    /// Whether somebody at the machine can change it.
    pub actionable: bool,
}

impl ReadingSpec {
    /// Whether a value is a measurement: plausible and no code for "no sensor".
    #[must_use]
    pub fn accepts(&self, value: f64) -> bool {
        (self.plausible.0..=self.plausible.1).contains(&value) && !self.no_sensor.contains(&value)
    }

    /// The smallest spread that is believed: a thousandth of the plausible range.
    pub(crate) fn floor(&self) -> f64 {
        (self.plausible.1 - self.plausible.0) * 1e-3
    }
}

/// `(x − mean) / scale`, clipped.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    pub(crate) mean: Vec<f64>,
    pub(crate) scale: Vec<f64>,
    pub(crate) clip: f64,
}

impl Scale {
    /// Scales a row onto the end of `out`; what is missing stands at 0, the mean.
    pub(crate) fn apply(&self, row: &[f32], out: &mut Vec<f32>) {
        out.extend(row.iter().zip(self.mean.iter().zip(&self.scale)).map(|(x, (mean, scale))| {
            if x.is_nan() {
                return 0.0;
            }
            (((f64::from(*x) - mean) / scale).clamp(-self.clip, self.clip)) as f32
        }));
    }
}

#[derive(Clone, Debug)]
pub(crate) struct AutoencoderSpec {
    pub(crate) file: String,
    /// Names of the outputs in the ONNX graph.
    pub(crate) latent: Option<(String, usize)>,
    pub(crate) reconstruction: Option<String>,
}

/// What the trees take after the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TreeInputs {
    Features,
    Latent,
    LatentAndAnomaly,
}

#[derive(Clone, Debug)]
pub(crate) struct TreesSpec {
    pub(crate) file: String,
    pub(crate) inputs: TreeInputs,
    pub(crate) scaled: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Thresholds {
    pub(crate) suspect: f64,
    pub(crate) defect: f64,
    pub(crate) anomaly: Option<f64>,
}

/// The steps after the features.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    pub(crate) scale: Option<Scale>,
    pub(crate) autoencoder: Option<AutoencoderSpec>,
    pub(crate) trees: TreesSpec,
    pub(crate) calibration: Calibration,
    pub(crate) thresholds: Thresholds,
    /// sha256 of each file, by name.
    pub(crate) files: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) readings: Vec<ReadingSpec>,
    pub(crate) layout: Layout,
    pub(crate) features: Vec<FeatureSpec>,
    /// `None` in a draft.
    pub(crate) steps: Option<Steps>,
}

/// The file that every bundle lists and is checked against.
pub(crate) const GOLDEN: &str = "golden.json";

impl Manifest {
    /// Reads `text`; a draft may stop before the steps.
    pub(crate) fn read(file: &str, text: &str, draft: bool) -> Result<Self, Problems> {
        Doc::read(file, text, |root| {
            let name = root.need_text("name", "the bundle's name, such as \"default\"");
            let version = root.need_text("version", "the bundle's version, such as \"1.0.0\"");
            let readings = readings(root);
            let (mut layout, features) =
                root.table("features", |t| layout(t, &readings)).unwrap_or_else(|| {
                    root.missing("features", "a table with `of_readings`, such as [\"raw\", \"deviation\"]");
                    (Layout::default(), Vec::new())
                });
            history(root, &mut layout, readings.len());
            root.table("training", |t| t.keys());
            let steps = (!draft || root.has("files")).then(|| steps(root, features.len()));
            Self { name, version, readings, layout, features, steps }
        })
    }
}

fn words(table: &mut Table<'_>, key: &str, what: &str) -> Words {
    let read = table.table(key, |t| Words {
        ko: t.need_text("ko", "the Korean text"),
        en: t.need_text("en", "the English text"),
    });
    read.unwrap_or_else(|| {
        if !table.has(key) {
            table.missing(key, what);
        }
        Words::default()
    })
}

fn readings(root: &mut Table<'_>) -> Vec<ReadingSpec> {
    if !root.has("reading") {
        root.missing("reading", "at least one [[reading]]");
    }
    let mut names = Vec::new();
    root.tables("reading", |t| {
        let name = t.need_text("name", "the reading's name in the shots");
        if names.contains(&name) {
            t.report("name", format_args!("`{name}` stands twice"));
        } else if name.is_empty() && t.has("name") {
            t.report("name", "must not be empty");
        }
        names.push(name.clone());
        let plausible = match t.numbers("plausible").as_deref() {
            Some([low, high]) if low < high => (*low, *high),
            Some(_) => {
                t.report("plausible", "must be two numbers, the lower one first, such as [0, 400]");
                (0.0, 1.0)
            }
            None => {
                if !t.has("plausible") {
                    t.missing("plausible", "the lowest and highest value that can be true, such as [0, 400]");
                }
                (0.0, 1.0)
            }
        };
        ReadingSpec {
            name,
            unit: t.text("unit").unwrap_or_default(),
            plausible,
            no_sensor: t.numbers("no_sensor").unwrap_or_default(),
            words: words(
                t,
                "words",
                "the reading's name, such as { ko = \"주조 압력\", en = \"casting pressure\" }",
            ),
            equipment: words(t, "equipment", "the part of the machine, in ko and en"),
            advice_low: words(t, "advice_low", "what to do when it is too low, in ko and en"),
            advice_high: words(t, "advice_high", "what to do when it is too high, in ko and en"),
            actionable: t.flag("actionable").unwrap_or(true),
        }
    })
}

fn layout(t: &mut Table<'_>, readings: &[ReadingSpec]) -> (Layout, Vec<FeatureSpec>) {
    let known = [("raw", Form::Raw), ("deviation", Form::Deviation), ("ratio", Form::Ratio)];
    let asked = t.texts("of_readings");
    if asked.is_none() && !t.has("of_readings") {
        t.missing("of_readings", "some of raw, deviation, ratio, such as [\"raw\"]");
    }
    let mut forms = Vec::new();
    for word in asked.unwrap_or_default() {
        match known.iter().find(|(name, _)| *name == word) {
            Some((_, form)) => forms.push(*form),
            None => {
                t.report("of_readings", format_args!("must be some of raw, deviation, ratio, not `{word}`"))
            }
        }
    }
    if forms.is_empty() && t.has("of_readings") {
        t.report("of_readings", "must name at least one of raw, deviation, ratio");
    }
    let steps = t.numbers("steps").unwrap_or_else(|| vec![0.02]);
    let rising = steps.windows(2).all(|pair| pair[0] < pair[1]);
    if steps.is_empty() || steps.len() > 8 || !rising || steps.iter().any(|a| *a <= 0.0 || *a > 1.0) {
        t.report("steps", "must be 1 to 8 rising numbers above 0 and up to 1, such as [0.02, 0.2]");
    }
    let gap = t.flag("shot_gap").unwrap_or(false);
    let restart = t.flag("shots_since_restart").unwrap_or(false);
    Layout::new(readings, &forms, gap, restart, steps)
}

fn history(root: &mut Table<'_>, layout: &mut Layout, readings: usize) {
    layout.restart_after = 1800.0;
    layout.gap_most = 3600.0;
    layout.shots_most = 1000;
    layout.max_missing = (readings / 2) as u32;
    root.table("history", |t| {
        layout.restart_after = positive(t, "restart_after", layout.restart_after);
        layout.gap_most = positive(t, "gap_most", layout.gap_most);
        if let Some(most) = t.count("shots_most") {
            layout.shots_most = u32::try_from(most).unwrap_or(u32::MAX);
        }
        if let Some(most) = t.count("max_missing") {
            layout.max_missing = u32::try_from(most).unwrap_or(u32::MAX);
        }
    });
}

fn positive(t: &mut Table<'_>, key: &str, or: f64) -> f64 {
    let value = t.number(key).unwrap_or(or);
    if value <= 0.0 {
        t.report(key, "must be above 0, in seconds");
    }
    value
}

fn steps(root: &mut Table<'_>, width: usize) -> Steps {
    let scale = root.table("scale", |t| scale(t, width));
    let autoencoder = root.table("autoencoder", autoencoder);
    let trees = root.table("trees", trees);
    if trees.is_none() && !root.has("trees") {
        root.missing("trees", "a table with the ONNX `file` of the trees that judge");
    }
    let trees =
        trees.unwrap_or(TreesSpec { file: String::new(), inputs: TreeInputs::Features, scaled: false });
    if trees.scaled && scale.is_none() {
        root.report("trees", "take scaled features, so a [scale] is needed");
    }
    if autoencoder.is_some() && scale.is_none() {
        root.report("autoencoder", "takes scaled features, so a [scale] is needed");
    }
    let latent = autoencoder.as_ref().is_some_and(|a| a.latent.is_some());
    let anomaly = autoencoder.as_ref().is_some_and(|a| a.reconstruction.is_some());
    if trees.inputs != TreeInputs::Features && !latent {
        root.report("trees", "take latent values, so an [autoencoder] with `latent` is needed");
    }
    if trees.inputs == TreeInputs::LatentAndAnomaly && !anomaly {
        root.report("trees", "take the anomaly, so an [autoencoder] with `reconstruction` is needed");
    }
    let calibration = root.table("calibration", Calibration::read).unwrap_or(Calibration::None);
    let thresholds = root.table("thresholds", |t| thresholds(t, anomaly));
    let thresholds = thresholds.unwrap_or_else(|| {
        root.missing("thresholds", "a table with `suspect` and `defect`, probabilities");
        Thresholds { suspect: 0.0, defect: 1.0, anomaly: None }
    });
    let files = root.table("files", files).unwrap_or_default();
    let named = [Some(&trees.file), autoencoder.as_ref().map(|a| &a.file)];
    for file in named.into_iter().flatten().map(String::as_str).chain([GOLDEN]) {
        if !file.is_empty() && !files.contains_key(file) {
            root.report("files", format_args!("must hold the sha256 of {file}"));
        }
    }
    Steps { scale, autoencoder, trees, calibration, thresholds, files }
}

fn scale(t: &mut Table<'_>, width: usize) -> Scale {
    let mut vector = |key: &str| {
        let numbers = t.numbers(key).unwrap_or_default();
        if numbers.len() != width {
            let found = numbers.len();
            t.report(key, format_args!("must hold one number per feature, {width}, not {found}"));
        }
        numbers
    };
    let (mean, scale) = (vector("mean"), vector("scale"));
    if scale.iter().any(|s| *s <= 0.0) {
        t.report("scale", "must hold numbers above 0");
    }
    let clip = t.number("clip").unwrap_or(10.0);
    if clip <= 0.0 {
        t.report("clip", "must be above 0");
    }
    Scale { mean, scale, clip }
}

fn autoencoder(t: &mut Table<'_>) -> AutoencoderSpec {
    let file = t.need_text("file", "the ONNX file");
    let latent = t.text("latent");
    let size = t.count("latent_size").unwrap_or(12);
    if !(1..=1024).contains(&size) {
        t.report("latent_size", "must be 1 to 1024");
    }
    let reconstruction = t.text("reconstruction");
    if latent.is_none() && reconstruction.is_none() {
        t.missing("reconstruction", "the name of the output that is the reconstruction (or `latent`)");
    }
    AutoencoderSpec { file, latent: latent.map(|name| (name, size.min(1024) as usize)), reconstruction }
}

fn trees(t: &mut Table<'_>) -> TreesSpec {
    let file = t.need_text("file", "the ONNX file");
    let choices = [
        ("features", TreeInputs::Features),
        ("features+latent", TreeInputs::Latent),
        ("features+latent+anomaly", TreeInputs::LatentAndAnomaly),
    ];
    let inputs = t.choice("inputs", &choices).unwrap_or(TreeInputs::Features);
    TreesSpec { file, inputs, scaled: t.flag("scaled").unwrap_or(false) }
}

fn thresholds(t: &mut Table<'_>, anomaly: bool) -> Thresholds {
    let suspect = t.need_number("suspect", "the probability from which a shot is suspect");
    let defect = t.need_number("defect", "the probability from which a shot is a defect");
    if !(0.0..=1.0).contains(&defect) || !(0.0..=defect).contains(&suspect) {
        t.report("suspect", "and `defect` must be probabilities, suspect the lower");
    }
    let limit = t.number("anomaly");
    if limit.is_some() && !anomaly {
        t.report("anomaly", "needs an [autoencoder] with `reconstruction`");
    }
    Thresholds { suspect, defect, anomaly: limit }
}

fn files(t: &mut Table<'_>) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for name in t.keys() {
        let digest = t.text(&name).unwrap_or_default().to_ascii_lowercase();
        if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            t.report(&name, "must be a sha256, 64 hexadecimal digits");
        }
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if !plain || name.starts_with('.') {
            t.report(&name, "must be the plain name of a file in the bundle's folder");
        }
        files.insert(name, digest);
    }
    files
}
