//! The system's randomness, from a seed: what draws from it (`HashMap`'s keys, tokio's `select!`) does so alike each time.

use std::sync::atomic::{AtomicU64, Ordering};

static RANDOM: AtomicU64 = AtomicU64::new(0);

/// The C library's `getrandom(2)`, for this binary: SplitMix64 from the run's seed.
///
/// # Safety
/// As the original: `buffer` is writable for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller promises so.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for byte in bytes {
        let mut z = RANDOM.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *byte = (z ^ (z >> 31)).to_be_bytes()[0];
    }
    length.cast_signed()
}

/// Plays a run of this seed, in a thread of its own, which draws its own keys.
pub(crate) fn play<T: Send + 'static>(seed: u64, run: impl FnOnce() -> T + Send + 'static) -> T {
    RANDOM.store(seed, Ordering::SeqCst);
    std::thread::spawn(run).join().unwrap()
}
