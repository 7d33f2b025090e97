//! What can be wrong with a bundle or a row: always the file or the number, never a panic.

use std::path::PathBuf;

use castwatch_core::spec::Problems;

/// Any error below, with its sources.
pub(crate) type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The folder is not there, or is none.
    #[error("there is no model bundle at {}: a bundle is a folder with a bundle.toml", .dir.display())]
    Folder {
        /// Where it should be.
        dir: PathBuf,
    },
    /// A file of the bundle can't be read.
    #[error("{} of the bundle can't be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file larger than any model of a die-casting plant is.
    #[error("{} has {bytes} bytes; a file of a bundle has at most {most}", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest that is read.
        most: u64,
    },
    /// Mistakes in bundle.toml, every one with its line.
    #[error("{0}")]
    Manifest(#[from] Problems),
    /// A file is not the one the manifest was written for.
    #[error(
        "{file} of the bundle is not the file that bundle.toml names: expected sha256 {expected}, found {found}"
    )]
    Digest {
        /// The file.
        file: String,
        /// The digest in the manifest.
        expected: String,
        /// The file's own.
        found: String,
    },
    /// Not an ONNX model that can be run.
    #[error("{file} of the bundle is not an ONNX model that can be run")]
    Onnx {
        /// The file.
        file: String,
        /// What was wrong.
        #[source]
        source: Source,
    },
    /// A TreeEnsemble whose attributes do not make trees.
    #[error("{file} of the bundle: {message}")]
    Trees {
        /// The file.
        file: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// An operator castwatch does not run.
    #[error("{file} of the bundle uses the operator {op}, which castwatch does not run; known here: {known}")]
    UnknownOp {
        /// The file.
        file: String,
        /// The operator, with its domain when it has one.
        op: String,
        /// What may be used instead.
        known: String,
    },
    /// A model that takes or gives another number of values than bundle.toml describes.
    #[error("{file} of the bundle: {what} has {found} values, but bundle.toml makes it {expected}")]
    Width {
        /// The file.
        file: String,
        /// Which input or output.
        what: String,
        /// From the manifest.
        expected: usize,
        /// In the model.
        found: String,
    },
    /// golden.json can't be understood.
    #[error("golden.json of the bundle: {message}")]
    GoldenFile {
        /// What is wrong.
        message: String,
    },
    /// The bundle does not compute what it was trained to.
    #[error("golden.json of the bundle, {row}: {what} should be {expected} but is {found}")]
    Golden {
        /// `shot 3` or `row 0`, from 0.
        row: String,
        /// The feature or the output.
        what: String,
        /// From the file.
        expected: String,
        /// What this build computes.
        found: String,
    },
    /// A golden row could not be judged at all.
    #[error("golden.json of the bundle, {row}, can't be judged")]
    GoldenJudge {
        /// The row.
        row: String,
        /// Why.
        #[source]
        source: JudgeError,
    },
}

/// Why rows can't be judged or attributed.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The bundle was opened for its features only.
    #[error("this bundle was opened for its features only and has no models to judge with")]
    Draft,
    /// A row of another bundle.
    #[error("a row has {found} features, but the bundle takes {expected}")]
    Width {
        /// The bundle's features.
        expected: usize,
        /// The row's.
        found: usize,
    },
    /// The network failed.
    #[error("the bundle's network can't be run")]
    Network(#[source] Source),
    /// The trees do not say how many training shots went which way.
    #[error("the bundle's trees carry no training counts (nodes_hitrates), which attributions need")]
    NoCounts,
    /// The shares do not add up to the margin: a fault of castwatch, never shown as an explanation.
    #[error("attributions add up to {sum} but the margin is {margin}")]
    Additivity {
        /// Base and all values.
        sum: f64,
        /// What the trees say.
        margin: f64,
    },
}
