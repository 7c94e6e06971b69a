//! Rows of codes times panels of codes, back to numbers: y = s·(Σ − z·Σq)·s_c + b.

use super::kernels::{Kernel, Prepared, Sums};
use super::rows::{BLOCK, Rows};
use super::weights::{PANEL, Panels};
use crate::ops::Activation;
use rayon::prelude::*;

/// Rows of one task: as codes they stay in the second cache, while each pair of
/// panels stays in the first until all rows have passed.
const TASK_ROWS: usize = 256;
/// Panels of one task.
const TASK_PANELS: usize = 32;

/// What happens to each output.
pub(super) struct Epilogue<'a> {
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
}

/// Where outputs go: disjoint parts of it from several threads.
#[derive(Clone, Copy)]
struct Target {
    data: *mut f32,
    stride: usize,
}
// SAFETY: tasks write disjoint blocks.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

/// f(x·Wᵀ + b) into `out` `[rows, outputs]`.
pub(super) fn product(kernel: Kernel, x: &Rows, w: Panels<'_>, epilogue: &Epilogue<'_>, out: &mut [f32]) {
    let rows = x.scales.len();
    assert!(kernel.is_here() && x.depth == w.depth && out.len() == rows * w.outputs);
    let panels = w.outputs.div_ceil(PANEL);
    // Enough tasks for every thread, none so small that waking one costs more.
    let threads = rayon::current_num_threads();
    let (mut down, mut across) = (TASK_ROWS, TASK_PANELS);
    while rows.div_ceil(down) * panels.div_ceil(across) < 3 * threads && down * across * PANEL * w.depth > 1 << 22 {
        if across > 4 {
            across /= 2;
        } else if down > BLOCK {
            down /= 2;
        } else {
            break;
        }
    }
    let tasks = rows.div_ceil(down) * panels.div_ceil(across);
    let target = Target { data: out.as_mut_ptr(), stride: w.outputs };
    let task = |t: usize| {
        let (i, j) = (t / panels.div_ceil(across) * down, t % panels.div_ceil(across) * across);
        // SAFETY: the kernel is here and the depths agree (asserted above); the
        // blocks of different tasks do not overlap.
        unsafe { block(kernel, x, w, epilogue, (i, (i + down).min(rows)), (j, (j + across).min(panels)), target) };
    };
    if tasks > 1 && threads > 1 {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    } else {
        (0..tasks).for_each(task);
    }
}

/// One task: rows `i` and panels `j`.
///
/// # Safety
/// The kernel is here; `x` and `w` have the same depth; `to` is valid for all
/// rows and outputs, and nobody else touches those of this task.
unsafe fn block(
    kernel: Kernel,
    x: &Rows,
    w: Panels<'_>,
    epilogue: &Epilogue<'_>,
    i: (usize, usize),
    j: (usize, usize),
    to: Target,
) {
    let activate = crate::ops::forward_loop::<f32>(epilogue.activation);
    let prepared: Prepared = kernel.prepare();
    let mut sums = Sums([[0; 2 * PANEL]; BLOCK]);
    for panel in (j.0..j.1).step_by(2) {
        let count = (j.1 - panel).min(2);
        let codes = &w.codes[panel * PANEL * w.depth..][..count * PANEL * w.depth];
        let columns = panel * PANEL..((panel + count) * PANEL).min(w.outputs);
        let (scales, of_codes) = (&w.scales[columns.clone()], &w.sums[columns.clone()]);
        let bias = epilogue.bias.map(|b| &b[columns.clone()]);
        for first in (i.0..i.1).step_by(BLOCK) {
            let rows = (i.1 - first).min(BLOCK);
            // SAFETY: the codes of `x` are padded to whole blocks of rows.
            unsafe { prepared.block(x.codes.as_ptr().add(first * x.depth), rows, w.depth, codes, &mut sums) };
            for (r, sums) in sums.0.iter().take(rows).enumerate() {
                // SAFETY: within this task's rows and columns.
                let out = unsafe {
                    let start = to.data.add((first + r) * to.stride + columns.start);
                    std::slice::from_raw_parts_mut(start, columns.len())
                };
                finish(out, sums, (x.scales[first + r], x.zeros[first + r]), scales, of_codes, bias);
            }
        }
    }
    drop(prepared);
    if epilogue.activation != Activation::Identity {
        let columns = j.0 * PANEL..(j.1 * PANEL).min(w.outputs);
        for row in i.0..i.1 {
            // SAFETY: as above.
            let out =
                unsafe { std::slice::from_raw_parts_mut(to.data.add(row * to.stride + columns.start), columns.len()) };
            activate(out);
        }
    }
}

/// Sums of one row to numbers.
fn finish(
    out: &mut [f32],
    sums: &[i32; 2 * PANEL],
    steps: (f32, f32),
    scales: &[f32],
    of_codes: &[f32],
    bias: Option<&[f32]>,
) {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::simd::{Level, level};
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn widest(o: &mut [f32], s: &[i32; 32], steps: (f32, f32), c: &[f32], q: &[f32], b: Option<&[f32]>) {
            plain(o, s, steps, c, q, b);
        }
        #[target_feature(enable = "avx2,fma")]
        fn wide(o: &mut [f32], s: &[i32; 32], steps: (f32, f32), c: &[f32], q: &[f32], b: Option<&[f32]>) {
            plain(o, s, steps, c, q, b);
        }
        if level() >= Level::Avx512 && super::kernels::has_avx512bw() {
            // SAFETY: the instructions are there.
            return unsafe { widest(out, sums, steps, scales, of_codes, bias) };
        }
        if level() >= Level::Avx2 {
            // SAFETY: the level says that AVX2 is there.
            return unsafe { wide(out, sums, steps, scales, of_codes, bias) };
        }
    }
    plain(out, sums, steps, scales, of_codes, bias);
}

#[inline(always)]
fn plain(
    out: &mut [f32],
    sums: &[i32; 2 * PANEL],
    (scale, zero): (f32, f32),
    scales: &[f32],
    of_codes: &[f32],
    bias: Option<&[f32]>,
) {
    // Whole panels have a loop of known length.
    if let (Ok(out), Ok(scales), Ok(of_codes)) = (
        <&mut [f32; 2 * PANEL]>::try_from(&mut *out),
        <&[f32; 2 * PANEL]>::try_from(scales),
        <&[f32; 2 * PANEL]>::try_from(of_codes),
    ) {
        for c in 0..2 * PANEL {
            out[c] = (sums[c] as f32 - zero * of_codes[c]) * (scale * scales[c]);
        }
        if let Some(Ok(bias)) = bias.map(<&[f32; 2 * PANEL]>::try_from) {
            for c in 0..2 * PANEL {
                out[c] += bias[c];
            }
        }
        return;
    }
    for (c, y) in out.iter_mut().enumerate() {
        *y = (sums[c] as f32 - zero * of_codes[c]) * (scale * scales[c]);
        if let Some(bias) = bias {
            *y += bias[c];
        }
    }
}
