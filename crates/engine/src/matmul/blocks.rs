//! How a product is cut into blocks: for the caches that this processor has,
//! and into enough tasks for its threads.

use super::kernels::Kernel;
use std::ops::Range;
use std::sync::OnceLock;

/// Rows of a task at least, where there are so many: fewer, and reading the
/// panels of B anew for each task costs more than it saves.
const ROWS: usize = 48;
/// Tasks for each thread, so that none waits long for the last.
const TASKS: usize = 4;

/// The size of one task's block of C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// Cuts C of `m × n` into blocks for `threads`.
pub(super) fn plan<K: Kernel>(m: usize, n: usize, threads: usize) -> Blocks {
    // Half of the second-level cache holds the rows of A over a slice.
    let most = (second_level_cache() / 2 / (K::stored(K::DEPTH) * 4) / K::ROWS * K::ROWS).clamp(K::ROWS * 4, 384);
    let (mut rows, mut cols) = (m.min(most), n.min(4096));
    let wanted = if threads > 1 { threads * TASKS } else { 1 };
    while m.div_ceil(rows) * n.div_ceil(cols) < wanted {
        if rows > 2 * ROWS {
            rows = rows.div_ceil(2);
        } else if cols > 256 {
            cols = cols.div_ceil(2);
        } else if rows > ROWS {
            rows = rows.div_ceil(2);
        } else {
            break;
        }
    }
    // Equal tasks, of whole tiles where there are several.
    let even = |size: usize, block: usize, unit: usize| {
        let count = size.div_ceil(block).max(1);
        size.div_ceil(count).next_multiple_of(unit)
    };
    Blocks { rows: even(m, rows, K::ROWS), cols: even(n, cols, K::COLS) }
}

/// Cuts a run of the inner dimension, `whole` long in all, into slices of
/// equal length; by `whole` alone, so that runs are cut alike.
pub(super) fn slices<K: Kernel>(run: Range<usize>, whole: usize) -> Vec<Range<usize>> {
    let depth = whole.div_ceil(whole.div_ceil(K::DEPTH).max(1)).next_multiple_of(K::UNIT).max(K::UNIT);
    run.clone().step_by(depth).map(|from| from..run.end.min(from + depth)).collect()
}

/// Bytes of the second-level cache of a core: as the processor tells, or what
/// most have at least.
fn second_level_cache() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| told_by_processor().filter(|size| (1 << 17..1 << 25).contains(size)).unwrap_or(1 << 18))
}

#[cfg(target_arch = "x86_64")]
fn told_by_processor() -> Option<usize> {
    use std::arch::x86_64::__cpuid_count;
    // Intel lists its caches in leaf 4, AMD in the same form in leaf 0x8000001D.
    let leaf = |leaf: u32| {
        let highest = __cpuid_count(leaf & 0x8000_0000, 0).eax;
        (highest >= leaf).then(|| (0..8).map(move |i| __cpuid_count(leaf, i)))
    };
    let listed = [4, 0x8000_001d].into_iter().filter_map(leaf).flatten();
    listed.filter(|c| c.eax & 31 == 1 || c.eax & 31 == 3).find(|c| c.eax >> 5 & 7 == 2).map(|c| {
        let (ways, lines, line) = (c.ebx >> 22, c.ebx >> 12 & 1023, c.ebx & 4095);
        (ways as usize + 1) * (lines as usize + 1) * (line as usize + 1) * (c.ecx as usize + 1)
    })
}
