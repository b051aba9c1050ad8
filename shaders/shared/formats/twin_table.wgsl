
// Levels of a table whose lanes have a range flag (src/format/twin_table.rs): as of one of signed integers, but in two
// grids of 255 cells, the second of which counts from the boundary on.

// The head, and 510 cells.
const twin_table_words: u32 = 514u;

fn twin_table_lanes(x: vec4<f32>, encoder: Encoder, q: f32) -> vec4<u32> {
    let fine = max((x - encoder.head.x) * encoder.head.y, vec4(0.0));
    let in_first = fine < vec4(encoder.head.z);
    let places = min(select(fine * encoder.head.w, fine, in_first), vec4(254.0));
    return lanes_of_cells(encoder, whole_part(places) + select(vec4(255u), vec4(0u), in_first));
}
