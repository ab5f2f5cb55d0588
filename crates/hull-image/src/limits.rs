//! How much a stranger's image may cost us.

use std::time::Duration;

use hull_types::units::Bytes;

/// The limits an import is held to. The defaults suit a machine that takes images from its tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes read from the source, still compressed.
    pub source: Bytes,
    /// The disk the guest would see.
    pub virtual_size: Bytes,
    /// Bytes that are not zero, per byte of a compressed source. Real disks stay below 10, a bomb is at 1,000.
    pub data_ratio: u64,
    /// All bytes, zeros too, per byte of a compressed source. Long runs of zeros are honest (an empty disk) and cost
    /// no disk, yet they cost time.
    pub total_ratio: u64,
    /// Left free on the file system, whatever is imported.
    pub keep_free: Bytes,
    /// Longest silence of a source.
    pub idle: Duration,
    /// Longest run of qemu-img.
    pub conversion: Duration,
}

/// Small images may have any ratio: up to this many bytes nothing is at stake.
pub(crate) const RATIO_FREE_DATA: u64 = 64 << 20;
/// As [`RATIO_FREE_DATA`], zeros included.
pub(crate) const RATIO_FREE_TOTAL: u64 = 1 << 30;

impl Default for Limits {
    fn default() -> Self {
        Self {
            source: Bytes::gib(1024),
            virtual_size: Bytes::gib(16 * 1024),
            data_ratio: 200,
            total_ratio: 20_000,
            keep_free: Bytes::mib(256),
            idle: Duration::from_secs(60),
            conversion: Duration::from_secs(2 * 60 * 60),
        }
    }
}
