//! Matrix products on strided slices, by the `gemm-f32` crate.
#![allow(unsafe_code)] // gemm takes pointers; every view is bounds-checked before the call

/// A read-only matrix inside a slice: element (r, c) is `data[r * row_stride + c * col_stride]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Rows of `cols` elements, `stride` apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(
            rows == 0 || cols == 0 || (rows - 1) * stride + cols <= data.len(),
            "matrix view past its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride: stride,
            col_stride: 1,
        }
    }

    /// Packed rows.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    pub(crate) fn rows(self) -> usize {
        self.rows
    }

    pub(crate) fn cols(self) -> usize {
        self.cols
    }

    /// The transpose, as another view.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// What happens to the old contents of the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// They are overwritten.
    Set,
    /// The product is added to them.
    Add,
}

/// `out (m,n) = scale * a (m,k) @ b (k,n)`, rows of `out` being `stride` apart.
///
/// Single-threaded: callers split rows or batches over threads themselves.
pub(crate) fn matmul(out: &mut [f32], stride: usize, into: Into, a: Mat<'_>, b: Mat<'_>, scale: f32) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(k, b.rows, "inner sizes of a product");
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        (m - 1) * stride + n <= out.len() && n <= stride,
        "product past its slice"
    );
    // The kernel stores whole registers along columns, so a destination of packed rows is given to it as the
    // transposed problem, outᵀ (n,m) = bᵀ @ aᵀ; without this a product takes more than twice the time.
    //
    // SAFETY: `Mat` was built over a slice that holds its last element (checked in `strided`; `t` keeps the
    // extent), the assert above says the same of `out`, and `out` is borrowed mutably so nothing overlaps it.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            n,
            m,
            k,
            out.as_mut_ptr(),
            stride as isize,
            1,
            into == Into::Add,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.col_stride as isize,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.col_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_views_and_transposes() {
        let a: Vec<f32> = (0..12).map(|i| i as f32).collect(); // 3x4, of which 3x2 at stride 4
        let b = [1.0, 2.0, 3.0, 4.0]; // 2x2
        let mut out = [10.0; 9]; // 3x2 at stride 3
        matmul(
            &mut out,
            3,
            Into::Set,
            Mat::strided(&a, 3, 2, 4),
            Mat::new(&b, 2, 2),
            1.0,
        );
        assert_eq!(out, [3.0, 4.0, 10.0, 19.0, 28.0, 10.0, 35.0, 52.0, 10.0]);
        matmul(
            &mut out,
            3,
            Into::Add,
            Mat::strided(&a, 3, 2, 4),
            Mat::new(&b, 2, 2).t(),
            0.5,
        );
        assert_eq!(out, [4.0, 6.0, 10.0, 26.0, 44.0, 10.0, 48.0, 82.0, 10.0]);
    }
}
