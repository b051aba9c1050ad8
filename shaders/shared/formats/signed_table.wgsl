
// Levels of a table of signed integers (src/format/signed_table.rs): the lane of cell round((x - offset) * 2 / scale),
// within the table's cells.

// The head, and 511 cells.
const signed_table_words: u32 = 132u;

fn signed_table_lanes(x: vec4<f32>, encoder: Encoder, q: f32) -> vec4<u32> {
    let first = encoder.head.z;
    let places = clamp((x - encoder.head.x) * encoder.head.y, vec4(first), vec4(encoder.head.w));
    // Whole numbers with ROUNDER added are as far from each other as their bits.
    let cells = bitcast<vec4<u32>>(places + ROUNDER) - bitcast<u32>(first + ROUNDER);
    return vec4(
        lane_of_cell(encoder, cells.x),
        lane_of_cell(encoder, cells.y),
        lane_of_cell(encoder, cells.z),
        lane_of_cell(encoder, cells.w),
    );
}

fn lane_of_cell(encoder: Encoder, cell: u32) -> u32 {
    return encoder_word(encoder.cells + cell / 4u) >> (8u * (cell % 4u));
}
