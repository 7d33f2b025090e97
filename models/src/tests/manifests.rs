use super::tiny::Tiny;
use crate::manifest::Manifest;

fn said(text: &str) -> Vec<String> {
    Manifest::read("bundle.toml", text, false).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn every_mistake_is_told_at_once_with_its_line() {
    let text = r#"name = "x"
verson = "1"
[features]
of_readings = ["raw", "median"]
steps = [0.2, 0.02]
[history]
restart_after = -5
[[reading]]
name = "a"
plausible = [9, 1]
words = { ko = "가" }
equipment = { ko = "가", en = "a" }
advice_low = { ko = "가", en = "a" }
advice_high = "too high"
[[reading]]
name = "a"
plausible = [0, 1]
words = { ko = "가", en = "a" }
equipment = { ko = "가", en = "a" }
advice_low = { ko = "가", en = "a" }
advice_high = { ko = "가", en = "a" }
[autoencoder]
file = "a.onnx"
[trees]
file = "t.onnx"
inputs = "latent"
scaled = true
[calibration]
kind = "isotonic"
margins = [1, 1]
probabilities = [0.5]
[thresholds]
suspect = 0.9
defect = 0.5
anomaly = 3
[files]
"t.onnx" = "abc"
"../x" = "0000000000000000000000000000000000000000000000000000000000000000"
"#;
    let said = said(text);
    let expected = [
        ":1: `version` is missing",
        ":2: `verson` is not known; did you mean `version`?",
        ":4: `features.of_readings` must be some of raw, deviation, ratio, not `median`",
        ":5: `features.steps` must be 1 to 8 rising numbers",
        ":7: `history.restart_after` must be above 0",
        ":10: `reading[0].plausible` must be two numbers, the lower one first",
        ":11: `reading[0].words.en` is missing",
        ":14: `reading[0].advice_high` must be a table",
        ":16: `reading[1].name` `a` stands twice",
        ":22: `autoencoder` takes scaled features, so a [scale] is needed",
        ":22: `autoencoder.reconstruction` is missing",
        ":24: `trees` take scaled features, so a [scale] is needed",
        ":26: `trees.inputs` must be one of features, features+latent, features+latent+anomaly, not `latent`",
        ":30: `calibration.margins` must be rising numbers",
        ":31: `calibration.probabilities` must be one probability per margin",
        ":33: `thresholds.suspect` and `defect` must be probabilities, suspect the lower",
        ":35: `thresholds.anomaly` needs an [autoencoder]",
        ":36: `files` must hold the sha256 of a.onnx",
        ":36: `files` must hold the sha256 of golden.json",
        ":37: `files.t.onnx` must be a sha256",
        ":38: `files.../x` must be the plain name of a file",
    ];
    for line in expected {
        assert!(
            said.iter().any(|s| s.starts_with(&format!("bundle.toml{line}"))),
            "not told: {line}\n{said:#?}"
        );
    }
    assert_eq!(said.len(), expected.len(), "{said:#?}");
}

#[test]
fn scale_vectors_must_fit_the_features() {
    let tiny = Tiny::original(1);
    let text = tiny.manifest().replace("mean = [0, ", "mean = [").replace("scale = [1, ", "scale = [-1, ");
    let said = said(&text);
    assert!(
        said.iter().any(|s| s.contains("`scale.mean` must hold one number per feature, 30, not 29")),
        "{said:#?}"
    );
    assert!(said.iter().any(|s| s.contains("`scale.scale` must hold numbers above 0")), "{said:#?}");
}
