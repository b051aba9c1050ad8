//! The softmax of attention's scores, with what Swin and BEiT add to them.

use super::site::Attention;
use crate::device::{Buffer, Commands};
use crate::kernels::{
    Format, RowCodes, WindowSoftmax, softmax, softmax_backward, softmax_codes, window_softmax,
    window_softmax_codes,
};

/// Holds what is added to the scores of attention within windows, or within an image that is one, before their softmax.
#[derive(Clone)]
pub struct WindowBias<T> {
    /// Added to the scores of each head, `[heads, tokens, tokens]`.
    pub bias: T,
    /// Added to the scores of each window, `[windows, tokens, tokens]`; or to those of all, `[1, tokens, tokens]`.
    pub mask: T,
}

impl WindowBias<Buffer<f32>> {
    /// Counts the masks of windows of `tokens` tokens, which take turns along the windows.
    pub fn masks(&self, tokens: usize) -> usize {
        self.mask.len() / (tokens * tokens)
    }
}

/// Stands for softmax(q kᵀ / √d) of each head, with the windows' bias and mask, before it is computed.
#[derive(Clone, Copy)]
pub struct Probabilities<'a> {
    attention: Attention,
    bias: Option<&'a WindowBias<Buffer<f32>>>,
    /// q kᵀ, `[images, W, H, M, N]`.
    scores: &'a Buffer<f32>,
}

impl<'a> Probabilities<'a> {
    /// Takes the softmax of `scores` `[images, W, H, M, N]`.
    pub(super) fn new(
        attention: Attention,
        bias: Option<&'a WindowBias<Buffer<f32>>>,
        scores: &'a Buffer<f32>,
    ) -> Self {
        Self {
            attention,
            bias,
            scores,
        }
    }

    /// Computes the probabilities in floats, `[images, W, H, M, N]`.
    pub fn values(&self, commands: &mut Commands, images: usize) -> Buffer<f32> {
        match self.bias {
            None => {
                let rows = self.attention.score_rows(images);
                let factor = self.attention.factor();
                softmax(commands, rows, self.attention.tokens, factor, self.scores)
            }
            Some(windows) => {
                let shape = self.in_windows(windows, images);
                window_softmax(commands, &shape, self.scores, &windows.bias, &windows.mask)
            }
        }
    }

    /// Computes the probabilities' codes, a matrix for each head of each window: the left operand of an integer
    /// product. `encoders` are the records of one encoder, or of one per head.
    pub fn codes(
        &self,
        commands: &mut Commands,
        images: usize,
        format: Format,
        bits: u32,
        encoders: &Buffer<u32>,
    ) -> Buffer<u32> {
        let tokens = self.attention.tokens;
        let codes = RowCodes {
            format,
            bits,
            encoders,
            matrix_rows: self.attention.queries(),
            groups: encoders.len() / format.encoder_words(),
        };
        match self.bias {
            None => {
                let rows = self.attention.score_rows(images);
                let factor = self.attention.factor();
                softmax_codes(commands, rows, tokens, factor, self.scores, &codes)
            }
            Some(windows) => {
                let shape = self.in_windows(windows, images);
                let WindowBias { bias, mask } = windows;
                window_softmax_codes(commands, &shape, self.scores, bias, mask, &codes)
            }
        }
    }

    fn in_windows(&self, windows: &WindowBias<Buffer<f32>>, images: usize) -> WindowSoftmax {
        let Attention { heads, tokens, .. } = self.attention;
        let masks = windows.masks(tokens);
        WindowSoftmax {
            images: images * self.attention.windows / masks,
            windows: masks,
            heads,
            tokens,
            factor: self.attention.factor(),
        }
    }
}

impl Attention {
    /// Returns what the scores are multiplied by: 1/√d.
    pub fn factor(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Counts the rows of the scores.
    fn score_rows(&self, images: usize) -> usize {
        images * self.image_queries() * self.heads
    }

    /// Computes the gradient at the scores, given that at their softmax, which gave `probabilities`. What was added to
    /// the scores has no part in it.
    pub(super) fn softmax_backward(
        &self,
        commands: &mut Commands,
        images: usize,
        probabilities: &Buffer<f32>,
        grad: &Buffer<f32>,
    ) -> Buffer<f32> {
        let rows = self.score_rows(images);
        let factor = self.factor();
        softmax_backward(commands, rows, self.tokens, factor, probabilities, grad)
    }
}
