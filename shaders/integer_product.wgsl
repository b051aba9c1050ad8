// Exact integer products of packed codes, and what becomes of them (shared/integer_product.wgsl).
//
// Two entry points give the same integers:
// main   One invocation computes twelve rows by twelve columns from global memory; neighbours take neighbouring columns.
//        Codes are unpacked to 32 bits, where a twin's can be shifted to one scale and be summed in one accumulator. This
//        is for software drivers, which have no dot product of packed codes, and for few rows.
// tiled  A workgroup of LANES_DOWN by LANES_ACROSS invocations, each with four rows, or eight (DOWN 2), by four columns, or
//        eight (ACROSS 2), stages STEP words of its rows and columns in workgroup memory, from where each is read many
//        times. With two STAGES a step is written while others still multiply the one before; with SLICES, so many times
//        as many invocations share the sums, a part of each step's words to each. This is for GPUs.

const ROW_VECTORS: u32 = 3u;
const COLUMN_VECTORS: u32 = 3u;
const SUMS: u32 = 4u * ROW_VECTORS * COLUMN_VECTORS;

// Four codes of a, a twin's in units of scale_1.
fn code_values(codes: u32, r2_unit: i32) -> vec4<i32> {
    let values = unpack4xI8(codes);
    if TWIN {
        return (values & vec4(127i)) * select(vec4(parameters.r1_sign), vec4(r2_unit), values < vec4(0i));
    }
    return values;
}

fn dot_values(values: vec4<i32>, columns: vec4<u32>) -> vec4<i32> {
    return vec4(
        dot(values, unpack4xI8(columns.x)),
        dot(values, unpack4xI8(columns.y)),
        dot(values, unpack4xI8(columns.z)),
        dot(values, unpack4xI8(columns.w)),
    );
}

// The same as `columns_at` for words that are read one after another: `stored` holds those of a group, and `missing`
// gathers the one that isn't stored. Without branches, which would cost more than they spare here.
fn next_columns(stored: vec4<u32>, word: u32, missing: ptr<function, vec4<u32>>) -> vec4<u32> {
    if SPARE == 0u {
        return stored;
    }
    let part = word % GROUP;
    let last = part == GROUP - 1u;
    let columns = select(stored_lanes(stored), *missing, last);
    *missing = select(*missing | missing_piece(stored, part), vec4(0u), last);
    return columns;
}

// Where a word of lanes is stored; the one that isn't, where the last of its group is.
fn stored_word(word: u32) -> u32 {
    if SPARE == 0u {
        return word;
    }
    return word / GROUP * (GROUP - 1u) + min(word % GROUP, GROUP - 2u);
}

// Adds one word of k of twelve rows by four columns. Indexed by anything but constants, the sums would not stay in
// registers.
fn add_columns(
    sum: ptr<function, array<vec4<i32>, SUMS>>,
    first: u32,
    rows: array<vec4<i32>, 12>,
    columns: vec4<u32>,
) {
    (*sum)[first] += dot_values(rows[0], columns);
    (*sum)[first + 1u] += dot_values(rows[1], columns);
    (*sum)[first + 2u] += dot_values(rows[2], columns);
    (*sum)[first + 3u] += dot_values(rows[3], columns);
    (*sum)[first + 4u] += dot_values(rows[4], columns);
    (*sum)[first + 5u] += dot_values(rows[5], columns);
    (*sum)[first + 6u] += dot_values(rows[6], columns);
    (*sum)[first + 7u] += dot_values(rows[7], columns);
    (*sum)[first + 8u] += dot_values(rows[8], columns);
    (*sum)[first + 9u] += dot_values(rows[9], columns);
    (*sum)[first + 10u] += dot_values(rows[10], columns);
    (*sum)[first + 11u] += dot_values(rows[11], columns);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let tile = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let row_vectors = (p.m + 3u) / 4u;
    let tiles_down = (row_vectors + ROW_VECTORS - 1u) / ROW_VECTORS;
    let column_vectors = (p.n + 3u) / 4u;
    let tiles_across = (column_vectors + COLUMN_VECTORS - 1u) / COLUMN_VECTORS;
    let index = tile / (tiles_across * tiles_down);
    if index >= p.jobs * p.outer * p.inner {
        return;
    }
    let matrix = matrix_of(index);
    let vector = tile % tiles_across * COLUMN_VECTORS;
    let tile_row = tile / tiles_across % tiles_down;
    var shift = 0u;
    // Sums of a twin fit an i32 for so many words: 4 * 127 * 2^m * 128 each.
    var stretch = p.words;
    if TWIN {
        shift = shift_of(matrix);
        stretch = 32768u >> shift;
    }

    // What lies past the last row or column is computed from whatever is read there, and not stored.
    var upper: array<vec4<i32>, SUMS>;
    var lower: array<vec4<i32>, SUMS>;
    var a_at = matrix.a + tile_row * ROW_VECTORS;
    var missing_x = vec4(0u);
    var missing_y = vec4(0u);
    var missing_z = vec4(0u);
    for (var start = 0u; start < p.words; start += stretch) {
        var sum = array<vec4<i32>, SUMS>();
        for (var word = start; word < min(start + stretch, p.words); word++) {
            let x = a[a_at];
            let y = a[a_at + 1u];
            let z = a[a_at + 2u];
            let r2_unit = 1i << shift;
            let rows = array(
                code_values(x.x, r2_unit),
                code_values(x.y, r2_unit),
                code_values(x.z, r2_unit),
                code_values(x.w, r2_unit),
                code_values(y.x, r2_unit),
                code_values(y.y, r2_unit),
                code_values(y.z, r2_unit),
                code_values(y.w, r2_unit),
                code_values(z.x, r2_unit),
                code_values(z.y, r2_unit),
                code_values(z.z, r2_unit),
                code_values(z.w, r2_unit),
            );
            let b_at = matrix.b + stored_word(word) * column_vectors + vector;
            add_columns(&sum, 0u, rows, next_columns(b[b_at], word, &missing_x));
            add_columns(&sum, 12u, rows, next_columns(b[b_at + 1u], word, &missing_y));
            add_columns(&sum, 24u, rows, next_columns(b[b_at + 2u], word, &missing_z));
            a_at += row_vectors;
        }
        for (var at = 0u; at < SUMS; at++) {
            let integers = sum[at] >> vec4(SPARE);
            if TWIN {
                lower[at] += integers & vec4((1i << shift) - 1i);
                upper[at] += (integers >> vec4(shift)) + (lower[at] >> vec4(shift));
                lower[at] &= vec4((1i << shift) - 1i);
            } else {
                lower[at] = integers;
            }
        }
    }

    for (var v = 0u; v < COLUMN_VECTORS; v++) {
        let columns = columns_of(matrix, 4u * (vector + v));
        for (var r = 0u; r < ROW_VECTORS; r++) {
            let row_vector = ROW_VECTORS * tile_row + r;
            var errors = vec4(0.0);
            for (var row = 0u; row < 4u; row++) {
                let at = 4u * (v * ROW_VECTORS + r) + row;
                errors = with_row(errors, store(matrix, columns, 4u * row_vector + row, combined(columns.shift, upper[at], lower[at])));
            }
            store_errors(matrix, row_vector, vector + v, errors);
        }
    }
}

fn dot_columns(codes: u32, columns: vec4<u32>) -> vec4<i32> {
    return vec4(
        dot4I8Packed(codes, columns.x),
        dot4I8Packed(codes, columns.y),
        dot4I8Packed(codes, columns.z),
        dot4I8Packed(codes, columns.w),
    );
}

// Vectors of four rows, and of four columns, of an invocation of `tiled`, one or two. Its rows are neighbours, its second
// columns LANES_ACROSS vectors from its first.
override DOWN: u32 = 2u;
override ACROSS: u32 = 1u;
// Sums of such an invocation: eight of its first four columns, then eight of its second.
const TILED_SUMS: u32 = 16u;

// Adds one word of k of its rows, in two vectors, by four columns.
fn accumulate(
    sum: ptr<function, array<vec4<i32>, TILED_SUMS>>,
    first: u32,
    above: vec4<u32>,
    below: vec4<u32>,
    columns: vec4<u32>,
) {
    (*sum)[first] += dot_columns(above.x, columns);
    (*sum)[first + 1u] += dot_columns(above.y, columns);
    (*sum)[first + 2u] += dot_columns(above.z, columns);
    (*sum)[first + 3u] += dot_columns(above.w, columns);
    if DOWN == 2u {
        (*sum)[first + 4u] += dot_columns(below.x, columns);
        (*sum)[first + 5u] += dot_columns(below.y, columns);
        (*sum)[first + 6u] += dot_columns(below.z, columns);
        (*sum)[first + 7u] += dot_columns(below.w, columns);
    }
}

// The lanes of each word that hold R2 codes.
fn in_r2(codes: vec4<u32>) -> vec4<u32> {
    return ((codes >> vec4(7u)) & vec4(0x01010101u)) * 0xffu;
}

// The same for codes of both ranges.
fn accumulate_ranges(
    r1: ptr<function, array<vec4<i32>, TILED_SUMS>>,
    r2: ptr<function, array<vec4<i32>, TILED_SUMS>>,
    first: u32,
    above: vec4<u32>,
    below: vec4<u32>,
    columns: vec4<u32>,
) {
    // Codes of R1 are their own magnitudes, so words without R2 cost what uniform ones do.
    if TWIN && any(((above | below) & vec4(0x80808080u)) != vec4(0u)) {
        let above_r2 = in_r2(above);
        let below_r2 = in_r2(below);
        accumulate(r1, first, above & ~above_r2, below & ~below_r2, columns);
        let magnitude = vec4(0x7f7f7f7fu);
        accumulate(r2, first, above & above_r2 & magnitude, below & below_r2 & magnitude, columns);
    } else {
        accumulate(r1, first, above, below, columns);
    }
}

override LANES_DOWN: u32 = 8u;
override LANES_ACROSS: u32 = 16u;
// Invocations that share each sum.
override SLICES: u32 = 1u;
// Words of k that are staged at once.
override STEP: u32 = 8u;
// Steps that are in workgroup memory.
override STAGES: u32 = 1u;
override LANES_OF_SLICE: u32 = LANES_DOWN * LANES_ACROSS;
override LANES: u32 = SLICES * LANES_OF_SLICE;
override VECTORS_DOWN: u32 = DOWN * LANES_DOWN;
override A_STEP: u32 = VECTORS_DOWN * STEP;
override A_LEN: u32 = STAGES * A_STEP;
override VECTORS_ACROSS: u32 = ACROSS * LANES_ACROSS;
override B_STEP: u32 = VECTORS_ACROSS * STEP;
override B_LEN: u32 = STAGES * B_STEP;
override EXCHANGED: u32 = select(1u, 4u * DOWN * ACROSS * LANES_OF_SLICE, SLICES > 1u);

// [stage][word][four rows]
var<workgroup> a_tile: array<vec4<u32>, A_LEN>;
// [stage][word][four columns]
var<workgroup> b_tile: array<vec4<u32>, B_LEN>;
// [sum of a row by four columns][invocation of a slice]
var<workgroup> exchange: array<vec4<i32>, EXCHANGED>;

// Adds the sums of all slices to those of the first.
fn gather_slices(sums: ptr<function, array<vec4<i32>, TILED_SUMS>>, slice: u32, lane: u32) {
    for (var other = 1u; other < SLICES; other++) {
        if slice == other {
            for (var at = 0u; at < 4u * DOWN * ACROSS; at++) {
                exchange[at * LANES_OF_SLICE + lane] = (*sums)[sum_at(at)];
            }
        }
        workgroupBarrier();
        if slice == 0u {
            for (var at = 0u; at < 4u * DOWN * ACROSS; at++) {
                (*sums)[sum_at(at)] += exchange[at * LANES_OF_SLICE + lane];
            }
        }
        workgroupBarrier();
    }
}

// Where the `at`th sum that an invocation has is among those that it may have.
fn sum_at(at: u32) -> u32 {
    return at / (4u * DOWN) * 8u + at % (4u * DOWN);
}

@compute @workgroup_size(LANES)
fn tiled(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let row_vectors = (p.m + 3u) / 4u;
    let column_vectors = (p.n + 3u) / 4u;
    let tiles_down = (row_vectors + VECTORS_DOWN - 1u) / VECTORS_DOWN;
    let tiles_across = (column_vectors + VECTORS_ACROSS - 1u) / VECTORS_ACROSS;
    let index = tile / (tiles_across * tiles_down);
    if index >= p.jobs * p.outer * p.inner {
        return;
    }
    let matrix = matrix_of(index);
    let first_across = tile % tiles_across * VECTORS_ACROSS;
    let first_down = tile / tiles_across % tiles_down * VECTORS_DOWN;
    let slice = lane / LANES_OF_SLICE;
    let lane_of_slice = lane % LANES_OF_SLICE;
    let lane_down = lane_of_slice / LANES_ACROSS;
    let lane_across = lane_of_slice % LANES_ACROSS;

    var r1: array<vec4<i32>, TILED_SUMS>;
    var r2: array<vec4<i32>, TILED_SUMS>;
    for (var first = 0u; first < p.words; first += STEP) {
        let stage = first / STEP % STAGES;
        // Rows, columns and words past the end count as zeros.
        for (var at = lane; at < A_STEP; at += LANES) {
            let word = first + at / VECTORS_DOWN;
            let vector = first_down + at % VECTORS_DOWN;
            var rows = vec4(0u);
            if word < p.words && vector < row_vectors {
                rows = a[matrix.a + word * row_vectors + vector];
            }
            a_tile[stage * A_STEP + at] = rows;
        }
        for (var at = lane; at < B_STEP; at += LANES) {
            let word = first + at / VECTORS_ACROSS;
            let vector = first_across + at % VECTORS_ACROSS;
            var columns = vec4(0u);
            if word < p.words && vector < column_vectors {
                columns = columns_at(matrix.b, word, vector);
            }
            b_tile[stage * B_STEP + at] = columns;
        }
        workgroupBarrier();
        for (var word = slice; word < STEP; word += SLICES) {
            let rows_at = stage * A_STEP + word * VECTORS_DOWN + DOWN * lane_down;
            let above = a_tile[rows_at];
            let below = a_tile[rows_at + DOWN - 1u];
            let columns_at = stage * B_STEP + word * VECTORS_ACROSS + lane_across;
            accumulate_ranges(&r1, &r2, 0u, above, below, b_tile[columns_at]);
            if ACROSS == 2u {
                accumulate_ranges(&r1, &r2, 8u, above, below, b_tile[columns_at + LANES_ACROSS]);
            }
        }
        if STAGES == 1u {
            // Nobody may overwrite the tiles before all have read them. Of two stages the other one is written next, which
            // all have read who came past the barrier.
            workgroupBarrier();
        }
    }

    // Copies may lie in memory, where a loop can index them.
    var r1_sums = r1;
    var r2_sums = r2;
    if SLICES > 1u {
        gather_slices(&r1_sums, slice, lane_of_slice);
        if TWIN {
            gather_slices(&r2_sums, slice, lane_of_slice);
        }
        if slice != 0u {
            return;
        }
    }
    for (var v = 0u; v < ACROSS; v++) {
        let vector = first_across + v * LANES_ACROSS + lane_across;
        let columns = columns_of(matrix, 4u * vector);
        for (var r = 0u; r < DOWN; r++) {
            let row_vector = first_down + DOWN * lane_down + r;
            var errors = vec4(0.0);
            for (var row = 0u; row < 4u; row++) {
                let at = 8u * v + 4u * r + row;
                errors = with_row(errors, store(matrix, columns, 4u * row_vector + row, combined_sums(columns.shift, r1_sums[at], r2_sums[at])));
            }
            store_errors(matrix, row_vector, vector, errors);
        }
    }
}
