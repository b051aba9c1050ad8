//! Products of codes, with what a network does with their values.

use super::{
    IntegerProduct, NextCodes, Operands, Residual, affine, integer_product, integer_product_codes,
};
use crate::device::{Commands, Device};
use crate::format::{Format, Gelu};
use crate::kernels::catalogue::{
    Amount, BITS, Epilogue, Exercise, Launch, NetworkProduct, Random, Role, Timed, Variant,
    encoders, scale_to,
};
use crate::kernels::{Quantize, Width, quantize};

/// Counts the bits of weights that are packed.
const PACKED_BITS: u32 = 6;

/// Describes how the kernel is timed.
pub(in crate::kernels) const TIMED: Timed = Timed {
    about: "Matrix products of codes, exact",
    exercises,
};

fn exercises(&at: &NetworkProduct) -> Vec<Exercise> {
    let exercise = |format, weight_bits, epilogue| {
        let variant = Variant {
            format: Some(format),
            weight_bits: Some(weight_bits),
            epilogue: Some(epilogue),
        };
        Exercise::product(&at, variant, Amount::Codes, move |device| {
            prepare(device, &at, format, weight_bits, epilogue)
        })
    };
    let packs = at.has_weight() && at.role != Role::Alone;
    let mut exercises = Vec::new();
    for format in at.formats() {
        exercises.push(exercise(format, BITS, at.epilogue));
        exercises.extend(packs.then(|| exercise(format, PACKED_BITS, at.epilogue)));
    }
    if at.role == Role::Alone {
        exercises.push(exercise(Format::Uniform, PACKED_BITS, Epilogue::Values));
        let others = [Epilogue::Residual, Epilogue::Codes, Epilogue::GeluCodes];
        exercises.extend(others.map(|epilogue| exercise(Format::Uniform, BITS, epilogue)));
    }
    exercises
}

fn prepare(
    device: &Device,
    at: &NetworkProduct,
    format: Format,
    weight_bits: u32,
    epilogue: Epilogue,
) -> Launch {
    let product = at.product;
    let (groups, per_head) = (at.groups(), !at.has_weight());
    let operands = at.operands(device, format);
    let commands = &mut Commands::new(device);
    let mut codes = |format: Format, source, rows, values| {
        let quantizer = Quantize {
            source,
            batch: product.batch,
            rows,
            k: product.k,
            jobs: 1,
            groups,
            inner_groups: per_head.into(),
            group_rows: rows,
            bits: BITS,
            format,
        };
        let encoders = device.upload(&encoders(format, 2.0, groups));
        quantize(commands, &quantizer, values, &encoders)
    };
    let a = codes(format, product.a, product.m, &operands.a);
    let (b, b_width) = match per_head {
        true => {
            let source = product.b.transposed();
            let b = codes(Format::Uniform, source, product.n, &operands.b);
            (b, Width::Eight)
        }
        // Which codes they are doesn't matter; how they are stored does.
        false => {
            let spare = 8 - weight_bits;
            let codes = Random::new(2).bytes(product.n * product.k).into_iter();
            let codes: Vec<i8> = codes.map(|code| code as i8 >> spare).collect();
            let width = Width::holding(weight_bits);
            (device.upload(&width.pack(&codes, product.k)), width)
        }
    };
    let unit = scale_to(2.0, format);
    let unit = [unit.scale / 64.0, unit.shift as f32];
    let scales = device.upload(&unit.repeat(groups));
    let affine = affine(None, operands.bias.as_deref()).map(|affine| device.upload(&affine));
    let shape = IntegerProduct {
        batch: product.batch,
        m: product.m,
        n: product.n,
        k: product.k,
        out: product.out,
        jobs: 1,
        a_per_job: false,
        b_per_job: false,
        job_stride: at.out_len(),
        a_format: format,
        b_width,
    };
    let values = device.zeros::<f32>(at.out_len());
    let residual = device.zeros(at.out_len());
    // Where codes of two heads would share a word, the network keeps the values too.
    let words = shape
        .words_of_rows()
        .filter(|_| matches!(epilogue, Epilogue::Codes | Epilogue::GeluCodes));
    let (gelu, next_format) = match epilogue {
        Epilogue::GeluCodes => (Some(Gelu::Exact), Format::GeluTwin),
        _ => (None, Format::Uniform),
    };
    let encoder = device.upload(&encoders(next_format, 8.0, 1));
    let next_codes = device.zeros(words.map_or(1, |(_, len)| len));
    Box::new(move |commands| {
        let operands = Operands {
            a: &a,
            b: &b,
            scales: &scales,
            groups,
            inner_groups: per_head.into(),
            group_columns: shape.n,
            affine: affine.as_ref(),
        };
        match words {
            Some((out, _)) => {
                let shape = IntegerProduct { out, ..shape };
                let next = NextCodes {
                    gelu,
                    format: next_format,
                    bits: BITS,
                    encoder: &encoder,
                };
                integer_product_codes(commands, &shape, &operands, &next, &next_codes);
            }
            None => {
                let residual = (epilogue == Epilogue::Residual).then_some(Residual {
                    values: &residual,
                    order: None,
                });
                integer_product(commands, &shape, &operands, residual, &values);
            }
        }
    })
}
