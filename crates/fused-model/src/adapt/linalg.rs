//! The small dense systems of the fits, in double precision.

/// A symmetric positive definite matrix as its lower Cholesky factor.
#[derive(Debug)]
pub(super) struct Cholesky {
    n: usize,
    /// Rows of the factor, `(n, n)`; above the diagonal is nothing of use.
    rows: Vec<f64>,
}

impl Cholesky {
    /// Factors `matrix (n, n) + ridge * mean of its diagonal * I`. `None` where rounding leaves it without a factor.
    pub(super) fn of_ridged(matrix: &[f32], n: usize, ridge: f64) -> Option<Self> {
        let mut rows: Vec<f64> = matrix.iter().map(|&value| f64::from(value)).collect();
        let mean = (0..n).map(|i| rows[i * n + i]).sum::<f64>() / n as f64;
        for i in 0..n {
            rows[i * n + i] += ridge * mean;
        }
        for i in 0..n {
            let (above, here) = rows.split_at_mut(i * n);
            for j in 0..=i {
                let pivot = if j < i { &above[j * n..j * n + j] } else { &here[..0] };
                let dot: f64 = if j < i {
                    pivot.iter().zip(&here[..j]).map(|(a, b)| a * b).sum()
                } else {
                    here[..i].iter().map(|a| a * a).sum()
                };
                let rest = here[j] - dot;
                here[j] = if j < i { rest / above[j * n + j] } else { rest.sqrt() };
            }
            if here[i].is_nan() || here[i] == 0.0 {
                return None;
            }
        }
        Some(Self { n, rows })
    }

    /// The solution of `A x = b`, in place.
    pub(super) fn solve(&self, b: &mut [f64]) {
        let n = self.n;
        for i in 0..n {
            let row = &self.rows[i * n..i * n + i];
            let dot: f64 = row.iter().zip(&b[..i]).map(|(a, x)| a * x).sum();
            b[i] = (b[i] - dot) / self.rows[i * n + i];
        }
        for i in (0..n).rev() {
            b[i] /= self.rows[i * n + i];
            let (done, x) = (b[i], &self.rows[i * n..i * n + i]);
            b[..i].iter_mut().zip(x).for_each(|(b, a)| *b -= a * done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn solutions_solve_and_indefinite_matrices_are_refused() {
        let n = 7;
        let mut rng = Rng::new(3);
        let root: Vec<f32> = (0..n * n).map(|_| rng.normal()).collect();
        let product = |i: usize, j: usize| (0..n).map(|k| root[i * n + k] * root[j * n + k]).sum::<f32>();
        let matrix: Vec<f32> = (0..n * n).map(|at| product(at / n, at % n)).collect();
        let want: Vec<f64> = (0..n).map(|i| i as f64 - 2.5).collect();
        let ridge = 0.01;
        let mean = (0..n).map(|i| f64::from(matrix[i * n + i])).sum::<f64>() / n as f64;
        let mut b: Vec<f64> = (0..n)
            .map(|i| {
                let dot: f64 = (0..n).map(|j| f64::from(matrix[i * n + j]) * want[j]).sum();
                dot + ridge * mean * want[i]
            })
            .collect();
        Cholesky::of_ridged(&matrix, n, ridge).unwrap().solve(&mut b);
        assert!(
            b.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-8),
            "{b:?}"
        );
        assert!(Cholesky::of_ridged(&[1.0, 2.0, 2.0, 1.0], 2, 0.0).is_none());
    }
}
