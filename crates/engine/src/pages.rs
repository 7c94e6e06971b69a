//! Memory of large blocks, taken from the system and given back to it.
//!
//! An allocator keeps what is freed for later, and cannot give back what lies
//! below something else. Blocks of many megabytes that come and go in other
//! sizes left it holding an eighth more than was ever in use. A block of whole
//! huge pages is therefore a mapping of its own.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// The size and alignment of a huge page on the systems that have them.
const HUGE_PAGE: usize = 1 << 21;

/// Zeroed memory of this layout, aligned to huge pages if it covers any; none
/// where there is none.
pub(crate) fn take(layout: Layout) -> Option<NonNull<u8>> {
    debug_assert!(layout.size() > 0, "blocks hold something");
    if layout.size() >= HUGE_PAGE {
        return map(layout.size());
    }
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { alloc_zeroed(layout) })
}

/// Gives it back.
///
/// # Safety
/// It came from [`take`] with this layout, and nobody uses it any more.
pub(crate) unsafe fn give_back(block: NonNull<u8>, layout: Layout) {
    if layout.size() >= HUGE_PAGE {
        // SAFETY: the caller's duty.
        unsafe { unmap(block, layout.size()) };
    } else {
        // SAFETY: as above.
        unsafe { dealloc(block.as_ptr(), layout) };
    }
}

/// A mapping of its own, for which huge pages are asked: products over millions
/// of elements otherwise wait for address translations.
#[cfg(target_os = "linux")]
fn map(bytes: usize) -> Option<NonNull<u8>> {
    let used = bytes.checked_next_multiple_of(PAGE)?;
    let whole = used.checked_add(HUGE_PAGE)?;
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, anywhere, of no file.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), whole, access, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    let start = start.cast::<u8>();
    // What lies before the first huge page and after the last byte goes back.
    let before = start.align_offset(HUGE_PAGE);
    // SAFETY: all within the mapping, in whole pages, and nobody uses them; the
    // advice changes no content, and a refusal changes nothing.
    unsafe {
        let block = start.add(before);
        for (from, length) in [(start, before), (block.add(used), whole - before - used)] {
            if length > 0 {
                libc::munmap(from.cast(), length);
            }
        }
        libc::madvise(block.cast(), bytes / HUGE_PAGE * HUGE_PAGE, libc::MADV_HUGEPAGE);
        NonNull::new(block)
    }
}

/// # Safety
/// As [`give_back`], for what [`map`] gave.
#[cfg(target_os = "linux")]
unsafe fn unmap(block: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's duty; these are the pages that were kept.
    unsafe { libc::munmap(block.as_ptr().cast(), bytes.next_multiple_of(PAGE)) };
}

/// Asks for huge pages wherever a slice covers whole ones, before its memory is
/// first written: for what is read here and there over gigabytes. The system may
/// refuse, and nothing changes.
pub fn huge_pages<T>(memory: &mut [T]) {
    let (start, bytes) = (memory.as_mut_ptr().cast::<u8>(), size_of_val(memory));
    let before = start.align_offset(HUGE_PAGE).min(bytes);
    let whole = (bytes - before) / HUGE_PAGE * HUGE_PAGE;
    #[cfg(target_os = "linux")]
    if whole > 0 {
        // SAFETY: the range lies within the slice, in whole pages; the advice
        // changes no content.
        unsafe { libc::madvise(start.add(before).cast(), whole, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = whole;
}

/// What mappings are cut by: no system has larger ones that are not huge.
#[cfg(target_os = "linux")]
const PAGE: usize = 1 << 16;

#[cfg(not(target_os = "linux"))]
fn aligned(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, HUGE_PAGE).expect("a block's size fits the address space")
}

#[cfg(not(target_os = "linux"))]
fn map(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { alloc_zeroed(aligned(bytes)) })
}

/// # Safety
/// As [`give_back`], for what [`map`] gave.
#[cfg(not(target_os = "linux"))]
unsafe fn unmap(block: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's duty.
    unsafe { dealloc(block.as_ptr(), aligned(bytes)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_all_sizes_are_zero_aligned_and_whole() {
        for bytes in [64, 4096, HUGE_PAGE - 64, HUGE_PAGE, HUGE_PAGE + 64, 3 * HUGE_PAGE - 64, 5_000_000] {
            let layout = Layout::from_size_align(bytes, 64).expect("a layout");
            for _ in 0..3 {
                let block = take(layout).expect("memory");
                let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { 64 };
                assert_eq!(block.as_ptr() as usize % align, 0, "{bytes}");
                // SAFETY: the block is ours and that long.
                let all = unsafe { std::slice::from_raw_parts_mut(block.as_ptr(), bytes) };
                assert!(all.iter().all(|x| *x == 0), "{bytes}");
                all.fill(7);
                // SAFETY: taken above.
                unsafe { give_back(block, layout) };
            }
        }
    }

    #[test]
    fn the_advice_changes_no_content() {
        for len in [0, 1, HUGE_PAGE - 1, 3 * HUGE_PAGE + 5] {
            let mut memory: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            huge_pages(&mut memory);
            huge_pages(&mut memory[len.min(3)..]);
            assert!(memory.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
        }
    }

    #[test]
    fn what_there_is_not_is_not_given() {
        let layout = Layout::from_size_align(1 << 60, 64).expect("a layout");
        assert!(take(layout).is_none());
    }
}
