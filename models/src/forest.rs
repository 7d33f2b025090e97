//! The trees in a flat layout, walked eight at a time.
//!
//! **A [`Forest`] that exists can't be walked out of bounds or for ever**: children are in range,
//! every node is reached once, a leaf leads to itself. The margin is the sum of `f32` leaves in
//! `f64`; every test is `x <= threshold` in `f32`, and a missing value goes where its node says.

/// One node in 16 bytes. A leaf leads to itself whatever the value is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) threshold: f32,
    /// Index of the input; [`NAN_LEFT`] says where a missing value goes.
    pub(crate) feature: u32,
    pub(crate) left: u32,
    pub(crate) right: u32,
}

/// Set in [`Node::feature`] when a missing value goes left.
pub(crate) const NAN_LEFT: u32 = 1 << 31;

impl Node {
    pub(crate) fn input(&self) -> usize {
        (self.feature & !NAN_LEFT) as usize
    }

    pub(crate) fn missing_goes_left(&self) -> bool {
        self.feature & NAN_LEFT != 0
    }

    fn next(&self, row: &[f32]) -> u32 {
        let x = row[self.input()];
        let left = (x <= self.threshold) | (x.is_nan() & self.missing_goes_left());
        if left { self.left } else { self.right }
    }
}

/// Trees, checked.
#[derive(Clone, Debug)]
pub(crate) struct Forest {
    /// Tree by tree, breadth first.
    pub(crate) nodes: Vec<Node>,
    /// What a leaf adds; 0 at branches.
    pub(crate) values: Vec<f32>,
    /// Training shots at each node, when the file tells.
    pub(crate) counts: Option<Vec<f64>>,
    /// Root and depth of each tree.
    pub(crate) trees: Vec<(u32, u32)>,
    /// The margin before the first tree.
    pub(crate) base: f64,
    /// So many inputs does a row have.
    pub(crate) width: usize,
}

impl Forest {
    pub(crate) fn is_leaf(&self, at: u32) -> bool {
        self.nodes[at as usize].left == at
    }

    /// The log-odds of a row of [`Forest::width`] inputs.
    pub(crate) fn margin(&self, row: &[f32]) -> f64 {
        debug_assert_eq!(row.len(), self.width);
        let mut sum = self.base;
        // Eight walks at a time: one walk waits for memory at every step, eight overlap.
        for group in self.trees.chunks(8) {
            let mut at = [group[0].0; 8];
            let mut depth = 0;
            for (place, (root, deep)) in at.iter_mut().zip(group) {
                *place = *root;
                depth = depth.max(*deep);
            }
            for _ in 0..depth {
                for place in &mut at {
                    *place = self.nodes[*place as usize].next(row);
                }
            }
            // Added up by four, so that sums stay what they were, to the last bit.
            for leaves in at[..group.len()].chunks(4) {
                sum += leaves.iter().map(|leaf| f64::from(self.values[*leaf as usize])).sum::<f64>();
            }
        }
        sum
    }
}
