//! How rows are cut into tiles, and where a product goes.
#![allow(unsafe_code)] // threads write disjoint columns of one matrix

use std::marker::PhantomData;
use std::ops::Range;

use crate::kernels::vector::{Float, LANES};

/// Outputs in a panel.
pub(super) const PANEL: usize = LANES;
/// Panels a thread's share is a multiple of, as many as a tile takes at most; weights are padded to whole groups.
pub(super) const GROUP: usize = 4;

/// Shape of the tiles that fit a register file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // other targets have fewer kinds of registers
pub(super) enum Registers {
    /// 32 vectors of sixteen lanes: AVX-512.
    Many,
    /// 8 vectors of sixteen lanes: pairs of AVX2 registers, fours of NEON's.
    Few,
    /// Arrays that the compiler turns into what vectors there are.
    Arrays,
}

impl Registers {
    /// Most rows of a tile.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Many => 12,
            Self::Few => 5,
            Self::Arrays => 2,
        }
    }

    /// Panels a tile of `height` rows takes at a time; they divide [`GROUP`].
    fn panels(self, height: usize) -> usize {
        match (self, height) {
            (Self::Arrays, _) => 1,
            (_, 1) => 4,
            (Self::Many, 2..=6) => 4,
            (Self::Many, _) => 2,
            (Self::Few, 2) => 2,
            (Self::Few, _) => 1,
        }
    }
}

/// Rows cut into tiles of nearly equal height.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    rows: usize,
    count: usize,
}

impl Tiles {
    pub(super) fn new(rows: usize, most: usize) -> Self {
        Self {
            rows,
            count: rows.div_ceil(most),
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Rows of tile `index`.
    pub(super) fn range(&self, index: usize) -> Range<usize> {
        self.rows * index / self.count..self.rows * (index + 1) / self.count
    }

    /// Height of the highest tile.
    pub(super) fn height(&self) -> usize {
        self.rows.div_ceil(self.count.max(1))
    }
}

/// An output matrix of packed rows that threads write by disjoint columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutPtr<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    lent: PhantomData<&'a mut [f32]>,
}

// SAFETY: the matrix is borrowed mutably for 'a, and whoever writes promises to be alone on the panels.
unsafe impl Sync for OutPtr<'_> {}
// SAFETY: as above.
unsafe impl Send for OutPtr<'_> {}

impl<'a> OutPtr<'a> {
    pub(super) fn new(out: &'a mut [f32], columns: usize) -> Self {
        Self {
            start: out.as_mut_ptr(),
            rows: out.len() / columns,
            columns,
            lent: PhantomData,
        }
    }

    /// Columns of `panel` that the matrix has: sixteen, fewer in its last panel, none in those that fill up a group.
    #[inline(always)]
    fn width(&self, panel: usize) -> usize {
        PANEL.min(self.columns.saturating_sub(panel * PANEL))
    }

    /// The first element of `panel` in `row`, good for [`width`](Self::width) elements.
    #[inline(always)]
    fn at(&self, row: usize, panel: usize) -> *mut f32 {
        debug_assert!(row < self.rows);
        self.start.wrapping_add(row * self.columns + panel * PANEL)
    }

    /// A panel of `row`; zeros where the matrix has no columns.
    ///
    /// # Safety
    /// As `V`'s methods; the caller is the only one who works on this panel.
    #[inline(always)]
    pub(super) unsafe fn load<V: Float>(&self, row: usize, panel: usize) -> V {
        let (from, width) = (self.at(row, panel), self.width(panel));
        // SAFETY: the caller's promise; a panel that is not whole goes through an array.
        unsafe {
            if width == PANEL {
                return V::load(from);
            }
            let mut lanes = [0.0; PANEL];
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), width);
            V::load(lanes.as_ptr())
        }
    }

    /// Writes a panel of `row`, the columns that the matrix has.
    ///
    /// # Safety
    /// As [`load`](Self::load).
    #[inline(always)]
    pub(super) unsafe fn store<V: Float>(&self, row: usize, panel: usize, values: V) {
        let (to, width) = (self.at(row, panel), self.width(panel));
        // SAFETY: as in `load`.
        unsafe {
            if width == PANEL {
                return values.store(to);
            }
            let mut lanes = [0.0; PANEL];
            values.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, width);
        }
    }

    /// The columns of `panels` in `row`.
    ///
    /// # Safety
    /// While they are borrowed nobody else works on these panels.
    #[allow(clippy::mut_from_ref)] // the caller's promise
    pub(super) unsafe fn columns(&self, row: usize, panels: Range<usize>) -> &mut [f32] {
        let [start, end] = [panels.start, panels.end].map(|panel| (panel * PANEL).min(self.columns));
        assert!(row < self.rows && start <= end);
        // SAFETY: inside the matrix by the assert, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.columns + start), end - start) }
    }
}

/// The function `$tile::<[$E,] M, P>` for a tile of `$shape`, a height and a number of panels, one of those that
/// [`Registers`] of that name ask for.
macro_rules! tile_for {
    (Many, $shape:expr, $($tile:tt)+) => {
        tile_for!(@match $shape, [
            (1, 4) (2, 4) (3, 4) (4, 4) (5, 4) (6, 4)
            (6, 2) (7, 2) (8, 2) (9, 2) (10, 2) (11, 2) (12, 2)
        ], $($tile)+)
    };
    (Few, $shape:expr, $($tile:tt)+) => {
        tile_for!(@match $shape, [(1, 4) (2, 2) (3, 1) (4, 1) (5, 1)], $($tile)+)
    };
    (Arrays, $shape:expr, $($tile:tt)+) => {
        tile_for!(@match $shape, [(1, 1) (2, 1)], $($tile)+)
    };
    (@match $shape:expr, [$(($m:literal, $p:literal))+], $tile:ident::<$E:ident>) => {
        match $shape {
            $(($m, $p) => $tile::<$E, $m, $p>,)+
            (height, panels) => unreachable!("no tile of {height} rows by {panels} panels"),
        }
    };
    (@match $shape:expr, [$(($m:literal, $p:literal))+], $tile:ident) => {
        match $shape {
            $(($m, $p) => $tile::<$m, $p>,)+
            (height, panels) => unreachable!("no tile of {height} rows by {panels} panels"),
        }
    };
}
pub(super) use tile_for;

/// The panels of a tile: `count` of them, `spacing` apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panels {
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) spacing: usize,
    /// From each panel to that of the next tile.
    pub(super) next: usize,
}

impl Panels {
    #[inline(always)]
    pub(super) fn at(self, index: usize) -> usize {
        self.first + index * self.spacing
    }
}

/// Which panels are taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Together {
    /// Those that follow one another.
    Neighbours,
    /// Those that are furthest apart, so that each is read where the tile before left off: a few long streams of reads.
    Spread,
}

/// Visits the tiles of a product with `panels`, in an order that keeps some of the weights and rows in the cache: for each
/// `block_depth` inputs, for each `block_rows` rows, for each few panels, every tile of these rows.
///
/// `visit(rows, panels, depth)` is called with a tile's rows, its panels, and its inputs.
pub(super) fn for_each_tile(
    tiles: &Tiles,
    registers: Registers,
    inputs: usize,
    (panels, together): (Range<usize>, Together),
    (block_rows, block_depth): (usize, usize),
    mut visit: impl FnMut(Range<usize>, Panels, &Range<usize>),
) {
    assert!(
        panels.start.is_multiple_of(GROUP) && panels.end.is_multiple_of(GROUP),
        "a share of panels"
    );
    let count = registers.panels(tiles.height());
    let tiles_of_panels = panels.len() / count;
    let (spacing, next) = match together {
        Together::Neighbours => (1, count),
        Together::Spread => (tiles_of_panels, 1),
    };
    for first in (0..inputs).step_by(block_depth) {
        let depth = first..inputs.min(first + block_depth);
        let mut block = 0..0;
        while block.end < tiles.count() {
            block = block.end..tiles.count().min(block.end + (block_rows / tiles.height()).max(1));
            for tile in 0..tiles_of_panels {
                let first = panels.start + tile * next;
                let panels = Panels {
                    first,
                    count,
                    spacing,
                    next,
                };
                for index in block.clone() {
                    visit(tiles.range(index), panels, &depth);
                }
            }
        }
    }
}
