use proptest::prelude::*;

use super::onnx::{self, Kind, Tree};
use crate::error::BundleError;
use crate::forest_onnx;

pub(super) const WIDTH: usize = 5;

/// Random trees of up to `depth` over [`WIDTH`] inputs, whose thresholds often meet the values.
pub(super) fn any_tree(depth: u32) -> impl Strategy<Value = Tree> {
    let leaf = (-3.0_f32..3.0, 1_u32..60).prop_map(|(value, count)| Tree::leaf(value, count));
    leaf.prop_recursive(depth, 32, 2, |inner| {
        let mode = prop::sample::select(vec!["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"]);
        (0..WIDTH, mode, any_value(), any::<bool>(), inner.clone(), inner).prop_map(
            |(input, mode, threshold, missing_true, yes, no)| Tree::Branch {
                input,
                mode,
                threshold,
                missing_true,
                yes: Box::new(yes),
                no: Box::new(no),
            },
        )
    })
}

fn any_value() -> impl Strategy<Value = f32> {
    prop_oneof![3 => (-4_i8..=4).prop_map(|n| f32::from(n) / 2.0), 1 => -2.0_f32..2.0]
}

pub(super) fn any_row() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop_oneof![4 => any_value(), 1 => Just(f32::NAN)], WIDTH)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn flat_trees_go_where_the_standard_says(
        trees in prop::collection::vec(any_tree(5), 1..11),
        rows in prop::collection::vec(any_row(), 1..8),
        kind in prop::sample::select(vec![
            Kind::Regressor, Kind::Classifier { bases: 1 }, Kind::Classifier { bases: 2 },
        ]),
    ) {
        let bytes = onnx::model(vec![onnx::ensemble(&trees, kind, 0.5)], vec![], WIDTH, &["margin"]);
        let forest = forest_onnx::read("trees.onnx", &bytes, WIDTH).unwrap();
        for row in rows {
            let expected = 0.5 + trees.iter().map(|t| t.value(&row)).sum::<f64>();
            prop_assert!((forest.margin(&row) - expected).abs() < 1e-9, "{row:?}");
        }
    }
}

/// Reads a two-tree ensemble after `spoil` did something to its node.
fn spoiled(spoil: impl FnOnce(&mut tract_onnx::pb::NodeProto)) -> Result<(), BundleError> {
    let branch = |t| {
        Tree::branch(1, t, Tree::leaf(1.0, 3), Tree::branch(0, t, Tree::leaf(2.0, 4), Tree::leaf(3.0, 5)))
    };
    let mut node = onnx::ensemble(&[branch(0.5), branch(1.5)], Kind::Regressor, 0.0);
    spoil(&mut node);
    forest_onnx::read("trees.onnx", &onnx::model(vec![node], vec![], WIDTH, &["margin"]), WIDTH).map(|_| ())
}

#[test]
fn broken_trees_are_refused_by_name() {
    // Nodes of each tree: 0 branch, 1 leaf, 2 branch, 3 leaf, 4 leaf.
    let set = |name: &'static str, at: usize, value: i64| {
        move |node: &mut tract_onnx::pb::NodeProto| onnx::attribute(node, name).ints[at] = value
    };
    let said = |result: Result<(), BundleError>| result.expect_err("is refused").to_string();
    assert!(spoiled(|_| {}).is_ok());
    let cases: Vec<(String, &str)> = vec![
        (said(spoiled(set("nodes_truenodeids", 2, 0))), "not reached from a root"),
        (said(spoiled(set("nodes_truenodeids", 2, 2))), "node 2 of tree 0 is reached twice"),
        (said(spoiled(set("nodes_truenodeids", 2, 1))), "node 1 of tree 0 is reached twice"),
        (said(spoiled(|n| onnx::attribute(n, "nodes_modes").strings[0] = b"LEAF".to_vec())), "two roots"),
        (said(spoiled(set("nodes_truenodeids", 0, 77))), "leads to node 77, which is not there"),
        (said(spoiled(set("nodes_truenodeids", 0, -1))), "leads to node -1"),
        (said(spoiled(set("nodes_featureids", 0, 5))), "uses input 5"),
        (said(spoiled(set("nodes_featureids", 0, -1))), "uses input -1"),
        (said(spoiled(set("nodes_nodeids", 3, 1))), "node 1 of tree 0 stands twice"),
        (said(spoiled(set("target_nodeids", 0, 0))), "is not a leaf"),
        (said(spoiled(set("target_ids", 0, 1))), "several targets"),
        (said(spoiled(|n| onnx::attribute(n, "nodes_values").floats[0] = f32::NAN)), "threshold NaN"),
        (said(spoiled(|n| onnx::attribute(n, "target_weights").floats[0] = f32::INFINITY)), "is inf"),
        (
            said(spoiled(|n| onnx::attribute(n, "nodes_modes").strings[0] = b"BRANCH_EQ".to_vec())),
            "BRANCH_EQ",
        ),
        (
            said(spoiled(|n| onnx::attribute(n, "nodes_values").floats.truncate(3))),
            "nodes_values has 3 entries",
        ),
        (said(spoiled(|n| onnx::attribute(n, "base_values").floats.push(1.0))), "base_values has 2 entries"),
        (said(spoiled(|n| n.attribute.clear())), "no nodes"),
        (said(spoiled(|n| n.op_type = "SVMRegressor".into())), "ai.onnx.ml.SVMRegressor"),
        (
            said(spoiled(|n| n.attribute.push(onnx::floats("nodes_values_as_tensor", vec![])))),
            "double precision",
        ),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected) && message.contains("trees.onnx"), "{message}\n  not: {expected}");
    }
    // A shared child makes a graph, not a tree: both parents lead to leaf 3, and 4 hangs free.
    let shared = spoiled(|node| {
        onnx::attribute(node, "nodes_falsenodeids").ints[2] = 3;
        for name in
            ["nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids"]
        {
            onnx::attribute(node, name).ints.remove(4);
        }
        onnx::attribute(node, "nodes_missing_value_tracks_true").ints.remove(4);
        onnx::attribute(node, "nodes_modes").strings.remove(4);
        onnx::attribute(node, "nodes_values").floats.remove(4);
        onnx::attribute(node, "nodes_hitrates").floats.remove(4);
        for name in ["target_ids", "target_treeids", "target_nodeids"] {
            onnx::attribute(node, name).ints.remove(2);
        }
        onnx::attribute(node, "target_weights").floats.remove(2);
    });
    assert!(said(shared).contains("node 3 of tree 0 is reached twice"));
}

#[test]
fn a_chain_deeper_than_any_model_is_refused() {
    let chain = |depth: usize| {
        (0..depth).fold(Tree::leaf(0.0, 1), |t, _| Tree::branch(0, 0.0, Tree::leaf(1.0, 1), t))
    };
    let read = |depth| {
        let node = onnx::ensemble(&[chain(depth)], Kind::Regressor, 0.0);
        forest_onnx::read("trees.onnx", &onnx::model(vec![node], vec![], WIDTH, &["margin"]), WIDTH)
    };
    assert!(read(64).is_ok());
    assert!(read(65).unwrap_err().to_string().contains("deeper than 64"));
}
