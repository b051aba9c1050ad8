// Attention from codes of q, k and v on, for TILE queries of a head at a time: the scores q * k, their softmax, its codes p,
// and p * v. Scores and p are in workgroup memory alone. Its bits are those of integer_product.wgsl, softmax.wgsl or
// window_softmax.wgsl, and integer_product.wgsl once more, one after the other: integers are exact, and the lanes of a row
// (shared/rows.wgsl) add up what they add up there, in the same order.
//
// q and k lie as quantize.wgsl has them, [matrix][word of head_dim][token], and so does v, [matrix][word of tokens][column],
// in vectors of four tokens or columns. QUERY_TWIN and TWIN: q and p hold range-flag codes (shared/integer_product.wgsl).
//
// An invocation computes four queries by KEY_VECTORS vectors of keys, then QUERIES queries by COLUMN_VECTORS vectors of
// columns.

struct Parameters {
    // Where the values lie, in elements, [outer][head][query][column]; where the codes lie, in words (a step of `column`
    // is four columns).
    out: View,
    matrices: u32,
    heads: u32,
    tokens: u32,
    head_dim: u32,
    // WINDOWS: masks that take turns along outer.
    masks: u32,
    // What scores are multiplied by; positive.
    factor: f32,
    // 2^(bits - 1), of p and of the codes that are written.
    p_q: f32,
    next_q: f32,
    // In `constants`, where the encoders of p begin, how many there are, one or one for each head, and where the encoder of
    // the codes that are written begins.
    p_encoders: u32,
    p_groups: u32,
    next_encoder: u32,
    // Words of `scores` from a query's to the next one's: as many as there are keys, in whole vectors.
    stride: u32,
}

override QUERY_TWIN: bool = false;
override TWIN: bool = false;
// Biases and masks are added to the scores.
override WINDOWS: bool = false;
// Codes of the values are written, in the format NEXT_FORMAT; otherwise the values. FORMAT is that of p.
override CODES: bool = false;
override NEXT_FORMAT: u32 = 0u;
// Queries of a workgroup, a multiple of four, and of ROWS unless these are more: some invocations have no row then.
override TILE: u32 = 16u;
// Words of all scores of a tile, or more.
override SCORES: u32 = 256u;
// 1 or 3.
override KEY_VECTORS: u32 = 1u;
// 1 or 4.
override QUERIES: u32 = 1u;
// 1, or 2 where QUERIES is 4.
override COLUMN_VECTORS: u32 = 1u;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> queries: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> columns: array<vec4<u32>>;
// For each head what one unit of the scores' integers is worth, the left shift m of q's R2, and the same of the values'
// integers and of p's R2, floats by their bits; then encoders.
@group(0) @binding(4) var<storage, read> constants: array<u32>;
// [head][query][key]
@group(0) @binding(5) var<storage, read> bias: array<f32>;
// [mask][query][key]
@group(0) @binding(6) var<storage, read> mask: array<f32>;
// Floats by their bits, or codes.
@group(0) @binding(7) var<storage, read_write> out: array<u32>;

// [query][key], by their bits: the scores, then their exponentials, then in the place of the first of four of these the word
// of their codes.
var<workgroup> scores: array<u32, SCORES>;

// Where the queries of a workgroup are.
struct Tile {
    outer: u32,
    head: u32,
    first_query: u32,
    // Those that there are; the last tile of a head may have fewer than TILE.
    queries: u32,
}

// What turns integers into values.
struct Unit {
    worth: f32,
    shift: u32,
}

fn encoder_word(at: u32) -> u32 {
    return constants[at];
}

// Of the scores with `product` 0, of the values with 1.
fn unit_of(head: u32, product: u32) -> Unit {
    let at = 4u * head + 2u * product;
    return Unit(bitcast<f32>(constants[at]), u32(bitcast<f32>(constants[at + 1u])));
}

fn dot_columns(codes: u32, vector: vec4<u32>) -> vec4<i32> {
    return vec4(
        dot4I8Packed(codes, vector.x),
        dot4I8Packed(codes, vector.y),
        dot4I8Packed(codes, vector.z),
        dot4I8Packed(codes, vector.w),
    );
}

// Sums of an invocation: four rows of its first vector, then of its second and third.
const SUMS: u32 = 12u;

// Adds a word of four rows by four columns. Indexed by anything but constants, the sums would not stay in registers.
fn add_rows(sums: ptr<function, array<vec4<i32>, SUMS>>, first: u32, rows: vec4<u32>, vector: vec4<u32>) {
    (*sums)[first] += dot_columns(rows.x, vector);
    (*sums)[first + 1u] += dot_columns(rows.y, vector);
    (*sums)[first + 2u] += dot_columns(rows.z, vector);
    (*sums)[first + 3u] += dot_columns(rows.w, vector);
}

// The lanes of each word that hold R2 codes.
fn in_r2(codes: vec4<u32>) -> vec4<u32> {
    return ((codes >> vec4(7u)) & vec4(0x01010101u)) * 0xffu;
}

// The same for codes of both ranges. Codes of R1 are their own magnitudes, so words without R2 cost what they do without a
// twin.
fn add_ranges(
    r1: ptr<function, array<vec4<i32>, SUMS>>,
    r2: ptr<function, array<vec4<i32>, SUMS>>,
    first: u32,
    is_twin: bool,
    rows: vec4<u32>,
    vector: vec4<u32>,
) {
    if is_twin && any((rows & vec4(0x80808080u)) != vec4(0u)) {
        let rows_r2 = in_r2(rows);
        add_rows(r1, first, rows & ~rows_r2, vector);
        add_rows(r2, first, rows & rows_r2 & vec4(0x7f7f7f7fu), vector);
    } else {
        add_rows(r1, first, rows, vector);
    }
}

// A twin's R1 is split at the shift, and its upper part joins R2: neither can wrap.
fn values_of(r1: vec4<i32>, r2: vec4<i32>, is_twin: bool, unit: Unit) -> vec4<f32> {
    var integers = vec4<f32>(r1);
    if is_twin {
        let upper = r2 + (r1 >> vec4(unit.shift));
        integers = vec4<f32>(r1 & vec4((1i << unit.shift) - 1i));
        integers += vec4<f32>(upper) * f32(1u << unit.shift);
    }
    return integers * unit.worth;
}

// Leaves the scores of the tile in workgroup memory, those of keys that pad the last vector too.
fn compute_scores(tile: Tile, invocation: u32) {
    let p = parameters;
    let unit = unit_of(tile.head, 0u);
    let vectors = (p.tokens + 3u) / 4u;
    let words = (p.head_dim + 3u) / 4u;
    let matrix_at = (tile.outer * p.heads + tile.head) * words * vectors;
    let across = (vectors + KEY_VECTORS - 1u) / KEY_VECTORS;
    let tasks = (tile.queries + 3u) / 4u * across;
    for (var task = invocation; task < tasks; task += INVOCATIONS) {
        let down = task / across;
        let vector = task % across * KEY_VECTORS;
        var r1 = array<vec4<i32>, SUMS>();
        var r2 = array<vec4<i32>, SUMS>();
        for (var word = 0u; word < words; word++) {
            let line = matrix_at + word * vectors;
            let rows = queries[line + tile.first_query / 4u + down];
            add_ranges(&r1, &r2, 0u, QUERY_TWIN, rows, keys[line + vector]);
            if KEY_VECTORS == 3u {
                add_ranges(&r1, &r2, 4u, QUERY_TWIN, rows, keys[line + vector + 1u]);
                add_ranges(&r1, &r2, 8u, QUERY_TWIN, rows, keys[line + vector + 2u]);
            }
        }
        // Copies may lie in memory, where a loop can index them.
        var r1_sums = r1;
        var r2_sums = r2;
        for (var v = 0u; v < min(KEY_VECTORS, vectors - vector); v++) {
            for (var row = 0u; row < 4u; row++) {
                let sum = 4u * v + row;
                let values = bitcast<vec4<u32>>(values_of(r1_sums[sum], r2_sums[sum], QUERY_TWIN, unit));
                let at = (4u * down + row) * p.stride + 4u * (vector + v);
                scores[at] = values.x;
                scores[at + 1u] = values.y;
                scores[at + 2u] = values.z;
                scores[at + 3u] = values.w;
            }
        }
    }
}

fn exponent(score: f32, largest: f32) -> f32 {
    if WINDOWS {
        return score - largest;
    }
    return parameters.factor * (score - largest);
}

fn score(at: u32) -> f32 {
    return bitcast<f32>(scores[at]);
}

// Replaces the scores of one row by the codes of their softmax. All invocations come here.
fn compute_codes(tile: Tile, row: u32, invocation: u32) {
    let p = parameters;
    let lane = invocation % LANES;
    let tokens = select(0u, p.tokens, row < tile.queries);
    let query = tile.first_query + row;
    let start = row * p.stride;
    let bias_at = (tile.head * p.tokens + query) * p.tokens;
    let mask_at = (tile.outer % max(p.masks, 1u) * p.tokens + query) * p.tokens;
    // A lane may have no element of its own.
    var own_largest = -3.40282346e38;
    for (var key = lane; key < tokens; key += LANES) {
        var x = score(start + key);
        if WINDOWS {
            x = p.factor * x + (bias[bias_at + key] + mask[mask_at + key]);
            scores[start + key] = bitcast<u32>(x);
        }
        own_largest = max(own_largest, x);
    }
    let largest = max_of_lanes(own_largest, invocation);
    var sum = 0.0;
    for (var key = lane; key < tokens; key += LANES) {
        let exponential = exp(exponent(score(start + key), largest));
        scores[start + key] = bitcast<u32>(exponential);
        sum += exponential;
    }
    // Bringing the sums together, every lane waits for the exponentials of all.
    let inverse = 1.0 / sum_of_lanes(sum, invocation);
    let encoder = encoder_at(p.p_encoders + tile.head % p.p_groups * encoder_words());
    for (var word = lane; 4u * word < tokens; word += LANES) {
        let at = start + 4u * word;
        let values = vec4(score(at), score(at + 1u), score(at + 2u), score(at + 3u)) * inverse;
        // What lies beyond the row counts as nothing.
        scores[at] = first_lanes(quantize(values, encoder, p.p_q), tokens - 4u * word);
    }
}

// Computes the values of the tile, or their codes.
fn compute_values(tile: Tile, invocation: u32) {
    let p = parameters;
    let unit = unit_of(tile.head, 1u);
    let encoder = encoder_at(p.next_encoder);
    let vectors = (p.head_dim + 3u) / 4u;
    let words = (p.tokens + 3u) / 4u;
    let matrix_at = (tile.outer * p.heads + tile.head) * words * vectors;
    let out_at = p.out.offset + tile.outer * p.out.outer + tile.head * p.out.inner;
    let across = (vectors + COLUMN_VECTORS - 1u) / COLUMN_VECTORS;
    let tasks = (tile.queries + QUERIES - 1u) / QUERIES * across;
    for (var task = invocation; task < tasks; task += INVOCATIONS) {
        let first_row = task / across * QUERIES;
        let vector = task % across * COLUMN_VECTORS;
        var r1 = array<vec4<i32>, SUMS>();
        var r2 = array<vec4<i32>, SUMS>();
        for (var word = 0u; word < words; word++) {
            let line = matrix_at + word * vectors + vector;
            let at = first_row * p.stride + 4u * word;
            if QUERIES == 4u {
                let codes =
                    vec4(scores[at], scores[at + p.stride], scores[at + 2u * p.stride], scores[at + 3u * p.stride]);
                add_ranges(&r1, &r2, 0u, TWIN, codes, columns[line]);
                if COLUMN_VECTORS == 2u {
                    add_ranges(&r1, &r2, 4u, TWIN, codes, columns[line + 1u]);
                }
            } else {
                let codes = scores[at];
                if TWIN && (codes & 0x80808080u) != 0u {
                    let codes_r2 = in_r2(vec4(codes)).x;
                    r1[0] += dot_columns(codes & ~codes_r2, columns[line]);
                    r2[0] += dot_columns(codes & codes_r2 & 0x7f7f7f7fu, columns[line]);
                } else {
                    r1[0] += dot_columns(codes, columns[line]);
                }
            }
        }
        var r1_sums = r1;
        var r2_sums = r2;
        for (var v = 0u; v < min(COLUMN_VECTORS, vectors - vector); v++) {
            for (var row = 0u; row < min(QUERIES, tile.queries - first_row); row++) {
                let values = values_of(r1_sums[4u * v + row], r2_sums[4u * v + row], TWIN, unit);
                let at = out_at + (tile.first_query + first_row + row) * p.out.row;
                store(at, 4u * (vector + v), values, encoder);
            }
        }
    }
}

// Writes the values of four columns of one query, whose own begin at `at`, or their codes.
fn store(at: u32, first_column: u32, values: vec4<f32>, encoder: Encoder) {
    let p = parameters;
    if CODES {
        let codes = quantize_in(NEXT_FORMAT, values, encoder, p.next_q);
        out[at + first_column / 4u * p.out.column] = first_lanes(codes, p.head_dim - first_column);
        return;
    }
    for (var c = 0u; c < min(4u, p.head_dim - first_column); c++) {
        out[at + (first_column + c) * p.out.column] = bitcast<u32>(values[c]);
    }
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let p = parameters;
    let index = workgroup.y * workgroups.x + workgroup.x;
    let tiles_down = (p.tokens + TILE - 1u) / TILE;
    let matrix = index / tiles_down;
    if matrix >= p.matrices {
        return;
    }
    let first_query = index % tiles_down * TILE;
    let tile = Tile(matrix / p.heads, matrix % p.heads, first_query, min(TILE, p.tokens - first_query));

    compute_scores(tile, invocation);
    workgroupBarrier();
    for (var first = 0u; first < TILE; first += ROWS) {
        compute_codes(tile, first + invocation / LANES, invocation);
    }
    workgroupBarrier();
    compute_values(tile, invocation);
}
