//! Reads a [`Forest`] from the TreeEnsemble operator of an ONNX file (ai.onnx.ml).
//!
//! **Whatever the bytes are, the outcome is a forest that is safe to walk or a [`BundleError`]**:
//! indexes are checked, cycles and nodes that are reached twice or never are refused.
//!
//! All comparisons become `x <= t`: `<` uses the next smaller `f32`, `>=` and `>` swap the
//! children. `==` has no such form and is refused.

use std::collections::HashMap;

use tract_onnx::pb;
use tract_onnx::prelude::Framework as _;

use crate::error::BundleError;
use crate::forest::{Forest, NAN_LEFT, Node};

/// Deeper trees than this are a broken file, not a model.
const DEEPEST: u32 = 64;
/// What may stand in the graph beside the trees: it only dresses the result.
const AROUND: [&str; 3] = ["Cast", "Identity", "ZipMap"];

struct Reader<'f> {
    file: &'f str,
}

type Read<T> = Result<T, BundleError>;

/// Reads the trees of `bytes`, which take `width` inputs.
pub(crate) fn read(file: &str, bytes: &[u8], width: usize) -> Read<Forest> {
    let reader = Reader { file };
    let model = tract_onnx::onnx()
        .proto_model_for_read(&mut &*bytes)
        .map_err(|e| BundleError::Onnx { file: file.into(), source: e.into() })?;
    let graph = model.graph.ok_or_else(|| reader.wrong("there is no graph in it"))?;
    let mut ensemble = None;
    for node in &graph.node {
        match node.op_type.as_str() {
            "TreeEnsembleRegressor" | "TreeEnsembleClassifier" if ensemble.is_none() => ensemble = Some(node),
            "TreeEnsembleRegressor" | "TreeEnsembleClassifier" => {
                return Err(reader.wrong("there are two tree ensembles in it; one is needed"));
            }
            op if AROUND.contains(&op) => {}
            op => {
                let op = if node.domain.is_empty() { op.to_owned() } else { format!("{}.{op}", node.domain) };
                let known = "TreeEnsembleRegressor, TreeEnsembleClassifier".into();
                return Err(BundleError::UnknownOp { file: file.into(), op, known });
            }
        }
    }
    let node = ensemble.ok_or_else(|| reader.wrong("there is no tree ensemble in it"))?;
    reader.forest(&Attributes(&node.attribute), node.op_type == "TreeEnsembleClassifier", width)
}

struct Attributes<'a>(&'a [pb::AttributeProto]);

impl<'a> Attributes<'a> {
    fn get(&self, name: &str) -> Option<&'a pb::AttributeProto> {
        self.0.iter().find(|a| a.name == name)
    }
    fn ints(&self, name: &str) -> &'a [i64] {
        self.get(name).map_or(&[], |a| &a.ints)
    }
    fn floats(&self, name: &str) -> &'a [f32] {
        self.get(name).map_or(&[], |a| &a.floats)
    }
    fn text(&self, name: &str, or: &'static str) -> std::borrow::Cow<'a, str> {
        self.get(name).map_or(or.into(), |a| String::from_utf8_lossy(&a.s))
    }
}

/// One node as the file has it, its test already `x <= threshold`.
struct Raw {
    node: Node,
    leaf: bool,
    weight: f64,
    count: f64,
}

impl Reader<'_> {
    fn wrong(&self, message: impl Into<String>) -> BundleError {
        BundleError::Trees { file: self.file.into(), message: message.into() }
    }

    fn same_length(&self, name: &str, found: usize, expected: usize) -> Read<()> {
        if found == expected {
            return Ok(());
        }
        Err(self.wrong(format!("{name} has {found} entries where nodes_nodeids has {expected}")))
    }

    fn forest(&self, a: &Attributes<'_>, classifier: bool, width: usize) -> Read<Forest> {
        if let Some(attribute) = a.0.iter().find(|x| x.name.ends_with("_as_tensor")) {
            return Err(
                self.wrong(format!("{} is double precision; export the trees as float", attribute.name))
            );
        }
        let ids = a.ints("nodes_nodeids");
        let tree_ids = a.ints("nodes_treeids");
        if ids.is_empty() {
            return Err(self.wrong("the ensemble has no nodes"));
        }
        if u32::try_from(ids.len()).is_err() {
            return Err(self.wrong("the ensemble has too many nodes"));
        }
        self.same_length("nodes_treeids", tree_ids.len(), ids.len())?;
        let mut places = HashMap::with_capacity(ids.len());
        for (place, key) in tree_ids.iter().copied().zip(ids.iter().copied()).enumerate() {
            if places.insert(key, place as u32).is_some() {
                return Err(self.wrong(format!("node {} of tree {} stands twice", key.1, key.0)));
            }
        }
        let mut raw = self.nodes(a, &places, width)?;
        self.weights(a, classifier, &places, &mut raw)?;
        let base = self.base(a, classifier)?;
        let counted = a.get("nodes_hitrates").is_some_and(|h| h.floats.len() == ids.len());
        self.lay_out(&raw, tree_ids, ids, base, width, counted)
    }

    fn nodes(&self, a: &Attributes<'_>, places: &HashMap<(i64, i64), u32>, width: usize) -> Read<Vec<Raw>> {
        let (ids, tree_ids) = (a.ints("nodes_nodeids"), a.ints("nodes_treeids"));
        let (features, values) = (a.ints("nodes_featureids"), a.floats("nodes_values"));
        let (trues, falses) = (a.ints("nodes_truenodeids"), a.ints("nodes_falsenodeids"));
        let modes = a.get("nodes_modes").map_or(&[][..], |m| &m.strings);
        let (tracks, counts) = (a.ints("nodes_missing_value_tracks_true"), a.floats("nodes_hitrates"));
        let lengths = [
            ("nodes_featureids", features.len()),
            ("nodes_values", values.len()),
            ("nodes_truenodeids", trues.len()),
            ("nodes_falsenodeids", falses.len()),
            ("nodes_modes", modes.len()),
        ];
        for (name, found) in lengths {
            self.same_length(name, found, ids.len())?;
        }
        for (name, found) in
            [("nodes_missing_value_tracks_true", tracks.len()), ("nodes_hitrates", counts.len())]
        {
            if found != 0 {
                self.same_length(name, found, ids.len())?;
            }
        }
        (0..ids.len())
            .map(|i| {
                let at = || format!("node {} of tree {}", ids[i], tree_ids[i]);
                let count = counts.get(i).map_or(0.0, |c| f64::from(*c));
                let here = i as u32;
                let leaf = modes[i] == b"LEAF";
                if leaf {
                    let node = Node { threshold: 0.0, feature: 0, left: here, right: here };
                    return Ok(Raw { node, leaf, weight: 0.0, count });
                }
                let child = |id: i64| {
                    places
                        .get(&(tree_ids[i], id))
                        .copied()
                        .ok_or_else(|| self.wrong(format!("{} leads to node {id}, which is not there", at())))
                };
                let (on_true, on_false) = (child(trues[i])?, child(falses[i])?);
                let feature = usize::try_from(features[i]).ok().filter(|f| *f < width);
                let feature = feature.ok_or_else(|| BundleError::Width {
                    file: self.file.into(),
                    what: format!("{} uses input {}; a row", at(), features[i]),
                    expected: width,
                    found: format!("at least {}", features[i].saturating_add(1)),
                })? as u32;
                let t = values[i];
                if !t.is_finite() {
                    return Err(self.wrong(format!("{} has the threshold {t}", at())));
                }
                let missing_true = tracks.get(i).is_some_and(|m| *m != 0);
                let (threshold, swapped) = match modes[i].as_slice() {
                    b"BRANCH_LEQ" => (t, false),
                    b"BRANCH_LT" => (t.next_down(), false),
                    b"BRANCH_GTE" => (t.next_down(), true),
                    b"BRANCH_GT" => (t, true),
                    mode => {
                        let mode = String::from_utf8_lossy(mode);
                        let what = "LEAF, BRANCH_LEQ, BRANCH_LT, BRANCH_GTE or BRANCH_GT";
                        return Err(
                            self.wrong(format!("{} has the mode {mode}; castwatch knows {what}", at()))
                        );
                    }
                };
                let (left, right) = if swapped { (on_false, on_true) } else { (on_true, on_false) };
                let nan = if missing_true != swapped { NAN_LEFT } else { 0 };
                Ok(Raw {
                    node: Node { threshold, feature: feature | nan, left, right },
                    leaf,
                    weight: 0.0,
                    count,
                })
            })
            .collect()
    }

    /// Adds what the leaves are worth in log-odds of a defect.
    fn weights(
        &self,
        a: &Attributes<'_>,
        classifier: bool,
        places: &HashMap<(i64, i64), u32>,
        raw: &mut [Raw],
    ) -> Read<()> {
        let prefix = if classifier { "class" } else { "target" };
        let part = |name: &str| a.ints(&format!("{prefix}_{name}"));
        let (ids, trees, nodes) = (part("ids"), part("treeids"), part("nodeids"));
        let weights = a.floats(&format!("{prefix}_weights"));
        if [trees.len(), nodes.len(), weights.len()] != [ids.len(); 3] {
            return Err(self.wrong(format!("the attributes {prefix}_* are of different lengths")));
        }
        let sign = self.signs(a, classifier, ids)?;
        for (((id, tree), node), weight) in ids.iter().zip(trees).zip(nodes).zip(weights) {
            let place = places.get(&(*tree, *node)).map(|p| *p as usize);
            let leaf = place.filter(|p| raw[*p].leaf);
            let Some(leaf) = leaf else {
                return Err(
                    self.wrong(format!("a weight is on node {node} of tree {tree}, which is not a leaf"))
                );
            };
            if !weight.is_finite() {
                return Err(self.wrong(format!("the weight of node {node} of tree {tree} is {weight}")));
            }
            raw[leaf].weight += sign(*id) * f64::from(*weight);
        }
        Ok(())
    }

    /// What one unit of a class or target adds to the log-odds of a defect.
    fn signs(&self, a: &Attributes<'_>, classifier: bool, ids: &[i64]) -> Read<fn(i64) -> f64> {
        let post = a.text("post_transform", "NONE");
        if !classifier {
            if a.get("n_targets").is_some_and(|n| n.i > 1) || ids.iter().any(|id| *id != 0) {
                return Err(self.wrong("the regressor has several targets; one is needed, the log-odds"));
            }
            if a.text("aggregate_function", "SUM") != "SUM" {
                return Err(self.wrong("aggregate_function must be SUM"));
            }
            return match &*post {
                "NONE" | "LOGISTIC" => Ok(|_| 1.0),
                _ => Err(self.wrong(format!("post_transform must be NONE or LOGISTIC, not {post}"))),
            };
        }
        let classes = a
            .ints("classlabels_int64s")
            .len()
            .max(a.get("classlabels_strings").map_or(0, |c| c.strings.len()));
        if classes != 2 || ids.iter().any(|id| !(0..2).contains(id)) {
            return Err(self.wrong(format!("the classifier has {classes} classes; good and defect make two")));
        }
        let both = ids.contains(&0) && ids.contains(&1);
        match (&*post, both) {
            // With weights for one class only, they speak for the second whatever its id.
            ("LOGISTIC", false) => Ok(|_| 1.0),
            ("LOGISTIC", true) => Ok(|id| if id == 1 { 1.0 } else { 0.0 }),
            ("SOFTMAX", true) => Ok(|id| if id == 1 { 1.0 } else { -1.0 }),
            _ => Err(self.wrong(format!("post_transform {post} of this classifier gives no log-odds"))),
        }
    }

    fn base(&self, a: &Attributes<'_>, classifier: bool) -> Read<f64> {
        let base = match a.floats("base_values") {
            [] => 0.0,
            [one] => f64::from(*one),
            [good, defect] if classifier => match &*a.text("post_transform", "NONE") {
                "SOFTMAX" => f64::from(*defect) - f64::from(*good),
                _ => f64::from(*defect),
            },
            more => {
                let found = more.len();
                return Err(
                    self.wrong(format!("base_values has {found} entries where one log-odds is needed"))
                );
            }
        };
        if base.is_finite() { Ok(base) } else { Err(self.wrong("base_values is not a number")) }
    }

    /// Puts the nodes tree by tree and breadth first, checking that each is reached exactly once.
    fn lay_out(
        &self,
        raw: &[Raw],
        tree_ids: &[i64],
        ids: &[i64],
        base: f64,
        width: usize,
        counted: bool,
    ) -> Read<Forest> {
        let mut child = vec![false; raw.len()];
        for node in raw.iter().filter(|r| !r.leaf) {
            child[node.node.left as usize] = true;
            child[node.node.right as usize] = true;
        }
        let mut forest = Forest {
            nodes: Vec::with_capacity(raw.len()),
            values: Vec::with_capacity(raw.len()),
            counts: counted.then(|| Vec::with_capacity(raw.len())),
            trees: Vec::new(),
            base,
            width,
        };
        let mut reached = vec![false; raw.len()];
        let mut rooted = HashMap::new();
        for root in (0..raw.len()).filter(|i| !child[*i]) {
            if rooted.insert(tree_ids[root], root).is_some() {
                return Err(self.wrong(format!("tree {} has two roots", tree_ids[root])));
            }
            let first = forest.nodes.len() as u32;
            let mut level = vec![root as u32];
            let mut depth = 0;
            while !level.is_empty() {
                let next_level = forest.nodes.len() as u32 + level.len() as u32;
                let mut below = Vec::new();
                for at in &level {
                    let at = *at as usize;
                    if std::mem::replace(&mut reached[at], true) {
                        return Err(
                            self.wrong(format!("node {} of tree {} is reached twice", ids[at], tree_ids[at]))
                        );
                    }
                    let mut node = raw[at].node;
                    if raw[at].leaf {
                        let here = forest.nodes.len() as u32;
                        (node.left, node.right) = (here, here);
                    } else {
                        let left = next_level + below.len() as u32;
                        below.extend([node.left, node.right]);
                        (node.left, node.right) = (left, left + 1);
                    }
                    forest.nodes.push(node);
                    forest.values.push(raw[at].weight as f32);
                    if let Some(counts) = &mut forest.counts {
                        counts.push(raw[at].count);
                    }
                }
                if !below.is_empty() {
                    depth += 1;
                }
                if depth > DEEPEST {
                    return Err(self.wrong(format!("tree {} is deeper than {DEEPEST}", tree_ids[root])));
                }
                level = below;
            }
            forest.trees.push((first, depth));
        }
        if let Some(lost) = reached.iter().position(|r| !r) {
            let (node, tree) = (ids[lost], tree_ids[lost]);
            return Err(self
                .wrong(format!("node {node} of tree {tree} is not reached from a root: it is in a circle")));
        }
        // Counts that do not add up (some exporters write 1 everywhere) are as good as none.
        if let Some(counts) = &forest.counts {
            let sound = forest.nodes.iter().zip(counts).enumerate().all(|(at, (node, count))| {
                let (l, r) = (counts[node.left as usize], counts[node.right as usize]);
                *count > 0.0 && (forest.is_leaf(at as u32) || (l + r - count).abs() <= 1e-6 * count)
            });
            if !sound {
                forest.counts = None;
            }
        }
        Ok(forest)
    }
}
