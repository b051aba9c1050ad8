//! Post-training quantization of vision transformers (PTQ4ViT), computed in integers on any GPU.

pub mod bench;
pub mod cli;
pub mod data;
pub mod demo;
pub mod device;
mod differences;
pub mod error;
pub mod evaluation;
pub mod hub;
pub mod inference;
mod input;
pub mod interrupt;
pub mod kernels;
pub mod model;
mod output;
pub mod quant;
pub mod report;
pub mod sweep;
pub mod tuning;
