use castwatch_core::Verdict;

use super::onnx;
use super::tiny::{Tiny, write};
use crate::error::{BundleError, JudgeError};
use crate::{Bundle, DieHistory};

#[test]
fn what_loads_computes_what_the_naive_models_do() {
    let mut with_anomaly = Tiny::original(1);
    with_anomaly.inputs = "features+latent+anomaly";
    with_anomaly.trees.push(onnx::Tree::branch(42, 0.8, onnx::Tree::leaf(0.5, 2), onnx::Tree::leaf(-0.5, 3)));
    let mut beside = Tiny::original(1);
    beside.inputs = "features";
    beside.scaled = false;
    beside.trees.truncate(0);
    beside.trees.push(onnx::Tree::branch(3, 0.5, onnx::Tree::leaf(0.5, 2), onnx::Tree::leaf(-0.5, 3)));
    for tiny in [Tiny::plain(), Tiny::original(1), Tiny::original(2), with_anomaly, beside] {
        let dir = tiny.write();
        let bundle = Bundle::load(dir.path()).unwrap();
        assert_eq!((bundle.name(), bundle.version(), bundle.digest().len()), ("tiny", "0.1.0", 16));
        let features: Vec<_> = tiny
            .rows()
            .iter()
            .map(|row| {
                let values: Vec<Option<f64>> =
                    row.iter().map(|x| (!x.is_nan()).then(|| f64::from(*x))).collect();
                bundle.extract(&tiny.shot(&values), &mut DieHistory::default())
            })
            .collect();
        let judged = bundle.judge(&features.iter().collect::<Vec<_>>()).unwrap();
        for ((row, f), j) in tiny.rows().iter().zip(&features).zip(&judged) {
            let naive = tiny.naive(row);
            assert!((j.margin - naive.margin).abs() < 1e-6);
            assert!((j.anomaly.unwrap_or(0.0) - naive.anomaly.unwrap_or(0.0)).abs() < 1e-4);
            let missing = row.iter().filter(|x| x.is_nan()).count() as u32;
            assert_eq!((f.missing, f.nulled, f.unknown), (missing, 0, 0));
            assert_eq!(f.unscorable.is_some(), missing > 1);
            assert_eq!(j.verdict == Verdict::Unscorable, missing > 1);
            // A row's result does not depend on its neighbours, to the last bit.
            assert_eq!(bundle.judge(&[f]).unwrap()[0], *j);
        }
    }
}

#[test]
fn verdicts_follow_the_thresholds() {
    let tiny = Tiny::plain();
    let dir = tiny.write();
    let bundle = Bundle::load(dir.path()).unwrap();
    let mut seen = std::collections::HashSet::new();
    for i in 0..27 {
        let values = [i % 3, i / 3 % 3, i / 9].map(|n| [None, Some(-2.0), Some(2.0)][n]);
        let features = bundle.extract(&tiny.shot(&values), &mut DieHistory::default());
        let j = bundle.judge(&[&features]).unwrap().remove(0);
        let expected = match j.probability {
            _ if features.unscorable.is_some() => Verdict::Unscorable,
            p if p >= 0.8 => Verdict::Defect,
            p if p >= 0.3 => Verdict::Suspect,
            _ => Verdict::Ok,
        };
        assert_eq!(j.verdict, expected);
        seen.insert(j.verdict);
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

fn refused(dir: &std::path::Path) -> BundleError {
    Bundle::load(dir).expect_err("is refused")
}

#[test]
fn missing_and_changed_files_are_named() {
    let tiny = Tiny::original(1);
    let dir = tiny.write();
    assert!(matches!(refused(&dir.path().join("nowhere")), BundleError::Folder { .. }));
    for file in ["bundle.toml", "autoencoder.onnx", "trees.onnx", "golden.json"] {
        let path = dir.path().join(file);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = refused(dir.path());
        assert!(matches!(&error, BundleError::File { path: p, .. } if *p == path), "{error}");
        if file != "bundle.toml" {
            let mut other = bytes.clone();
            other[10] ^= 1;
            std::fs::write(&path, &other).unwrap();
            let error = refused(dir.path());
            assert!(matches!(&error, BundleError::Digest { file: f, .. } if f == file), "{error}");
            assert!(error.to_string().contains("expected sha256"), "{error}");
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    assert!(Bundle::load(dir.path()).is_ok());
}

/// The error of a bundle with one file replaced and digests that fit.
fn with(tiny: &Tiny, name: &str, bytes: Vec<u8>) -> BundleError {
    let mut files = tiny.files();
    files.iter_mut().filter(|(n, _)| *n == name).for_each(|f| f.1.clone_from(&bytes));
    refused(write(&tiny.manifest(), &files).path())
}

#[test]
fn golden_values_that_are_not_met_are_told() {
    let tiny = Tiny::plain();
    let text = tiny.golden();
    let margin = format!("\"margin\":{}", tiny.naive(&tiny.rows()[0]).margin);
    let cases = [
        (text.replacen(&margin, "\"margin\":9.5", 1), "shot 0: margin should be 9.5 but is"),
        (text.replace("\"probability\":0.", "\"probability\":0.9"), "probability should be"),
        (text.replacen("\"anomaly\":null", "\"anomaly\":1.0", 1), "anomaly should be 1 but is missing"),
        (
            text.replacen("\"expected\":{\"features\":[", "\"expected\":{\"features\":[1,", 1),
            "has 4 features",
        ),
        (
            text.replacen("\"expected\":{\"features\":[null", "\"expected\":{\"features\":[7.5", 1),
            "should be 7.5",
        ),
        (r#"{"rows":[{"features":[1,2],"margin":0,"probability":0.5}]}"#.into(), "row 0, can't be judged"),
        (r#"{"rows":[]}"#.into(), "neither a shot nor a row"),
        (text.replacen("\"rows\"", "\"row\"", 1), "unknown field `row`"),
        ("{".into(), "EOF"),
    ];
    for (golden, expected) in cases {
        assert_ne!(golden, text);
        let error = with(&tiny, "golden.json", golden.into_bytes()).to_string();
        assert!(error.contains("golden.json") && error.contains(expected), "{error}\n  not: {expected}");
    }
}

#[test]
fn models_that_do_not_fit_are_named() {
    let tiny = Tiny::original(1);
    let narrow = onnx::Encoder { width: 29, latent: 12 }.bytes();
    let error = with(&tiny, "autoencoder.onnx", narrow).to_string();
    assert!(error.contains("input `features` has 29 values, but bundle.toml makes it 30"), "{error}");
    let short = onnx::Encoder { width: 30, latent: 11 }.bytes();
    let error = with(&tiny, "autoencoder.onnx", short).to_string();
    assert!(error.contains("output `latent`") && error.contains("[16, 11]"), "{error}");
    let far = vec![onnx::Tree::branch(42, 0.0, onnx::Tree::leaf(0.0, 1), onnx::Tree::leaf(1.0, 1))];
    let far = Tiny { trees: far, ..tiny.clone() }.trees_onnx();
    let error = with(&tiny, "trees.onnx", far).to_string();
    assert!(error.contains("uses input 42") && error.contains("42"), "{error}");
    for name in ["trees.onnx", "autoencoder.onnx"] {
        for bytes in [vec![], b"not a model".to_vec(), vec![0xFF; 4096]] {
            let error = with(&tiny, name, bytes);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
    let swapped = with(&tiny, "autoencoder.onnx", tiny.trees_onnx());
    assert!(matches!(swapped, BundleError::UnknownOp { .. }), "{swapped}");
    let node = tract_onnx::pb::NodeProto {
        input: vec!["features".into()],
        output: vec!["latent".into()],
        op_type: "GridSample".into(),
        ..Default::default()
    };
    let odd = with(&tiny, "autoencoder.onnx", onnx::model(vec![node], vec![], 30, &["latent"])).to_string();
    assert!(odd.contains("uses the operator GridSample"), "{odd}");
    let relu = |input: &str, output: &str| tract_onnx::pb::NodeProto {
        input: vec![input.into()],
        output: vec![output.into()],
        op_type: "Relu".into(),
        ..Default::default()
    };
    let cases = [
        (vec![relu("a", "latent"), relu("latent", "a")], "takes `a`, which nothing before it makes"),
        (vec![relu("features", "features")], "makes `features`, which is there already"),
        (vec![relu("features", "x")], "nothing makes the output `latent`"),
    ];
    for (nodes, expected) in cases {
        let error = with(&tiny, "autoencoder.onnx", onnx::model(nodes, vec![], 30, &["latent"]));
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(expected), "{cause}\n  not: {expected}");
    }
}

#[test]
fn a_draft_makes_features_and_judges_nothing() {
    let tiny = Tiny::plain();
    let dir = tempfile::tempdir().unwrap();
    let manifest = tiny.manifest();
    let draft = &manifest[..manifest.find("[trees]").unwrap()];
    std::fs::write(dir.path().join("bundle.toml"), draft).unwrap();
    let bundle = Bundle::draft(dir.path()).unwrap();
    let features = bundle.extract(&tiny.shot(&[Some(1.0), None, Some(2.0)]), &mut DieHistory::default());
    assert_eq!((features.values[0], features.values[2], features.missing), (1.0, 2.0, 1));
    assert!(matches!(bundle.judge(&[&features]), Err(JudgeError::Draft)));
    assert!(matches!(bundle.attribute(&features.values), Err(JudgeError::Draft)));
    let error = refused(dir.path()).to_string();
    assert!(
        error.contains("`trees` is missing") && error.contains("`files` must hold the sha256"),
        "{error}"
    );
    let full = Bundle::draft(tiny.write().path()).unwrap();
    assert!(matches!(full.judge(&[&features]), Err(JudgeError::Draft)));
}

#[test]
fn rows_of_another_bundle_are_refused() {
    let dir = Tiny::plain().write();
    let bundle = Bundle::load(dir.path()).unwrap();
    let error = bundle.attribute(&[0.0; 4]).unwrap_err();
    assert!(matches!(error, JudgeError::Width { expected: 3, found: 4 }));
}
