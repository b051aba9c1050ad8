
// Levels of a table whose lanes have a range flag (src/format/twin_table.rs).

// The head, and 4065 cells.
const twin_table_words: u32 = 1021u;

fn twin_table_lanes(x: vec4<f32>, encoder: Encoder, q: f32) -> vec4<u32> {
    return signed_table_lanes(x, encoder, q);
}
