//! From the trees' log-odds to a probability that means what it says.

use castwatch_core::spec::Table;

/// How a margin becomes a probability; never falling.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Calibration {
    /// The logistic function alone.
    None,
    /// `logistic(a·margin + b)`.
    Platt { a: f64, b: f64 },
    /// Straight lines between points of margin and probability, level outside them.
    Isotonic { margins: Vec<f64>, probabilities: Vec<f64> },
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Calibration {
    pub(crate) fn read(t: &mut Table<'_>) -> Self {
        #[derive(Clone, Copy)]
        enum Kind {
            None,
            Platt,
            Isotonic,
        }
        let kinds = [("none", Kind::None), ("platt", Kind::Platt), ("isotonic", Kind::Isotonic)];
        match t.choice("kind", &kinds) {
            Some(Kind::Platt) => {
                let a = t.need_number("a", "the factor of the margin, above 0");
                if a <= 0.0 && t.has("a") {
                    t.report("a", "must be above 0");
                }
                Self::Platt { a, b: t.need_number("b", "what is added to the scaled margin") }
            }
            Some(Kind::Isotonic) => {
                let margins = t.numbers("margins").unwrap_or_default();
                let probabilities = t.numbers("probabilities").unwrap_or_default();
                if margins.is_empty() || margins.windows(2).any(|m| m[0] >= m[1]) {
                    t.report("margins", "must be rising numbers, at least one");
                }
                let falls = probabilities.windows(2).any(|p| p[0] > p[1]);
                let outside = probabilities.iter().any(|p| !(0.0..=1.0).contains(p));
                if probabilities.len() != margins.len() || falls || outside {
                    t.report("probabilities", "must be one probability per margin, never falling");
                }
                Self::Isotonic { margins, probabilities }
            }
            Some(Kind::None) => Self::None,
            None => {
                if !t.has("kind") {
                    t.missing("kind", "none, platt or isotonic");
                }
                Self::None
            }
        }
    }

    pub(crate) fn probability(&self, margin: f64) -> f64 {
        match self {
            Self::None => logistic(margin),
            Self::Platt { a, b } => logistic(a * margin + b),
            Self::Isotonic { margins, probabilities } => {
                let right = margins.partition_point(|m| *m <= margin);
                if right == 0 {
                    return probabilities[0];
                }
                if right == margins.len() {
                    return probabilities[right - 1];
                }
                let (m0, m1) = (margins[right - 1], margins[right]);
                let (p0, p1) = (probabilities[right - 1], probabilities[right]);
                p0 + (p1 - p0) * ((margin - m0) / (m1 - m0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_rise_with_the_margin() {
        let isotonic =
            Calibration::Isotonic { margins: vec![-2.0, 0.0, 3.0], probabilities: vec![0.01, 0.2, 0.9] };
        assert_eq!(isotonic.probability(-9.0), 0.01);
        assert_eq!(isotonic.probability(-2.0), 0.01);
        assert!((isotonic.probability(-1.0) - 0.105).abs() < 1e-12);
        assert_eq!(isotonic.probability(0.0), 0.2);
        assert_eq!(isotonic.probability(3.0), 0.9);
        assert_eq!(isotonic.probability(9.0), 0.9);
        assert_eq!(Calibration::None.probability(0.0), 0.5);
        let platt = Calibration::Platt { a: 2.0, b: -1.0 };
        assert_eq!(platt.probability(0.5), 0.5);
        for c in [isotonic, platt, Calibration::None] {
            let curve: Vec<f64> = (-800..800).map(|m| c.probability(f64::from(m))).collect();
            assert!(curve.windows(2).all(|p| p[0] <= p[1]) && curve.iter().all(|p| (0.0..=1.0).contains(p)));
        }
    }
}
