
// Levels of a table of signed integers (src/format/signed_table.rs): the lane of cell floor((x - origin) * 2 / scale),
// of which there are 511.

// The head, and 511 cells.
const signed_table_words: u32 = 515u;

fn signed_table_lanes(x: vec4<f32>, encoder: Encoder, q: f32) -> vec4<u32> {
    let places = clamp((x - encoder.head.x) * encoder.head.y, vec4(0.0), vec4(510.0));
    return lanes_of_cells(encoder, whole_part(places));
}

// The whole parts of places below 512. A conversion would have to saturate, which some software drivers take long for.
fn whole_part(places: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(floor(places) + ROUNDER) & vec4(511u);
}

fn lanes_of_cells(encoder: Encoder, cells: vec4<u32>) -> vec4<u32> {
    let at = encoder.cells + cells;
    return vec4(encoder_word(at.x), encoder_word(at.y), encoder_word(at.z), encoder_word(at.w));
}
