#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ptq4vit_gpu_fuzz::index(input));
