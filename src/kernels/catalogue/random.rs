//! Reproducible data: the same bits on every machine, so that what is made of them can be compared by its hash. Nothing
//! here calls a function of the system's mathematical library.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws data from a seed.
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    /// Starts from a `seed`; another gives other data.
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Draws `len` values from 0 up to 1.
    pub(crate) fn unit(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.0.random()).collect()
    }

    /// Draws `len` values about `mean`, in the shape of a bell: sums of four evenly distributed ones.
    pub(crate) fn bell(&mut self, len: usize, mean: f32, deviation: f32) -> Vec<f32> {
        /// √3: four values from 0 up to 1 have a deviation of 1 over it.
        const TO_ONE: f32 = 1.732_050_8;
        let mut sum = || (0..4).map(|_| self.0.random::<f32>()).sum::<f32>() - 2.0;
        (0..len)
            .map(|_| mean + deviation * (TO_ONE * sum()))
            .collect()
    }

    /// Draws `len` words.
    pub(crate) fn words(&mut self, len: usize) -> Vec<u32> {
        (0..len).map(|_| self.0.random()).collect()
    }

    /// Draws `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.0.random()).collect()
    }
}
