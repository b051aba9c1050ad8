// The same as integer_product.wgsl, from cooperative matrices (shared/integer_product.wgsl).
//
// Codes are exact in f16, their products in f32, and so are sums of up to FLUSH of those, 2^24 at most; these are added up
// as integers. A twin's R1 and R2 are two products, one after the other.
//
// A workgroup computes 64 rows by 64 columns. It stages STEP codes of each as f16 in workgroup memory, and each subgroup
// multiplies blocks of two by two matrices. How many subgroups a workgroup has is known only here: where there are fewer
// than blocks, they take turns.

enable f16;
enable wgpu_cooperative_matrix;

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
// Rows and columns of a matrix. The Rust side makes 16 of it, and of the names above, where the adapter's are larger.
const SIDE: u32 = 8u;

const TILE: u32 = 64u;
const TILE_VECTORS: u32 = TILE / 4u;
const LANES: u32 = 128u;
// Codes that are staged at once.
const STEP: u32 = 32u;
// Codes whose sum of products, 2^14 each at most, is exact in f32.
const FLUSH: u32 = 1024u;

// Pitches keep rows out of each other's memory banks.
const A_PITCH: u32 = STEP + 8u;
const B_PITCH: u32 = TILE + 8u;
const BLOCKS_ACROSS: u32 = TILE / (2u * SIDE);
const BLOCKS: u32 = BLOCKS_ACROSS * BLOCKS_ACROSS;
// Vectors of four sums that an invocation holds: of a tile, and of one matrix of each block.
const VECTORS: u32 = TILE * TILE / 4u / LANES;
const PER_MATRIX: u32 = VECTORS / 4u;

// [row][k]
var<workgroup> a_tile: array<f16, TILE * A_PITCH>;
// [k][column]
var<workgroup> b_tile: array<f16, STEP * B_PITCH>;
// [block][row][column], of one matrix of each block, and room for what nobody wants; at the end [row][vector] of errors.
var<workgroup> sums: array<f32, (BLOCKS + 1u) * SIDE * SIDE>;

// Adds to an invocation's vectors, from `first` on, what the subgroups have stored of the blocks that were taken.
fn add_sums(sum: ptr<function, array<vec4<i32>, 2u * VECTORS>>, first: u32, lane: u32, taken: vec2<u32>) {
    workgroupBarrier();
    for (var v = 0u; v < PER_MATRIX; v++) {
        let at = 4u * (v * LANES + lane);
        let block = at / (SIDE * SIDE);
        if block >= taken.x && block < taken.y {
            (*sum)[first + v] += vec4<i32>(vec4(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]));
        }
    }
    workgroupBarrier();
}

// The row and the vector of columns in the tile that an invocation's vector `v` of sums is for.
fn place_of(v: u32, lane: u32) -> vec2<u32> {
    let at = v % PER_MATRIX * LANES + lane;
    let block = at / (SIDE * SIDE / 4u);
    let part = v / PER_MATRIX;
    let row = (block / BLOCKS_ACROSS * 2u + part / 2u) * SIDE + at % (SIDE * SIDE / 4u) / (SIDE / 4u);
    return vec2(row, (block % BLOCKS_ACROSS * 2u + part % 2u) * (SIDE / 4u) + at % (SIDE / 4u));
}

// The codes of a word, of both ranges, or of R1 or R2 alone.
fn codes_of(word: u32, part: u32) -> vec4<f16> {
    if !TWIN {
        return vec4<f16>(unpack4xI8(word));
    }
    let in_r2 = ((word >> 7u) & 0x01010101u) * 0xffu;
    return vec4<f16>(unpack4xU8(word & 0x7f7f7f7fu & select(~in_r2, in_r2, part == 1u)));
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let p = parameters;
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let row_vectors = (p.m + 3u) / 4u;
    let column_vectors = (p.n + 3u) / 4u;
    let tiles_across = (p.n + TILE - 1u) / TILE;
    let tiles_down = (p.m + TILE - 1u) / TILE;
    let index = tile / (tiles_across * tiles_down);
    if index >= p.jobs * p.outer * p.inner {
        return;
    }
    let matrix = matrix_of(index);
    let tile_row = tile / tiles_across % tiles_down;
    let first_down = tile_row * TILE_VECTORS;
    let first_across = tile % tiles_across * TILE_VECTORS;

    // [part][vector]
    var sum: array<vec4<i32>, 2u * VECTORS>;
    let parts = select(1u, 2u, TWIN);
    for (var first_block = 0u; first_block < BLOCKS; first_block += subgroups) {
        // Naga wants uniform control flow here, so subgroups without a block repeat the last one for nobody.
        let block = min(first_block + subgroup, BLOCKS - 1u);
        let block_row = block / BLOCKS_ACROSS * 2u * SIDE;
        let block_column = block % BLOCKS_ACROSS * 2u * SIDE;
        for (var part = 0u; part < parts; part++) {
            for (var stretch = 0u; stretch < p.words; stretch += FLUSH / 4u) {
                var sum_00 = Sum();
                var sum_01 = Sum();
                var sum_10 = Sum();
                var sum_11 = Sum();
                let end = min(stretch + FLUSH / 4u, p.words);
                for (var first = stretch; first < end; first += STEP / 4u) {
                    // Rows, columns and words past the end count as zeros.
                    for (var at = lane; at < STEP / 4u * TILE_VECTORS; at += LANES) {
                        let word = at / TILE_VECTORS;
                        let vector = at % TILE_VECTORS;
                        var words = vec4(0u);
                        if first + word < p.words && first_down + vector < row_vectors {
                            words = a[matrix.a + (first + word) * row_vectors + first_down + vector];
                        }
                        for (var r = 0u; r < 4u; r++) {
                            let codes = codes_of(words[r], part);
                            let to = (4u * vector + r) * A_PITCH + 4u * word;
                            a_tile[to] = codes.x;
                            a_tile[to + 1u] = codes.y;
                            a_tile[to + 2u] = codes.z;
                            a_tile[to + 3u] = codes.w;
                        }
                    }
                    for (var at = lane; at < STEP / 4u * TILE_VECTORS; at += LANES) {
                        let word = at / TILE_VECTORS;
                        let vector = at % TILE_VECTORS;
                        var words = vec4(0u);
                        if first + word < p.words && first_across + vector < column_vectors {
                            words = columns_at(matrix.b, first + word, first_across + vector);
                        }
                        for (var c = 0u; c < 4u; c++) {
                            let codes = vec4<f16>(unpack4xI8(words[c]));
                            let to = 4u * word * B_PITCH + 4u * vector + c;
                            b_tile[to] = codes.x;
                            b_tile[to + B_PITCH] = codes.y;
                            b_tile[to + 2u * B_PITCH] = codes.z;
                            b_tile[to + 3u * B_PITCH] = codes.w;
                        }
                    }
                    workgroupBarrier();
                    for (var k = 0u; k < STEP; k += SIDE) {
                        let a_0 = coopLoadT<Left>(&a_tile[block_row * A_PITCH + k], A_PITCH);
                        let a_1 = coopLoadT<Left>(&a_tile[(block_row + SIDE) * A_PITCH + k], A_PITCH);
                        let b_0 = coopLoadT<Right>(&b_tile[k * B_PITCH + block_column], B_PITCH);
                        let b_1 = coopLoadT<Right>(&b_tile[k * B_PITCH + block_column + SIDE], B_PITCH);
                        sum_00 = coopMultiplyAdd(a_0, b_0, sum_00);
                        sum_01 = coopMultiplyAdd(a_0, b_1, sum_01);
                        sum_10 = coopMultiplyAdd(a_1, b_0, sum_10);
                        sum_11 = coopMultiplyAdd(a_1, b_1, sum_11);
                    }
                    // Nobody may overwrite the tiles before all have read them.
                    workgroupBarrier();
                }
                // One matrix of each block after the other, through workgroup memory to whoever stores it.
                let place = min(first_block + subgroup, BLOCKS) * SIDE * SIDE;
                let taken = vec2(first_block, first_block + subgroups);
                coopStoreT(sum_00, &sums[place], SIDE);
                add_sums(&sum, part * VECTORS, lane, taken);
                coopStoreT(sum_01, &sums[place], SIDE);
                add_sums(&sum, part * VECTORS + PER_MATRIX, lane, taken);
                coopStoreT(sum_10, &sums[place], SIDE);
                add_sums(&sum, part * VECTORS + 2u * PER_MATRIX, lane, taken);
                coopStoreT(sum_11, &sums[place], SIDE);
                add_sums(&sum, part * VECTORS + 3u * PER_MATRIX, lane, taken);
            }
        }
    }
    var errors = array<vec4<f32>, VECTORS>();
    for (var v = 0u; v < VECTORS; v++) {
        let place = place_of(v, lane);
        let row = place.x;
        let columns = columns_of(matrix, 4u * (first_across + place.y));
        errors[v] = with_row(
            vec4(0.0),
            store_sums(matrix, columns, tile_row * TILE + row, sum[v], sum[VECTORS + v]),
        );
    }
    if EPILOGUE == ERROR || EPILOGUE == COLUMN_ERRORS {
        // Workgroup memory has room for one column of each vector.
        let rounds = select(1u, 4u, EPILOGUE == COLUMN_ERRORS);
        for (var c = 0u; c < rounds; c++) {
            for (var v = 0u; v < VECTORS; v++) {
                let place = place_of(v, lane);
                sums[place.x * TILE_VECTORS + place.y] = errors[v][c];
            }
            workgroupBarrier();
            for (var at = lane; at < TILE_VECTORS * TILE_VECTORS; at += LANES) {
                let row_vector = at / TILE_VECTORS;
                let vector = at % TILE_VECTORS;
                var error = 0.0;
                for (var row = 0u; row < 4u; row++) {
                    error += sums[(4u * row_vector + row) * TILE_VECTORS + vector];
                }
                store_error(matrix, tile_row * TILE_VECTORS + row_vector, first_across + vector, c, error);
            }
            workgroupBarrier();
        }
    }
}
