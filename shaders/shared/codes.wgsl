// Four values as 8-bit codes in one word, the first lowest. A twin's range flag is the top bit of its lane, whatever the
// bit width; q = 2^(bits - 1). The inverse scales are computed once on the host: multiplying by them is rounded alike
// everywhere, which division is not. The formats are in formats/; src/format/mod.rs adds what chooses between them.

override FORMAT: u32 = 0u;

// 1.5 * 2^23: added to a float of magnitude below 2^22, it rounds half-to-even to an integer, which is then in the low
// bits of the sum. Some software drivers take several times as long for round(). No product is added to it without a
// min between, so that none can become a fused multiply-add, which rounds only once.
const ROUNDER: f32 = 12582912.0;

// What a quantizer knows of a group of values (src/format/encoder.rs): 1 / scale_1 and 1 / scale_2, of which a format
// without ranges uses the first; or of a table where the cells begin, the cells in a unit, the cell from which on the
// second grid counts, and the cells of that grid in one of the first.
struct Encoder {
    head: vec4<f32>,
    // The first word of the table's cells.
    cells: u32,
}

// The words of an encoder that has no table.
const INVERSES: u32 = 2u;

// The words of an encoder of the shader's format.
fn encoder_words() -> u32 {
    return words_of_format(FORMAT);
}

// The encoder of a group, or the one that begins at a word. What a format doesn't use of it may be another's.
fn encoder_of(group: u32) -> Encoder {
    return encoder_at(group * encoder_words());
}

fn encoder_at(at: u32) -> Encoder {
    let head = vec4(encoder_word(at), encoder_word(at + 1u), encoder_word(at + 2u), encoder_word(at + 3u));
    return Encoder(bitcast<vec4<f32>>(head), at + 4u);
}

// A format gives lanes in the low bits of words, often those of floats that ROUNDER was added to. Clamping to integers
// before rounding gives what clamping after it gives.
fn quantize(x: vec4<f32>, encoder: Encoder, q: f32) -> u32 {
    return quantize_in(FORMAT, x, encoder, q);
}

// The same in another format than the shader's, which is a constant too.
fn quantize_in(format: u32, x: vec4<f32>, encoder: Encoder, q: f32) -> u32 {
    let lanes = lanes_in_format(format, x, encoder, q) & vec4(0xffu);
    return lanes.x | (lanes.y << 8u) | (lanes.z << 16u) | (lanes.w << 24u);
}

// Keeps the first `count` lanes of a word, of which there are at most four.
fn first_lanes(word: u32, count: u32) -> u32 {
    return word & (0xffffffffu >> (32u - 8u * min(count, 4u)));
}
