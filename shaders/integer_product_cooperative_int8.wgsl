// The same as integer_product.wgsl, from cooperative matrices of int8 with sums in i32 (shared/integer_product.wgsl). Such
// sums are exact. What stands for these matrices in WGSL is in shared/int8_matrices.
//
// A subgroup multiplies a block of matrices: TALL four, else two down, four across. A twin's R1 and R2 are rows of their own:
// the upper half of a block is R1 of its rows, the lower half R2 of the same rows. A workgroup has BLOCKS_DOWN by
// BLOCKS_ACROSS blocks, and SLICES subgroups, a power of two, to a block, each for another slice of k: where there are few
// rows, more subgroups have something to do. The workgroup stages QUADS times sixteen codes of all its rows, columns and
// slices, having fetched them while the ones before were multiplied. How many subgroups there are is known only here: where
// there are fewer than asked for, they take turns.

enable wgpu_cooperative_matrix;

override BLOCKS_DOWN: u32 = 1u;
override BLOCKS_ACROSS: u32 = 1u;
override SLICES: u32 = 1u;
override TALL: bool = false;
override LANES: u32 = 32u;
// Codes of a left matrix's row, or a right one's column.
override DEPTH: u32 = SIDE;

override BLOCKS: u32 = BLOCKS_DOWN * BLOCKS_ACROSS;
override DOWN: u32 = select(2u, 4u, TALL);
const ACROSS: u32 = 4u;
override RANGES: u32 = select(1u, 2u, TWIN);

// Codes of a line that are staged at once of each slice: in quads of sixteen, and in words.
override QUADS: u32 = 4u;
override WORDS: u32 = 4u * QUADS;
// Quads from a line to the next; a line is a row of the left operand or a column of the right one. Lines that are read
// together begin in different memory banks.
override PITCH: u32 = QUADS + 1u;

override LEFT_LINES: u32 = BLOCKS_DOWN * DOWN * SIDE;
override RIGHT_LINES: u32 = BLOCKS_ACROSS * ACROSS * SIDE;
override LINES: u32 = LEFT_LINES + RIGHT_LINES;
// Rows and columns of the result, in vectors of four, as operands lie in memory.
override TILE_DOWN: u32 = LEFT_LINES / (4u * RANGES);
override TILE_ACROSS: u32 = RIGHT_LINES / 4u;
// Chunks are a quad of four rows or columns. An invocation fetches four of them at most.
override SLICE_CHUNKS: u32 = (TILE_DOWN + TILE_ACROSS) * QUADS;
override CHUNKS: u32 = SLICES * SLICE_CHUNKS;
override FETCHES: u32 = (CHUNKS + LANES - 1u) / LANES;

// Sums are exchanged two matrices of each range at a time, which lie side by side.
override SUMS_PITCH: u32 = RANGES * SIDE / 2u + 1u;
override SLOT: u32 = SIDE * SUMS_PITCH;
// What an invocation finishes at once: a column of values, a word of codes, or four by four sums whose errors are added up.
override IS_CODES: bool = EPILOGUE == CODES || EPILOGUE == GELU_CODES;
override PARTS: u32 = select(select(SIDE * SIDE / 8u, SIDE * SIDE / 2u, IS_CODES), 2u * SIDE, EPILOGUE == VALUES);
const ROW_VECTORS: u32 = SIDE / 4u;
// [slice][line][quad]; then, at the end, [block][slice][row][quad of sums].
override TILE_LEN: u32 = PIECES_PER_QUAD * max(SLICES * LINES * PITCH, BLOCKS * SLICES * SLOT);
var<workgroup> tile: array<Piece, TILE_LEN>;
// What is known of the tile's columns, in vectors.
var<workgroup> column_scales: array<vec4<f32>, TILE_ACROSS>;
var<workgroup> column_biases: array<vec4<f32>, TILE_ACROSS>;

// Where a workgroup's tile lies.
struct Place {
    matrix: Matrix,
    // In vectors.
    first_down: u32,
    first_across: u32,
    // Whatever holds of all columns.
    columns: Columns,
}

// A quad of four rows or columns, word after word.
struct Chunk {
    word_0: vec4<u32>,
    word_1: vec4<u32>,
    word_2: vec4<u32>,
    word_3: vec4<u32>,
}

// One word of four rows. What lies past the end counts as zeros.
fn rows_at(at: u32, word: u32) -> vec4<u32> {
    if word >= parameters.words {
        return vec4(0u);
    }
    return a[at];
}

// Four words of four columns, of which the first is a multiple of four. What lies past the end may be anything, because rows
// are zero there.
fn columns_chunk(matrix_b: u32, word: u32, vector: u32) -> Chunk {
    let vectors = (parameters.n + 3u) / 4u;
    if SPARE == 0u {
        let at = matrix_b + word * vectors + vector;
        return Chunk(b[at], b[at + vectors], b[at + 2u * vectors], b[at + 3u * vectors]);
    }
    // They are whole groups, so nothing stored is read twice: one of three words, or two of a word each.
    let at = matrix_b + word / GROUP * (GROUP - 1u) * vectors + vector;
    let first = b[at];
    let second = b[at + vectors];
    if GROUP == 2u {
        return Chunk(stored_lanes(first), missing_piece(first, 0u), stored_lanes(second), missing_piece(second, 0u));
    }
    let third = b[at + 2u * vectors];
    return Chunk(
        stored_lanes(first),
        stored_lanes(second),
        stored_lanes(third),
        missing_piece(first, 0u) | missing_piece(second, 1u) | missing_piece(third, 2u),
    );
}

// Fetches chunk `number` of those that are staged next: of a slice rows first, then columns. Neighbours fetch the quads of
// the same ones.
fn fetch(place: Place, first_word: u32, number: u32) -> Chunk {
    let vector = number % SLICE_CHUNKS / QUADS;
    let word = first_word + number / SLICE_CHUNKS * WORDS + number % QUADS * 4u;
    if vector < TILE_DOWN {
        let row_vectors = (parameters.m + 3u) / 4u;
        let down = place.first_down + vector;
        if down >= row_vectors {
            return Chunk();
        }
        let at = place.matrix.a + word * row_vectors + down;
        return Chunk(
            rows_at(at, word),
            rows_at(at + row_vectors, word + 1u),
            rows_at(at + 2u * row_vectors, word + 2u),
            rows_at(at + 3u * row_vectors, word + 3u),
        );
    }
    let across = place.first_across + vector - TILE_DOWN;
    if word >= parameters.words || across >= (parameters.n + 3u) / 4u {
        return Chunk();
    }
    return columns_chunk(place.matrix.b, word, across);
}

// Stages a chunk that was fetched as this `number`. Rows of a twin become two lines, R1's and R2's.
fn stage(number: u32, chunk: Chunk) {
    if number >= CHUNKS {
        return;
    }
    let vector = number % SLICE_CHUNKS / QUADS;
    let slice_at = number / SLICE_CHUNKS * LINES * PITCH + number % QUADS;
    if !TWIN {
        put_lines(slice_at + vector * 4u * PITCH, chunk);
    } else if vector < TILE_DOWN {
        let at = slice_at + vector * 4u * PITCH;
        put_lines(at, of_range(chunk, 0u));
        put_lines(at + LEFT_LINES / 2u * PITCH, of_range(chunk, 1u));
    } else {
        put_lines(slice_at + (vector + TILE_DOWN) * 4u * PITCH, chunk);
    }
}

fn put_lines(at: u32, chunk: Chunk) {
    put(at, vec4(chunk.word_0.x, chunk.word_1.x, chunk.word_2.x, chunk.word_3.x));
    put(at + PITCH, vec4(chunk.word_0.y, chunk.word_1.y, chunk.word_2.y, chunk.word_3.y));
    put(at + 2u * PITCH, vec4(chunk.word_0.z, chunk.word_1.z, chunk.word_2.z, chunk.word_3.z));
    put(at + 3u * PITCH, vec4(chunk.word_0.w, chunk.word_1.w, chunk.word_2.w, chunk.word_3.w));
}

// The magnitudes of a twin's codes that are of this range, 0 or 1, and zeros in the place of the others.
fn of_range(chunk: Chunk, range: u32) -> Chunk {
    return Chunk(
        word_of_range(chunk.word_0, range),
        word_of_range(chunk.word_1, range),
        word_of_range(chunk.word_2, range),
        word_of_range(chunk.word_3, range),
    );
}

fn word_of_range(word: vec4<u32>, range: u32) -> vec4<u32> {
    let in_r2 = ((word >> vec4(7u)) & vec4(0x01010101u)) * 0xffu;
    return word & vec4(0x7f7f7f7fu) & select(~in_r2, in_r2, range == 1u);
}

// Puts two matrices of a range's sums, 0 or 1, side by side.
fn exchange(slot: u32, range: u32, left: Sum, right: Sum) {
    let at = slot * SLOT + range * SIDE / 2u;
    coopStoreT(left, &tile[PIECES_PER_QUAD * at], PIECES_PER_QUAD * SUMS_PITCH);
    coopStoreT(right, &tile[PIECES_PER_QUAD * (at + SIDE / 4u)], PIECES_PER_QUAD * SUMS_PITCH);
}

// Four sums over all slices, of which the first one's lie at `at`.
fn over_slices(at: u32, slices: u32) -> vec4<i32> {
    var sums = taken(at);
    if SLICES > 1u {
        for (var slice = 1u; slice < slices; slice++) {
            sums += taken(at + slice * SLOT);
        }
    }
    return sums;
}

// The integers of four neighbouring columns of a row, whose sums lie at `at`.
fn row_at(at: u32, slices: u32, shift: u32) -> vec4<f32> {
    var r2 = vec4(0i);
    if TWIN {
        r2 = over_slices(at + SIDE / 2u, slices);
    }
    return combined_sums(shift, over_slices(at, slices), r2);
}

// One sum of four neighbouring rows over all slices: the first is number `which` of the four at `at`.
fn rows_over_slices(at: u32, which: u32, slices: u32) -> vec4<i32> {
    var sums = vec4(0i);
    for (var slice = 0u; slice < slices; slice++) {
        let first = at + slice * SLOT;
        sums += vec4(
            taken_one(first, which),
            taken_one(first + SUMS_PITCH, which),
            taken_one(first + 2u * SUMS_PITCH, which),
            taken_one(first + 3u * SUMS_PITCH, which),
        );
    }
    return sums;
}

// The tile's columns of vector `across`.
fn columns_of_tile(place: Place, across: u32) -> Columns {
    var columns = place.columns;
    columns.first = 4u * (place.first_across + across);
    columns.scale = column_scales[across];
    columns.bias = column_biases[across];
    return columns;
}

// Finishes codes: four neighbouring columns of the tile's row `row`, whose sums lie at `at`.
fn finish_row(place: Place, row: u32, across: u32, at: u32, slices: u32) {
    let columns = columns_of_tile(place, across);
    store(place.matrix, columns, 4u * place.first_down + row, row_at(at, slices, columns.shift));
}

// Finishes values: all rows of a matrix in one column, number `which` of vector `across`. The first row's sums lie at `at`.
fn finish_column(place: Place, down: u32, across: u32, which: u32, at: u32, slices: u32) {
    let column = 4u * (place.first_across + across) + which;
    let scale = column_scales[across][which];
    let bias = column_biases[across][which];
    // All residuals before anything is stored: one wait for them.
    var to: array<vec4<u32>, ROW_VECTORS>;
    var added: array<vec4<f32>, ROW_VECTORS>;
    for (var r = 0u; r < ROW_VECTORS; r++) {
        to[r] = values_at(place.matrix, 4u * (place.first_down + down + r), column);
        added[r] = residuals(to[r]);
    }
    for (var r = 0u; r < ROW_VECTORS; r++) {
        let first_at = at + 4u * r * SUMS_PITCH;
        var r2 = vec4(0i);
        if TWIN {
            r2 = rows_over_slices(first_at + SIDE / 2u, which, slices);
        }
        let integers = combined_sums(place.columns.shift, rows_over_slices(first_at, which, slices), r2);
        var values = integers * scale + bias;
        if parameters.has_residual != 0u {
            values += added[r];
        }
        store_values(place.matrix, to[r], values);
    }
}

// Finishes errors: four by four, whose first row's sums lie at `at`.
fn finish_square(place: Place, down: u32, across: u32, at: u32, slices: u32) {
    let columns = columns_of_tile(place, across);
    let row_vector = place.first_down + down;
    var errors = vec4(0.0);
    for (var row = 0u; row < 4u; row++) {
        let integers = row_at(at + row * SUMS_PITCH, slices, columns.shift);
        errors = with_row(errors, store(place.matrix, columns, 4u * row_vector + row, integers));
    }
    store_errors(place.matrix, row_vector, columns.first / 4u, errors);
}

// Finishes part `within` of the two matrices that lie side by side at `at`; in the tile, their first row and column vectors
// are `down` and `across`. Neighbours write what lies side by side: codes along a column, values along a row.
fn finish(place: Place, down: u32, across: u32, within: u32, at: u32, slices: u32) {
    switch EPILOGUE {
        case VALUES: {
            let vector = within / 4u;
            finish_column(place, down, across + vector, within % 4u, at + vector, slices);
        }
        case CODES, GELU_CODES: {
            let row = within % SIDE;
            let vector = within / SIDE;
            finish_row(place, 4u * down + row, across + vector, at + row * SUMS_PITCH + vector, slices);
        }
        default: {
            let row_vector = within / (SIDE / 2u);
            let vector = within % (SIDE / 2u);
            let first_at = at + 4u * row_vector * SUMS_PITCH + vector;
            finish_square(place, down + row_vector, across + vector, first_at, slices);
        }
    }
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
    let number = workgroup.y * workgroups.x + workgroup.x;
    let tiles_down = ((p.m + 3u) / 4u + TILE_DOWN - 1u) / TILE_DOWN;
    let tiles_across = ((p.n + 3u) / 4u + TILE_ACROSS - 1u) / TILE_ACROSS;
    let index = number / (tiles_across * tiles_down);
    if index >= p.jobs * p.outer * p.inner {
        return;
    }
    let matrix = matrix_of(index);
    let first_across = number % tiles_across * TILE_ACROSS;
    let place = Place(
        matrix,
        number / tiles_across % tiles_down * TILE_DOWN,
        first_across,
        columns_of(matrix, 4u * first_across),
    );
    for (var across = lane; across < TILE_ACROSS; across += LANES) {
        let columns = columns_of(matrix, 4u * (first_across + across));
        column_scales[across] = columns.scale;
        column_biases[across] = columns.bias;
    }
    // Slices of a block, and blocks, at once.
    var slices = SLICES;
    while slices > 1u && slices * BLOCKS > subgroups {
        slices /= 2u;
    }
    let blocks = min(subgroups / slices, BLOCKS);
    // Naga wants uniform control flow, so subgroups without a block repeat the last one for nobody.
    let turn_block = min(subgroup / slices, blocks - 1u);
    let first_slice = subgroup % slices;

    for (var first_block = 0u; first_block < BLOCKS; first_block += blocks) {
        let block = min(first_block + turn_block, BLOCKS - 1u);
        let right_at = (LEFT_LINES + block % BLOCKS_ACROSS * ACROSS * SIDE) * PITCH;
        let upper_at = block / BLOCKS_ACROSS * (DOWN / RANGES) * SIDE * PITCH;
        var lower_at = upper_at + DOWN / 2u * SIDE * PITCH;
        if TWIN {
            lower_at = upper_at + LEFT_LINES / 2u * PITCH;
        }
        var sum_00 = Sum();
        var sum_01 = Sum();
        var sum_02 = Sum();
        var sum_03 = Sum();
        var sum_10 = Sum();
        var sum_11 = Sum();
        var sum_12 = Sum();
        var sum_13 = Sum();
        var sum_20 = Sum();
        var sum_21 = Sum();
        var sum_22 = Sum();
        var sum_23 = Sum();
        var sum_30 = Sum();
        var sum_31 = Sum();
        var sum_32 = Sum();
        var sum_33 = Sum();
        // Codes are fetched while the ones before, which are staged, are multiplied.
        for (var word = 0u; ; word += SLICES * WORDS) {
            var chunk_0 = fetch(place, word, lane);
            var chunk_1 = Chunk();
            var chunk_2 = Chunk();
            var chunk_3 = Chunk();
            if FETCHES > 1u {
                chunk_1 = fetch(place, word, lane + LANES);
            }
            if FETCHES > 2u {
                chunk_2 = fetch(place, word, lane + 2u * LANES);
            }
            if FETCHES > 3u {
                chunk_3 = fetch(place, word, lane + 3u * LANES);
            }
            // At first nothing is staged. (A condition would not be uniform to naga.)
            let rounds = select(SLICES / slices, 0u, word == 0u);
            for (var round = 0u; round < rounds; round++) {
                let slice = round * slices + first_slice;
                for (var k = 0u; k < 4u * WORDS; k += DEPTH) {
                    let from_line = PIECES_PER_QUAD * slice * LINES * PITCH + PIECES_PER_QUAD * k / 16u;
                    let matrix_at = PIECES_PER_QUAD * SIDE * PITCH;
                    let right = from_line + PIECES_PER_QUAD * right_at;
                    let upper = from_line + PIECES_PER_QUAD * upper_at;
                    let lower = from_line + PIECES_PER_QUAD * lower_at;
                    let right_0 = coopLoad<Right>(&tile[right], PIECES_PER_QUAD * PITCH);
                    let right_1 = coopLoad<Right>(&tile[right + matrix_at], PIECES_PER_QUAD * PITCH);
                    let right_2 = coopLoad<Right>(&tile[right + 2u * matrix_at], PIECES_PER_QUAD * PITCH);
                    let right_3 = coopLoad<Right>(&tile[right + 3u * matrix_at], PIECES_PER_QUAD * PITCH);
                    let left_0 = coopLoadT<Left>(&tile[upper], PIECES_PER_QUAD * PITCH);
                    sum_00 = coopMultiplyAdd(left_0, right_0, sum_00);
                    sum_01 = coopMultiplyAdd(left_0, right_1, sum_01);
                    sum_02 = coopMultiplyAdd(left_0, right_2, sum_02);
                    sum_03 = coopMultiplyAdd(left_0, right_3, sum_03);
                    let left_2 = coopLoadT<Left>(&tile[lower], PIECES_PER_QUAD * PITCH);
                    sum_20 = coopMultiplyAdd(left_2, right_0, sum_20);
                    sum_21 = coopMultiplyAdd(left_2, right_1, sum_21);
                    sum_22 = coopMultiplyAdd(left_2, right_2, sum_22);
                    sum_23 = coopMultiplyAdd(left_2, right_3, sum_23);
                    if TALL {
                        let left_1 = coopLoadT<Left>(&tile[upper + matrix_at], PIECES_PER_QUAD * PITCH);
                        sum_10 = coopMultiplyAdd(left_1, right_0, sum_10);
                        sum_11 = coopMultiplyAdd(left_1, right_1, sum_11);
                        sum_12 = coopMultiplyAdd(left_1, right_2, sum_12);
                        sum_13 = coopMultiplyAdd(left_1, right_3, sum_13);
                        let left_3 = coopLoadT<Left>(&tile[lower + matrix_at], PIECES_PER_QUAD * PITCH);
                        sum_30 = coopMultiplyAdd(left_3, right_0, sum_30);
                        sum_31 = coopMultiplyAdd(left_3, right_1, sum_31);
                        sum_32 = coopMultiplyAdd(left_3, right_2, sum_32);
                        sum_33 = coopMultiplyAdd(left_3, right_3, sum_33);
                    }
                }
            }
            // Nobody may overwrite the tile before all have read it.
            workgroupBarrier();
            if word >= p.words {
                break;
            }
            stage(lane, chunk_0);
            if FETCHES > 1u {
                stage(lane + LANES, chunk_1);
            }
            if FETCHES > 2u {
                stage(lane + 2u * LANES, chunk_2);
            }
            if FETCHES > 3u {
                stage(lane + 3u * LANES, chunk_3);
            }
            workgroupBarrier();
        }

        // Two matrices of each block after the other (of a twin two of R1 and the same two of R2), through workgroup memory to
        // whoever finishes them, in a loop, because what becomes of them is long.
        let slot = turn_block * slices + first_slice;
        let to_finish = min(blocks, BLOCKS - first_block) * PARTS;
        for (var turn = 0u; turn < 2u * DOWN / RANGES; turn++) {
            switch turn {
                case 0u: {
                    exchange(slot, 0u, sum_00, sum_01);
                    if TWIN {
                        exchange(slot, 1u, sum_20, sum_21);
                    }
                }
                case 1u: {
                    exchange(slot, 0u, sum_02, sum_03);
                    if TWIN {
                        exchange(slot, 1u, sum_22, sum_23);
                    }
                }
                case 2u: {
                    if TALL {
                        exchange(slot, 0u, sum_10, sum_11);
                    } else {
                        exchange(slot, 0u, sum_20, sum_21);
                    }
                    if TWIN {
                        exchange(slot, 1u, sum_30, sum_31);
                    }
                }
                case 3u: {
                    if TALL {
                        exchange(slot, 0u, sum_12, sum_13);
                    } else {
                        exchange(slot, 0u, sum_22, sum_23);
                    }
                    if TWIN {
                        exchange(slot, 1u, sum_32, sum_33);
                    }
                }
                case 4u: {
                    exchange(slot, 0u, sum_20, sum_21);
                }
                case 5u: {
                    exchange(slot, 0u, sum_22, sum_23);
                }
                case 6u: {
                    exchange(slot, 0u, sum_30, sum_31);
                }
                default: {
                    exchange(slot, 0u, sum_32, sum_33);
                }
            }
            workgroupBarrier();
            for (var part = lane; part < to_finish; part += LANES) {
                let finished = part / PARTS;
                let finished_block = first_block + finished;
                let matrix_down = finished_block / BLOCKS_ACROSS * (DOWN / RANGES) + turn / 2u;
                let matrix_across = finished_block % BLOCKS_ACROSS * ACROSS + turn % 2u * 2u;
                finish(
                    place,
                    matrix_down * (SIDE / 4u),
                    matrix_across * (SIDE / 4u),
                    part % PARTS,
                    finished * slices * SLOT,
                    slices,
                );
            }
            workgroupBarrier();
        }
    }
}
