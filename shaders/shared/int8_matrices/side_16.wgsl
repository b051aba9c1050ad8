// Matrices of int8 with 16 rows, or columns, and their sums of 16 by 16 in i32, as they stand in WGSL, which has matrices of
// floats alone: src/device/int8_matrices.rs says what becomes of them.

alias Left = coop_mat16x16<f32, A>;
alias Right = coop_mat16x16<f32, B>;
alias Sum = coop_mat16x16<f32, C>;
const SIDE: u32 = 16u;

// What workgroup memory is made of: the bits of four words.
alias Piece = vec4<f32>;
const PIECES_PER_QUAD: u32 = 1u;

// Puts four words where quad `at` of `tile` lies.
fn put(at: u32, words: vec4<u32>) {
    tile[at] = bitcast<Piece>(words);
}

// Takes four sums from there.
fn taken(at: u32) -> vec4<i32> {
    return bitcast<vec4<i32>>(tile[at]);
}

// Takes one of them.
fn taken_one(at: u32, which: u32) -> i32 {
    return bitcast<i32>(tile[at][which]);
}
