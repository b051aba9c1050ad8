// The same as integer_product.wgsl, from cooperative matrices (shared/integer_product.wgsl).
//
// Codes are exact in f16, their products in f32, and so are sums of up to 1024 of those, 2^24 at most. Longer sums (LONG)
// are divided before that, again and again, into a multiple of 2^12, which is kept, and a rest.
//
// A workgroup has BLOCKS_DOWN by BLOCKS_ACROSS blocks. It stages STEP codes of all its rows and columns as f16 in workgroup
// memory, having fetched them while the ones before were multiplied, and each subgroup multiplies a block of four by two
// matrices. A twin's R1 and R2 are rows of their own there: the first two matrices of a block are R1 of its rows, the other
// two are R2 of the same rows. How many subgroups a workgroup has is known only here: where there are fewer than blocks,
// they take turns.

enable f16;
enable wgpu_cooperative_matrix;

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
// Rows and columns of a matrix. The Rust side makes 16 of it, and of the names above, where the adapter's are larger.
const SIDE: u32 = 8u;

override BLOCKS_DOWN: u32 = 2u;
override BLOCKS_ACROSS: u32 = 4u;
override BLOCKS: u32 = BLOCKS_DOWN * BLOCKS_ACROSS;
// Invocations: a block of four by four sums is finished by one of them, in each matrix of all blocks at once.
override LANES: u32 = BLOCKS * 32u;
// Whether sums are longer than 1024 codes.
override LONG: bool = false;

// Codes that are staged at once, and their words.
const STEP: u32 = 32u;
const WORDS: u32 = STEP / 4u;
// Words after which a long sum is divided: 31 steps, so that a rest of up to 2^11 can be added to 992 * 2^14.
const FLUSH: u32 = 31u * WORDS;
// Words from a row to the next. They keep rows out of each other's memory banks.
const PITCH: u32 = WORDS + 2u;

// Rows and columns that are staged, in vectors of four, as they lie in memory.
override LEFT_VECTORS: u32 = BLOCKS_DOWN * SIDE;
override RIGHT_VECTORS: u32 = BLOCKS_ACROSS * SIDE / 2u;
override STAGED: u32 = (LEFT_VECTORS + RIGHT_VECTORS) * WORDS;
// Of those, what an invocation fetches, six at most.
override FETCHES: u32 = (STAGED + LANES - 1u) / LANES;
override RANGES: u32 = select(1u, 2u, TWIN);
override TILE_ROW_VECTORS: u32 = LEFT_VECTORS / RANGES;

override TILE_LEN: u32 = 4u * (LEFT_VECTORS + RIGHT_VECTORS) * PITCH;
// [row, then column][word of k]
var<workgroup> tile: array<vec4<f16>, TILE_LEN>;
// Matrices that are exchanged at once: rests of R1, then of R2, then multiples of 2^12 of each.
override SLOTS: u32 = select(RANGES, 2u * RANGES, LONG);
override SLOT_LEN: u32 = BLOCKS * SIDE * SIDE;
override SCRATCH_LEN: u32 = SLOTS * SLOT_LEN;
// [slot][block][row][column]
var<workgroup> scratch: array<f32, SCRATCH_LEN>;

// Where a workgroup's tile lies.
struct Place {
    matrix: Matrix,
    // In vectors.
    first_down: u32,
    first_across: u32,
}

// Fetches four rows or columns of one word of k: number `at` of those that are staged, of which rows come first. What
// lies past the end counts as zeros.
fn fetch(place: Place, first_word: u32, at: u32) -> vec4<u32> {
    let word = first_word + at % WORDS;
    let vector = at / WORDS;
    if vector < LEFT_VECTORS {
        let row_vectors = (parameters.m + 3u) / 4u;
        let down = place.first_down + vector % TILE_ROW_VECTORS;
        if word >= parameters.words || down >= row_vectors {
            return vec4(0u);
        }
        let codes = a[place.matrix.a + word * row_vectors + down];
        if !TWIN {
            return codes;
        }
        let in_r2 = ((codes >> vec4(7u)) & vec4(0x01010101u)) * 0xffu;
        return codes & vec4(0x7f7f7f7fu) & select(in_r2, ~in_r2, vector < TILE_ROW_VECTORS);
    }
    let across = place.first_across + vector - LEFT_VECTORS;
    if word >= parameters.words || across >= (parameters.n + 3u) / 4u {
        return vec4(0u);
    }
    return columns_at(place.matrix.b, word, across);
}

// Two codes, each in the low byte of a half and 128 too large, as f16: 0x6400 is 1024 there, whose last bit is worth 1.
// (Naga has no bitcast to f16; drivers see that the way through f32 is none.)
fn halves(biased: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float((biased & 0x00ff00ffu) | 0x64006400u)) - vec2(1152.0h);
}

// Stages what was fetched. The codes of a word change places, those of rows and of columns alike.
fn stage(at: u32, words: vec4<u32>) {
    if at >= STAGED {
        return;
    }
    let biased = words ^ vec4(0x80808080u);
    let to = at / WORDS * 4u * PITCH + at % WORDS;
    tile[to] = vec4(halves(biased.x), halves(biased.x >> 8u));
    tile[to + PITCH] = vec4(halves(biased.y), halves(biased.y >> 8u));
    tile[to + 2u * PITCH] = vec4(halves(biased.z), halves(biased.z >> 8u));
    tile[to + 3u * PITCH] = vec4(halves(biased.w), halves(biased.w >> 8u));
}

const UNITS_PER_PART: f32 = 4096.0;
const PART_PER_UNIT: f32 = 1.0 / UNITS_PER_PART;

// The multiple of 2^12 that is nearest to a sum, in units of 2^12. `rounder` is 1.5 * 2^23 throughout and `opposite` minus
// that; were they known to be opposites, a driver could take their difference for nothing.
fn upper_part(sum: Sum, rounder: Sum, opposite: Sum) -> Sum {
    return (sum * PART_PER_UNIT + rounder) + opposite;
}

// Matrix `number` of the first eight; with `number` alike in all invocations, none is moved through memory.
fn picked(number: u32, m_0: Sum, m_1: Sum, m_2: Sum, m_3: Sum, m_4: Sum, m_5: Sum, m_6: Sum, m_7: Sum) -> Sum {
    switch number {
        case 0u: { return m_0; }
        case 1u: { return m_1; }
        case 2u: { return m_2; }
        case 3u: { return m_3; }
        case 4u: { return m_4; }
        case 5u: { return m_5; }
        case 6u: { return m_6; }
        default: { return m_7; }
    }
}

// Four sums of a range, 0 or 1, that lie in `scratch`.
fn exchanged(at: u32, range: u32) -> vec4<i32> {
    let rest_at = range * SLOT_LEN + at;
    let rest = vec4<i32>(vec4(scratch[rest_at], scratch[rest_at + 1u], scratch[rest_at + 2u], scratch[rest_at + 3u]));
    if !LONG {
        return rest;
    }
    let part_at = RANGES * SLOT_LEN + rest_at;
    let parts = vec4<i32>(vec4(scratch[part_at], scratch[part_at + 1u], scratch[part_at + 2u], scratch[part_at + 3u]));
    return rest + (parts << vec4(12u));
}

// Finishes four by four sums that lie in `scratch` from `at` on.
fn finish(matrix: Matrix, row_vector: u32, vector: u32, at: u32) {
    let columns = columns_of(matrix, 4u * vector);
    var errors = vec4(0.0);
    for (var row = 0u; row < 4u; row++) {
        let r1 = exchanged(at + row * SIDE, 0u);
        var r2 = vec4(0i);
        if TWIN {
            r2 = exchanged(at + row * SIDE, 1u);
        }
        errors = with_row(errors, store(matrix, columns, 4u * row_vector + row, combined_sums(columns.shift, r1, r2)));
    }
    store_errors(matrix, row_vector, vector, errors);
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
    let tiles_down = ((p.m + 3u) / 4u + TILE_ROW_VECTORS - 1u) / TILE_ROW_VECTORS;
    let tiles_across = ((p.n + 3u) / 4u + RIGHT_VECTORS - 1u) / RIGHT_VECTORS;
    let index = number / (tiles_across * tiles_down);
    if index >= p.jobs * p.outer * p.inner {
        return;
    }
    let place = Place(
        matrix_of(index),
        number / tiles_across % tiles_down * TILE_ROW_VECTORS,
        number % tiles_across * RIGHT_VECTORS,
    );

    var rounder = Sum();
    var opposite = Sum();
    if LONG {
        for (var at = lane; at < SIDE * SIDE; at += LANES) {
            scratch[at] = ROUNDER;
            scratch[SCRATCH_LEN - SIDE * SIDE + at] = -ROUNDER;
        }
        workgroupBarrier();
        rounder = coopLoadT<Sum>(&scratch[0], SIDE);
        opposite = coopLoadT<Sum>(&scratch[SCRATCH_LEN - SIDE * SIDE], SIDE);
        workgroupBarrier();
    }
    for (var first_block = 0u; first_block < BLOCKS; first_block += subgroups) {
        // Naga wants uniform control flow here, so subgroups without a block repeat the last one for nobody.
        let block = min(first_block + subgroup, BLOCKS - 1u);
        let right_at = (4u * LEFT_VECTORS + block % BLOCKS_ACROSS * 2u * SIDE) * PITCH;
        var left_at = block / BLOCKS_ACROSS * 4u * SIDE * PITCH;
        var r2_at = left_at + 2u * SIDE * PITCH;
        if TWIN {
            left_at = block / BLOCKS_ACROSS * 2u * SIDE * PITCH;
            r2_at = left_at + 2u * LEFT_VECTORS * PITCH;
        }
        var sum_00 = Sum();
        var sum_01 = Sum();
        var sum_10 = Sum();
        var sum_11 = Sum();
        var sum_20 = Sum();
        var sum_21 = Sum();
        var sum_30 = Sum();
        var sum_31 = Sum();
        var upper_00 = Sum();
        var upper_01 = Sum();
        var upper_10 = Sum();
        var upper_11 = Sum();
        var upper_20 = Sum();
        var upper_21 = Sum();
        var upper_30 = Sum();
        var upper_31 = Sum();
        var fetched_0 = vec4(0u);
        var fetched_1 = vec4(0u);
        var fetched_2 = vec4(0u);
        var fetched_3 = vec4(0u);
        var fetched_4 = vec4(0u);
        var fetched_5 = vec4(0u);
        fetched_0 = fetch(place, 0u, lane);
        if FETCHES > 1u {
            fetched_1 = fetch(place, 0u, lane + LANES);
        }
        if FETCHES > 2u {
            fetched_2 = fetch(place, 0u, lane + 2u * LANES);
        }
        if FETCHES > 3u {
            fetched_3 = fetch(place, 0u, lane + 3u * LANES);
        }
        if FETCHES > 4u {
            fetched_4 = fetch(place, 0u, lane + 4u * LANES);
            fetched_5 = fetch(place, 0u, lane + 5u * LANES);
        }
        for (var word = 0u; word < p.words; word += WORDS) {
            stage(lane, fetched_0);
            if FETCHES > 1u {
                stage(lane + LANES, fetched_1);
            }
            if FETCHES > 2u {
                stage(lane + 2u * LANES, fetched_2);
            }
            if FETCHES > 3u {
                stage(lane + 3u * LANES, fetched_3);
            }
            if FETCHES > 4u {
                stage(lane + 4u * LANES, fetched_4);
                stage(lane + 5u * LANES, fetched_5);
            }
            workgroupBarrier();
            // They come while those that are staged are multiplied.
            let next = word + WORDS;
            fetched_0 = fetch(place, next, lane);
            if FETCHES > 1u {
                fetched_1 = fetch(place, next, lane + LANES);
            }
            if FETCHES > 2u {
                fetched_2 = fetch(place, next, lane + 2u * LANES);
            }
            if FETCHES > 3u {
                fetched_3 = fetch(place, next, lane + 3u * LANES);
            }
            if FETCHES > 4u {
                fetched_4 = fetch(place, next, lane + 4u * LANES);
                fetched_5 = fetch(place, next, lane + 5u * LANES);
            }
            for (var k = 0u; k < WORDS; k += SIDE / 4u) {
                let right_0 = coopLoad<Right>(&tile[right_at + k], PITCH);
                let right_1 = coopLoad<Right>(&tile[right_at + SIDE * PITCH + k], PITCH);
                let left_0 = coopLoadT<Left>(&tile[left_at + k], PITCH);
                let left_1 = coopLoadT<Left>(&tile[left_at + SIDE * PITCH + k], PITCH);
                let left_2 = coopLoadT<Left>(&tile[r2_at + k], PITCH);
                let left_3 = coopLoadT<Left>(&tile[r2_at + SIDE * PITCH + k], PITCH);
                sum_00 = coopMultiplyAdd(left_0, right_0, sum_00);
                sum_01 = coopMultiplyAdd(left_0, right_1, sum_01);
                sum_10 = coopMultiplyAdd(left_1, right_0, sum_10);
                sum_11 = coopMultiplyAdd(left_1, right_1, sum_11);
                sum_20 = coopMultiplyAdd(left_2, right_0, sum_20);
                sum_21 = coopMultiplyAdd(left_2, right_1, sum_21);
                sum_30 = coopMultiplyAdd(left_3, right_0, sum_30);
                sum_31 = coopMultiplyAdd(left_3, right_1, sum_31);
            }
            if LONG && next % FLUSH == 0u {
                let part_00 = upper_part(sum_00, rounder, opposite);
                let part_01 = upper_part(sum_01, rounder, opposite);
                let part_10 = upper_part(sum_10, rounder, opposite);
                let part_11 = upper_part(sum_11, rounder, opposite);
                let part_20 = upper_part(sum_20, rounder, opposite);
                let part_21 = upper_part(sum_21, rounder, opposite);
                let part_30 = upper_part(sum_30, rounder, opposite);
                let part_31 = upper_part(sum_31, rounder, opposite);
                sum_00 -= part_00 * UNITS_PER_PART;
                sum_01 -= part_01 * UNITS_PER_PART;
                sum_10 -= part_10 * UNITS_PER_PART;
                sum_11 -= part_11 * UNITS_PER_PART;
                sum_20 -= part_20 * UNITS_PER_PART;
                sum_21 -= part_21 * UNITS_PER_PART;
                sum_30 -= part_30 * UNITS_PER_PART;
                sum_31 -= part_31 * UNITS_PER_PART;
                upper_00 += part_00;
                upper_01 += part_01;
                upper_10 += part_10;
                upper_11 += part_11;
                upper_20 += part_20;
                upper_21 += part_21;
                upper_30 += part_30;
                upper_31 += part_31;
            }
            // Nobody may overwrite the tile before all have read it.
            workgroupBarrier();
        }

        // One matrix of each block after the other, through workgroup memory to whoever finishes it: an invocation for four by
        // four sums, in a loop, because what becomes of them is long.
        let store_at = block * SIDE * SIDE;
        let finished_block = lane / (SIDE * SIDE / 16u);
        let within = vec2(lane % (SIDE * SIDE / 16u) / (SIDE / 4u), lane % (SIDE / 4u));
        let is_active = finished_block >= first_block && finished_block < min(first_block + subgroups, BLOCKS);
        let read_at = finished_block * SIDE * SIDE + 4u * (within.x * SIDE + within.y);
        let row_vector = place.first_down + finished_block / BLOCKS_ACROSS * SIDE / RANGES + within.x;
        let vector = place.first_across + finished_block % BLOCKS_ACROSS * (SIDE / 2u) + within.y;
        for (var number = 0u; number < 8u / RANGES; number++) {
            coopStoreT(
                picked(number, sum_00, sum_01, sum_10, sum_11, sum_20, sum_21, sum_30, sum_31),
                &scratch[store_at],
                SIDE,
            );
            if TWIN {
                coopStoreT(
                    picked(number + 4u, sum_00, sum_01, sum_10, sum_11, sum_20, sum_21, sum_30, sum_31),
                    &scratch[SLOT_LEN + store_at],
                    SIDE,
                );
            }
            if LONG {
                coopStoreT(
                    picked(number, upper_00, upper_01, upper_10, upper_11, upper_20, upper_21, upper_30, upper_31),
                    &scratch[RANGES * SLOT_LEN + store_at],
                    SIDE,
                );
                if TWIN {
                    coopStoreT(
                        picked(number + 4u, upper_00, upper_01, upper_10, upper_11, upper_20, upper_21, upper_30, upper_31),
                        &scratch[3u * SLOT_LEN + store_at],
                        SIDE,
                    );
                }
            }
            workgroupBarrier();
            if is_active {
                finish(place.matrix, row_vector + number / 2u * (SIDE / 4u), vector + number % 2u * (SIDE / 4u), read_at);
            }
            workgroupBarrier();
        }
    }
}
