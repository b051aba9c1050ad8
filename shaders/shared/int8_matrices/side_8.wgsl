// The same as side_16.wgsl for matrices with 8 rows, or columns, and sums of 8 by 8. Their rows are too short for pieces of
// four words.

alias Left = coop_mat8x8<f32, A>;
alias Right = coop_mat8x8<f32, B>;
alias Sum = coop_mat8x8<f32, C>;
const SIDE: u32 = 8u;

// What workgroup memory is made of: the bits of two words.
alias Piece = vec2<f32>;
const PIECES_PER_QUAD: u32 = 2u;

// Puts four words where quad `at` of `tile` lies.
fn put(at: u32, words: vec4<u32>) {
    tile[2u * at] = bitcast<Piece>(words.xy);
    tile[2u * at + 1u] = bitcast<Piece>(words.zw);
}

// Takes four sums from there.
fn taken(at: u32) -> vec4<i32> {
    return vec4(bitcast<vec2<i32>>(tile[2u * at]), bitcast<vec2<i32>>(tile[2u * at + 1u]));
}

// Takes one of them.
fn taken_one(at: u32, which: u32) -> i32 {
    return bitcast<i32>(tile[2u * at + which / 2u][which % 2u]);
}
