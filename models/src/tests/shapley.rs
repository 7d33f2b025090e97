//! Attributions against the definition: all subsets of the inputs, averages by training counts.

use proptest::prelude::*;

use super::onnx::{self, Kind, Tree};
use super::tiny::Tiny;
use super::trees::{WIDTH, any_row, any_tree};
use crate::forest_onnx;
use crate::shap::Explainer;
use crate::{Bundle, JudgeError};

/// The tree's average where only the inputs in `known` (bits) are known.
fn average(tree: &Tree, row: &[f32], known: usize) -> f64 {
    match tree {
        Tree::Leaf { value, .. } => f64::from(*value),
        Tree::Branch { input, mode, threshold, missing_true, yes, no } => {
            if known >> input & 1 == 1 {
                let goes = Tree::goes_yes(mode, *threshold, *missing_true, row[*input]);
                average(if goes { yes } else { no }, row, known)
            } else {
                let (y, n) = (f64::from(yes.count()), f64::from(no.count()));
                (average(yes, row, known) * y + average(no, row, known) * n) / (y + n)
            }
        }
    }
}

fn brute_force(trees: &[Tree], row: &[f32]) -> (f64, Vec<f64>) {
    let game = |known: usize| trees.iter().map(|t| average(t, row, known)).sum::<f64>();
    let factorial = |n: usize| (1..=n).map(|i| i as f64).product::<f64>();
    let values = (0..WIDTH)
        .map(|i| {
            (0..1_usize << WIDTH)
                .filter(|s| s >> i & 1 == 0)
                .map(|s| {
                    let size = s.count_ones() as usize;
                    let weight = factorial(size) * factorial(WIDTH - size - 1) / factorial(WIDTH);
                    weight * (game(s | 1 << i) - game(s))
                })
                .sum()
        })
        .collect();
    (game(0), values)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn attributions_are_shapley_values(
        trees in prop::collection::vec(any_tree(6), 1..5),
        rows in prop::collection::vec(any_row(), 1..5),
    ) {
        let bytes = onnx::model(vec![onnx::ensemble(&trees, Kind::Regressor, 0.0)], vec![], WIDTH, &["margin"]);
        let forest = forest_onnx::read("trees.onnx", &bytes, WIDTH).unwrap();
        let explainer = Explainer::new(&forest).unwrap();
        for row in rows {
            let (base, expected) = brute_force(&trees, &row);
            prop_assert!((explainer.base() - base).abs() < 1e-10);
            let values = explainer.values(&row);
            for (value, expected) in values.iter().zip(&expected) {
                prop_assert!((value - expected).abs() < 1e-10, "{values:?} {expected:?} {row:?}");
            }
            let sum = explainer.base() + values.iter().sum::<f64>();
            prop_assert!((sum - forest.margin(&row)).abs() < 1e-9);
        }
    }
}

#[test]
fn a_bundle_splits_its_margin_among_all_its_inputs() {
    for tiny in [Tiny::plain(), Tiny::original(1)] {
        let dir = tiny.write();
        let bundle = Bundle::load(dir.path()).unwrap();
        assert_eq!(bundle.inputs().len(), tiny.readings.len() + if tiny.encoder.is_some() { 12 } else { 0 });
        for row in tiny.rows() {
            let split = bundle.attribute(&row).unwrap();
            assert_eq!(split.values.len(), bundle.inputs().len());
            assert!((split.base + split.values.iter().sum::<f64>() - split.margin).abs() < 1e-9);
            assert!((split.margin - tiny.naive(&row).margin).abs() < 1e-9);
        }
    }
}

#[test]
fn trees_without_counts_judge_but_do_not_explain() {
    let tiny = Tiny::plain();
    for spoil in
        [|f: &mut Vec<f32>| f.fill(1.0), |f: &mut Vec<f32>| f.clear(), |f: &mut Vec<f32>| f[1] = -3.0]
    {
        let mut node = onnx::ensemble(&tiny.trees, tiny.kind, super::tiny::BASE);
        spoil(&mut onnx::attribute(&mut node, "nodes_hitrates").floats);
        let mut files = tiny.files();
        files[1].1 = onnx::model(vec![node], vec![], 3, &["margin"]);
        let dir = super::tiny::write(&tiny.manifest(), &files);
        let bundle = Bundle::load(dir.path()).unwrap();
        assert!(matches!(bundle.attribute(&[0.0; 3]), Err(JudgeError::NoCounts)));
    }
}
