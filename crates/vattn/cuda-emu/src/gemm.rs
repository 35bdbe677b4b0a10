//! Matrix products, in place of cuBLAS.

use std::collections::BTreeMap;

use crate::code::{Code, Outcome, Refusal};
use crate::memory::{DeviceMemory, Fault, Memory};

/// `cublasSgemm`: `c = alpha * op(a) op(b) + beta * c` in f32. Matrices lie column by column; `op(a)` is `(m, k)`, `op(b)` is
/// `(k, n)`, `c` is `(m, n)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gemm {
    /// Rows of `op(a)` and `c`.
    pub m: u64,
    /// Columns of `op(b)` and `c`.
    pub n: u64,
    /// Columns of `op(a)` and rows of `op(b)`.
    pub k: u64,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of what `c` holds; with 0 it is not read.
    pub beta: f32,
    /// The left matrix.
    pub a: Matrix,
    /// The right matrix.
    pub b: Matrix,
    /// The result.
    pub c: Matrix,
}

/// A matrix in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Its first element.
    pub address: u64,
    /// Elements from column to column.
    pub leading: u64,
    /// Whether the product takes it transposed.
    pub transposed: bool,
}

impl Matrix {
    /// Rows and columns as stored, of a matrix that the product takes as `(rows, columns)`.
    fn stored(&self, rows: u64, columns: u64) -> (u64, u64) {
        match self.transposed {
            true => (columns, rows),
            false => (rows, columns),
        }
    }

    fn at(&self, row: u64, column: u64) -> u64 {
        self.address + (column * self.leading + row) * 4
    }

    /// All elements, row by row as the product takes them.
    fn read(&self, memory: &Memory, rows: u64, columns: u64) -> Result<Vec<f32>, Fault> {
        let (stored_rows, stored_columns) = self.stored(rows, columns);
        let mut elements = vec![0.0; (rows * columns) as usize];
        let mut bytes = vec![0; stored_rows as usize * 4];
        for column in 0..stored_columns {
            memory.read(self.at(0, column), &mut bytes)?;
            for (row, element) in (0..).zip(bytes.as_chunks::<4>().0) {
                let index = match self.transposed {
                    true => column * columns + row,
                    false => row * columns + column,
                };
                elements[index as usize] = f32::from_le_bytes(*element);
            }
        }
        Ok(elements)
    }
}

impl Gemm {
    /// Checks what the call says before any memory is touched.
    ///
    /// # Errors
    ///
    /// A column is longer than the distance to the next.
    pub fn check(&self) -> Outcome {
        let matrices = [
            ("a", self.a, self.m, self.k),
            ("b", self.b, self.k, self.n),
            ("c", self.c, self.m, self.n),
        ];
        for (name, matrix, rows, columns) in matrices {
            let (rows, _) = matrix.stored(rows, columns);
            if matrix.leading < rows.max(1) {
                let why = format!("columns of {name} are {rows} long and {} apart", matrix.leading);
                return Err(Refusal::invalid(why));
            }
        }
        Ok(())
    }

    /// Computes it. Sums are f64, rounded once.
    ///
    /// # Errors
    ///
    /// A matrix is not where it is said to be.
    pub fn run(&self, memory: &mut Memory) -> Result<(), Fault> {
        let Self { m, n, k, .. } = *self;
        let (a, b) = (self.a.read(memory, m, k)?, self.b.read(memory, k, n)?);
        let mut bytes = vec![0; m as usize * 4];
        for column in 0..n {
            let address = self.c.at(0, column);
            if self.beta != 0.0 {
                memory.read(address, &mut bytes)?;
            }
            for (row, element) in (0..).zip(bytes.as_chunks_mut::<4>().0) {
                let terms = (0..k).map(|i| {
                    let (left, right) = (a[(row * k + i) as usize], b[(i * n + column) as usize]);
                    f64::from(left) * f64::from(right)
                });
                let mut sum = terms.sum::<f64>() * f64::from(self.alpha);
                if self.beta != 0.0 {
                    sum += f64::from(self.beta) * f64::from(f32::from_le_bytes(*element));
                }
                *element = (sum as f32).to_le_bytes();
            }
            memory.write(address, &bytes)?;
        }
        Ok(())
    }
}

/// Handles of cuBLAS and cuRAND, each with the stream that its work goes to.
#[derive(Debug, Default)]
pub struct Libraries {
    streams: BTreeMap<u64, u64>,
    made: u64,
}

impl Libraries {
    /// A new handle, on the legacy default stream.
    pub fn create(&mut self) -> u64 {
        self.made += 1;
        let handle = 0x2000_0000 + 0x10 * self.made;
        self.streams.insert(handle, 0);
        handle
    }

    /// Takes a handle away.
    ///
    /// # Errors
    ///
    /// It does not exist.
    pub fn destroy(&mut self, handle: u64) -> Outcome {
        self.stream(handle)?;
        self.streams.remove(&handle);
        Ok(())
    }

    /// Sets the stream, as the caller names it, of a handle.
    ///
    /// # Errors
    ///
    /// The handle does not exist.
    pub fn set_stream(&mut self, handle: u64, stream: u64) -> Outcome {
        self.stream(handle)?;
        self.streams.insert(handle, stream);
        Ok(())
    }

    /// The stream of a handle, as the caller named it.
    ///
    /// # Errors
    ///
    /// The handle does not exist.
    pub fn stream(&self, handle: u64) -> Outcome<u64> {
        let stream = self.streams.get(&handle).copied();
        stream.ok_or_else(|| {
            Refusal::new(
                Code::InvalidHandle,
                format!("library handle {handle:#x} does not exist"),
            )
        })
    }

    /// Handles that exist.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.streams.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knobs::Knobs;

    /// Device memory with these floats in it, and their address.
    fn place(memory: &mut Memory, floats: &[f32]) -> u64 {
        let address = memory.allocate(floats.len() as u64 * 4, false).unwrap();
        let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        memory.write(address, &bytes).unwrap();
        address
    }

    fn floats(memory: &Memory, address: u64, count: usize) -> Vec<f32> {
        let mut bytes = vec![0; count * 4];
        memory.read(address, &mut bytes).unwrap();
        let (chunks, _) = bytes.as_chunks::<4>();
        chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
    }

    fn matrix(address: u64, leading: u64, transposed: bool) -> Matrix {
        Matrix {
            address,
            leading,
            transposed,
        }
    }

    #[test]
    fn products_are_those_of_the_definition() {
        let mut memory = Memory::new(&Knobs::default());
        // a = [1 2 3; 4 5 6], b = [1 0; 2 1; 0 3], ab = [5 11; 14 23].
        let columns = place(&mut memory, &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let rows = place(&mut memory, &[1.0, 2.0, 3.0, -9.0, 4.0, 5.0, 6.0, -9.0]);
        let b = place(&mut memory, &[1.0, 2.0, 0.0, 0.0, 1.0, 3.0]);
        let b_rows = place(&mut memory, &[1.0, 0.0, 2.0, 1.0, 0.0, 3.0]);
        for a in [matrix(columns, 2, false), matrix(rows, 4, true)] {
            for b in [matrix(b, 3, false), matrix(b_rows, 2, true)] {
                for (beta, expected) in [
                    (0.0, [10.0, 28.0, -1.0, 22.0, 46.0]),
                    (1.0, [11.0, 29.0, -1.0, 23.0, 47.0]),
                ] {
                    let old = if beta == 0.0 { f32::NAN } else { 1.0 };
                    let c = place(&mut memory, &[old, old, -1.0, old, old]);
                    let gemm = Gemm {
                        m: 2,
                        n: 2,
                        k: 3,
                        alpha: 2.0,
                        beta,
                        a,
                        b,
                        c: matrix(c, 3, false),
                    };
                    gemm.check().unwrap();
                    gemm.run(&mut memory).unwrap();
                    assert_eq!(floats(&memory, c, 5), expected);
                }
            }
        }
    }

    #[test]
    fn columns_that_overlap_and_memory_that_is_not_there_are_refused() {
        let mut memory = Memory::new(&Knobs::default());
        let there = place(&mut memory, &[1.0; 4]);
        let good = Gemm {
            m: 2,
            n: 2,
            k: 2,
            alpha: 1.0,
            beta: 0.0,
            a: matrix(there, 2, false),
            b: matrix(there, 2, false),
            c: matrix(there, 2, false),
        };
        assert!(good.check().is_ok() && good.run(&mut memory).is_ok());
        for part in ["a", "b", "c"] {
            let (mut close, mut away) = (good, good);
            for (gemm, change) in [(&mut close, false), (&mut away, true)] {
                let matrix = match part {
                    "a" => &mut gemm.a,
                    "b" => &mut gemm.b,
                    _ => &mut gemm.c,
                };
                *matrix = match change {
                    false => Matrix { leading: 1, ..*matrix },
                    true => Matrix { address: 64, ..*matrix },
                };
            }
            assert!(close.check().unwrap_err().why.contains(&format!("columns of {part}")));
            assert!(away.check().is_ok() && away.run(&mut memory).is_err(), "{part}");
        }
    }

    #[test]
    fn handles_live_until_they_are_destroyed() {
        let mut libraries = Libraries::default();
        let handle = libraries.create();
        assert_eq!((libraries.stream(handle).unwrap(), libraries.live()), (0, 1));
        libraries.set_stream(handle, 2).unwrap();
        assert_eq!(libraries.stream(handle).unwrap(), 2);
        libraries.destroy(handle).unwrap();
        assert!(libraries.destroy(handle).is_err() && libraries.set_stream(handle, 0).is_err());
        assert_eq!(libraries.live(), 0);
    }
}
