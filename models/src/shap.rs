//! Exact path-dependent Shapley values of a [`Forest`], in `f64`.
//!
//! **Base and values add up to the margin**: they are the one fair split of the difference between
//! the row's margin and the average one, where a value that is not known is averaged over the
//! training shots below each node (Lundberg's TreeSHAP).
//!
//! A leaf is a product game over the inputs on its path: input `i` is *in* (its interval holds the
//! row's value: factor 1) or *out* (factor `zᵢ`, the share of training shots that went this way).
//! For a row that passes the tests of the inputs `A` and fails those of `B`, only subsets of `A`
//! count, so with `P = Π_{j∈A}(zⱼ + y)` the value of each input follows from the coefficients of
//! `P` and of `P / (zᵢ + y)`; the division is by a monic factor with `zᵢ <= 1` and loses nothing.

use crate::forest::Forest;

/// One input on the path to a leaf.
#[derive(Clone, Copy, Debug)]
struct Step {
    input: u32,
    /// The row's value passes when `above < x <= most`.
    above: f32,
    most: f32,
    missing_passes: bool,
    /// Share of the training shots that pass.
    share: f64,
}

#[derive(Clone, Debug)]
struct Leaf {
    value: f64,
    /// Its path among the steps.
    from: usize,
    to: usize,
}

/// A forest laid out by leaves.
#[derive(Clone, Debug)]
pub(crate) struct Explainer {
    leaves: Vec<Leaf>,
    steps: Vec<Step>,
    base: f64,
    width: usize,
    /// `weights[m][s]` = s!(m−s−1)!/m!, the weight of a coalition of s among m inputs.
    weights: Vec<Vec<f64>>,
}

impl Explainer {
    /// Lays out a forest; `None` when it has no training counts.
    pub(crate) fn new(forest: &Forest) -> Option<Self> {
        let counts = forest.counts.as_ref()?;
        let mut it = Self {
            leaves: Vec::new(),
            steps: Vec::new(),
            base: forest.base,
            width: forest.width,
            weights: vec![vec![]],
        };
        let mut longest = 0;
        for (root, _) in &forest.trees {
            let mut stack: Vec<(u32, Vec<Step>)> = vec![(*root, Vec::new())];
            while let Some((at, path)) = stack.pop() {
                let node = forest.nodes[at as usize];
                if forest.is_leaf(at) {
                    let value = f64::from(forest.values[at as usize]);
                    it.base += value * path.iter().map(|s| s.share).product::<f64>();
                    longest = longest.max(path.len());
                    let from = it.steps.len();
                    it.steps.extend(path);
                    it.leaves.push(Leaf { value, from, to: it.steps.len() });
                    continue;
                }
                let (l, r) = (counts[node.left as usize], counts[node.right as usize]);
                for (child, share, left) in [(node.left, l / (l + r), true), (node.right, r / (l + r), false)]
                {
                    let mut path = path.clone();
                    let input = node.input() as u32;
                    let place = path.iter().position(|s| s.input == input).unwrap_or_else(|| {
                        let all = Step {
                            input,
                            above: f32::NEG_INFINITY,
                            most: f32::INFINITY,
                            missing_passes: true,
                            share: 1.0,
                        };
                        path.push(all);
                        path.len() - 1
                    });
                    let step = &mut path[place];
                    if left {
                        step.most = step.most.min(node.threshold);
                    } else {
                        step.above = step.above.max(node.threshold);
                    }
                    step.missing_passes &= node.missing_goes_left() == left;
                    step.share *= share;
                    stack.push((child, path));
                }
            }
        }
        for m in 1..=longest {
            // w(0) = 1/m, w(s) = w(s−1)·s/(m−s)
            let mut w = vec![1.0 / m as f64];
            for s in 1..m {
                w.push(w[s - 1] * s as f64 / (m - s) as f64);
            }
            it.weights.push(w);
        }
        Some(it)
    }

    /// The average margin.
    pub(crate) fn base(&self) -> f64 {
        self.base
    }

    /// What each input adds to the margin of `row`.
    pub(crate) fn values(&self, row: &[f32]) -> Vec<f64> {
        let mut phi = vec![0.0; self.width];
        let mut poly: Vec<f64> = Vec::new();
        for leaf in &self.leaves {
            let path = &self.steps[leaf.from..leaf.to];
            if path.is_empty() {
                continue;
            }
            let passes = |s: &Step| {
                let x = row[s.input as usize];
                if x.is_nan() { s.missing_passes } else { s.above < x && x <= s.most }
            };
            // Coefficients of P by rising power of y, and the product of the shares that fail.
            poly.clear();
            poly.push(1.0);
            let mut out = leaf.value;
            for step in path {
                if passes(step) {
                    poly.push(1.0);
                    for s in (1..poly.len() - 1).rev() {
                        poly[s] = poly[s] * step.share + poly[s - 1];
                    }
                    poly[0] *= step.share;
                } else {
                    out *= step.share;
                }
            }
            let inside = poly.len() - 1;
            let w = &self.weights[path.len()];
            let failed = if inside < path.len() {
                -out * poly.iter().zip(w).map(|(p, w)| p * w).sum::<f64>()
            } else {
                0.0
            };
            for step in path {
                phi[step.input as usize] += if passes(step) {
                    // Divides P by (share + y) from the highest power down and sums on the way.
                    let mut q = 1.0;
                    let mut sum = w[inside - 1];
                    for s in (1..inside).rev() {
                        q = poly[s] - step.share * q;
                        sum += q * w[s - 1];
                    }
                    out * (1.0 - step.share) * sum
                } else {
                    failed
                };
            }
        }
        phi
    }
}
