//! Builds ONNX files: trees of every kind, and a small gated encoder.

use prost::Message as _;
use tract_onnx::pb::{
    self, AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto,
    ValueInfoProto,
};

/// A tree as a person would draw it.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Leaf {
        value: f32,
        count: u32,
    },
    Branch {
        input: usize,
        mode: &'static str,
        threshold: f32,
        missing_true: bool,
        yes: Box<Tree>,
        no: Box<Tree>,
    },
}

impl Tree {
    pub(super) fn leaf(value: f32, count: u32) -> Self {
        Self::Leaf { value, count }
    }

    pub(super) fn branch(input: usize, threshold: f32, yes: Self, no: Self) -> Self {
        let (yes, no) = (Box::new(yes), Box::new(no));
        Self::Branch { input, mode: "BRANCH_LEQ", threshold, missing_true: false, yes, no }
    }

    pub(super) fn count(&self) -> u32 {
        match self {
            Self::Leaf { count, .. } => *count,
            Self::Branch { yes, no, .. } => yes.count() + no.count(),
        }
    }

    /// Where a row goes, straight from the standard's words.
    pub(super) fn goes_yes(mode: &str, threshold: f32, missing_true: bool, x: f32) -> bool {
        if x.is_nan() {
            return missing_true;
        }
        match mode {
            "BRANCH_LEQ" => x <= threshold,
            "BRANCH_LT" => x < threshold,
            "BRANCH_GTE" => x >= threshold,
            "BRANCH_GT" => x > threshold,
            other => panic!("{other}"),
        }
    }

    pub(super) fn value(&self, row: &[f32]) -> f64 {
        match self {
            Self::Leaf { value, .. } => f64::from(*value),
            Self::Branch { input, mode, threshold, missing_true, yes, no } => {
                if Self::goes_yes(mode, *threshold, *missing_true, row[*input]) {
                    yes.value(row)
                } else {
                    no.value(row)
                }
            }
        }
    }
}

/// What the ensemble is written as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Regressor,
    /// Weights for one class, with base values of length 1 or 2, as skl2onnx and LightGBM write.
    Classifier {
        bases: usize,
    },
}

pub(super) fn ints(name: &str, ints: Vec<i64>) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 7, ints, ..Default::default() }
}
pub(super) fn floats(name: &str, floats: Vec<f32>) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 6, floats, ..Default::default() }
}
fn text(name: &str, text: &str) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 3, s: text.into(), ..Default::default() }
}

/// The node of an ensemble, ready for tests to spoil.
pub(super) fn ensemble(trees: &[Tree], kind: Kind, base: f32) -> NodeProto {
    #[derive(Default)]
    struct Rows {
        trees: Vec<i64>,
        ids: Vec<i64>,
        features: Vec<i64>,
        modes: Vec<Vec<u8>>,
        values: Vec<f32>,
        yes: Vec<i64>,
        no: Vec<i64>,
        missing: Vec<i64>,
        counts: Vec<f32>,
        leaves: Vec<(i64, i64, f32)>,
    }
    fn add(rows: &mut Rows, number: i64, tree: &Tree, next: &mut i64) -> i64 {
        let id = *next;
        *next += 1;
        let at = rows.ids.len();
        rows.trees.push(number);
        rows.ids.push(id);
        rows.counts.push(tree.count() as f32);
        for list in [&mut rows.features, &mut rows.yes, &mut rows.no, &mut rows.missing] {
            list.push(0);
        }
        rows.values.push(0.0);
        rows.modes.push(b"LEAF".to_vec());
        match tree {
            Tree::Leaf { value, .. } => rows.leaves.push((number, id, *value)),
            Tree::Branch { input, mode, threshold, missing_true, yes, no } => {
                rows.features[at] = *input as i64;
                rows.modes[at] = mode.as_bytes().to_vec();
                rows.values[at] = *threshold;
                rows.missing[at] = i64::from(*missing_true);
                rows.yes[at] = add(rows, number, yes, next);
                rows.no[at] = add(rows, number, no, next);
            }
        }
        id
    }
    let mut rows = Rows::default();
    for (number, tree) in trees.iter().enumerate() {
        add(&mut rows, number as i64, tree, &mut 0);
    }
    let prefix = if kind == Kind::Regressor { "target" } else { "class" };
    let mut attribute = vec![
        ints("nodes_treeids", rows.trees),
        ints("nodes_nodeids", rows.ids),
        ints("nodes_featureids", rows.features),
        AttributeProto { name: "nodes_modes".into(), r#type: 8, strings: rows.modes, ..Default::default() },
        floats("nodes_values", rows.values),
        ints("nodes_truenodeids", rows.yes),
        ints("nodes_falsenodeids", rows.no),
        ints("nodes_missing_value_tracks_true", rows.missing),
        floats("nodes_hitrates", rows.counts),
        ints(&format!("{prefix}_ids"), rows.leaves.iter().map(|_| 0).collect()),
        ints(&format!("{prefix}_treeids"), rows.leaves.iter().map(|l| l.0).collect()),
        ints(&format!("{prefix}_nodeids"), rows.leaves.iter().map(|l| l.1).collect()),
        floats(&format!("{prefix}_weights"), rows.leaves.iter().map(|l| l.2).collect()),
    ];
    let op_type = match kind {
        Kind::Regressor => {
            attribute.push(AttributeProto {
                name: "n_targets".into(),
                r#type: 2,
                i: 1,
                ..Default::default()
            });
            attribute.push(floats("base_values", vec![base]));
            "TreeEnsembleRegressor"
        }
        Kind::Classifier { bases } => {
            attribute.push(text("post_transform", "LOGISTIC"));
            attribute.push(ints("classlabels_int64s", vec![0, 1]));
            let values = if bases == 2 { vec![-base, base] } else { vec![base] };
            attribute.push(floats("base_values", values));
            "TreeEnsembleClassifier"
        }
    };
    NodeProto {
        input: vec!["features".into()],
        output: vec!["margin".into()],
        op_type: op_type.into(),
        domain: "ai.onnx.ml".into(),
        attribute,
        ..Default::default()
    }
}

/// The attribute of a node by name.
pub(super) fn attribute<'n>(node: &'n mut NodeProto, name: &str) -> &'n mut AttributeProto {
    node.attribute.iter_mut().find(|a| a.name == name).unwrap()
}

pub(super) fn model(
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    width: usize,
    outputs: &[&str],
) -> Vec<u8> {
    let value = |name: &str, size: Option<usize>| {
        use pb::tensor_shape_proto::{Dimension, dimension::Value};
        let dim = |value| Dimension { value: Some(value), ..Default::default() };
        let shape = size.map(|n| pb::TensorShapeProto {
            dim: vec![dim(Value::DimParam("rows".into())), dim(Value::DimValue(n as i64))],
        });
        let tensor = pb::type_proto::Tensor { elem_type: 1, shape };
        let r#type =
            Some(TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), ..Default::default() });
        ValueInfoProto { name: name.into(), r#type, ..Default::default() }
    };
    let graph = GraphProto {
        node,
        initializer,
        input: vec![value("features", Some(width))],
        output: outputs.iter().map(|name| value(name, None)).collect(),
        ..Default::default()
    };
    let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    ModelProto {
        ir_version: 8,
        opset_import: vec![opset("", 13), opset("ai.onnx.ml", 3)],
        graph: Some(graph),
        ..Default::default()
    }
    .encode_to_vec()
}

/// A gated encoder, h = silu(x·G) · (x·L), latent = h·T, reconstruction = latent·R.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    pub(super) width: usize,
    pub(super) latent: usize,
}

impl Encoder {
    const HIDDEN: usize = 8;

    fn weight(&self, which: usize, row: usize, column: usize) -> f32 {
        (((which * 7 + row * 3 + column * 5) % 11) as f32 - 5.0) / 16.0
    }

    /// The latent values and the reconstruction, in double precision.
    pub(super) fn naive(&self, row: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let times = |x: &[f64], which: usize, columns: usize| -> Vec<f64> {
            (0..columns)
                .map(|c| x.iter().enumerate().map(|(r, x)| x * f64::from(self.weight(which, r, c))).sum())
                .collect()
        };
        let x: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
        let gate = times(&x, 0, Self::HIDDEN);
        let linear = times(&x, 1, Self::HIDDEN);
        let h: Vec<f64> = gate.iter().zip(&linear).map(|(g, l)| g / (1.0 + (-g).exp()) * l).collect();
        let latent = times(&h, 2, self.latent);
        let reconstruction = times(&latent, 3, self.width);
        (latent, reconstruction)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let shapes = [
            (self.width, Self::HIDDEN),
            (self.width, Self::HIDDEN),
            (Self::HIDDEN, self.latent),
            (self.latent, self.width),
        ];
        let tensors = shapes.iter().enumerate().map(|(which, (rows, columns))| TensorProto {
            dims: vec![*rows as i64, *columns as i64],
            data_type: 1,
            float_data: (0..rows * columns).map(|i| self.weight(which, i / columns, i % columns)).collect(),
            name: format!("w{which}"),
            ..Default::default()
        });
        let node = |op: &str, input: &[&str], output: &str| NodeProto {
            input: input.iter().map(|s| (*s).into()).collect(),
            output: vec![output.into()],
            op_type: op.into(),
            ..Default::default()
        };
        let nodes = vec![
            node("MatMul", &["features", "w0"], "gate"),
            node("MatMul", &["features", "w1"], "linear"),
            node("Sigmoid", &["gate"], "open"),
            node("Mul", &["gate", "open"], "silu"),
            node("Mul", &["silu", "linear"], "hidden"),
            node("MatMul", &["hidden", "w2"], "latent"),
            node("MatMul", &["latent", "w3"], "reconstruction"),
        ];
        model(nodes, tensors.collect(), self.width, &["latent", "reconstruction"])
    }
}
