//! How much of a device's memory is in use.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the bytes held in a device's buffers. The program counts them itself, because a software driver never reports
/// that memory ran out.
#[derive(Debug)]
pub struct MemoryUse {
    current: AtomicU64,
    peak: AtomicU64,
    limit: AtomicU64,
    /// The bytes that an allocation beyond the limit led to, the most of them; 0 if there was none since the last
    /// [`check`](Self::check).
    overdrawn: AtomicU64,
}

impl Default for MemoryUse {
    fn default() -> Self {
        Self {
            current: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            overdrawn: AtomicU64::new(0),
        }
    }
}

impl MemoryUse {
    /// Returns the bytes held now.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }

    /// Returns the most bytes held at once since the device was opened or [`reset_peak`](Self::reset_peak) was called.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Starts the measurement of the peak anew, from what is held now.
    pub fn reset_peak(&self) {
        self.peak.store(self.current(), Ordering::Relaxed);
    }

    /// Treats buffers beyond so many bytes as memory that can't be had: the next read reports that it ran out.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn take(&self, bytes: u64) {
        let current = self.current.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(current, Ordering::Relaxed);
        if current > self.limit.load(Ordering::Relaxed) {
            self.overdrawn.fetch_max(current, Ordering::Relaxed);
        }
    }

    /// Checks that the limit has been kept since the last call.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] of `device` if it has not.
    pub(super) fn check(&self, device: &str) -> Result<()> {
        match self.overdrawn.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            bytes => Err(Error::OutOfMemory {
                device: device.to_owned(),
                problem: format!(
                    "buffers of {bytes} bytes, where {} are allowed",
                    self.limit.load(Ordering::Relaxed)
                ),
            }),
        }
    }

    pub(super) fn release(&self, bytes: u64) {
        self.current.fetch_sub(bytes, Ordering::Relaxed);
    }
}
