// out = a * b + bias, a batch of matrix products in f32.
//
// a is [problem][k][m / 4] and b is [problem][k][n / 4], in vectors of four rows or columns that pack_quads.wgsl laid out,
// m and n padded to a multiple of 12.
//
// Two entry points add each sum up in the same order:
// main   One invocation computes a tile of 12 rows by 12 columns in registers, from global memory. Software drivers set
//        the tile and its form. There a load takes longer than the multiply-adds it feeds, but one of four elements hardly
//        longer than one of a single element, hence the packing and the large tile. And the loop's body is written out:
//        every loop around it, however short, would mask each sum once more.
// tiled  A workgroup of LANES_DOWN by LANES_ACROSS invocations, each with four rows, or eight (DOWN 2), by four columns, or
//        eight (ACROSS 2), stages STEP steps of k of its rows and columns in workgroup memory, from where each is read many
//        times. With two STAGES they are written while others still multiply those before. This is for GPUs.

struct Parameters {
    out: View,
    problems: u32,
    inner: u32,
    m: u32,
    n: u32,
    k: u32,
    has_bias: u32,
    unused_0: u32,
    unused_1: u32,
}

// Vectors along one side of a tile.
const QUADS: u32 = 3u;
const SIDE: u32 = 12u;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

// Where the output of a problem begins.
fn out_of(problem: u32) -> u32 {
    let view = parameters.out;
    return view.offset + problem / parameters.inner * view.outer + problem % parameters.inner * view.inner;
}

// Writes four neighbouring columns of one row, where row and columns exist.
fn store(matrix: u32, row: u32, first_column: u32, sum: vec4<f32>) {
    let p = parameters;
    for (var c = 0u; c < 4u; c++) {
        let column = first_column + c;
        if row < p.m && column < p.n {
            var value = sum[c];
            if p.has_bias != 0u {
                value += bias[column];
            }
            out[matrix + row * p.out.row + column * p.out.column] = value;
        }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let tile = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let tiles_across = (p.n + SIDE - 1u) / SIDE;
    let tiles_down = (p.m + SIDE - 1u) / SIDE;
    let problem = tile / (tiles_across * tiles_down);
    if problem >= p.problems {
        return;
    }
    let across = tile % tiles_across;
    let down = tile / tiles_across % tiles_down;

    let a_step = tiles_down * QUADS;
    let b_step = tiles_across * QUADS;
    var a_at = problem * p.k * a_step + down * QUADS;
    var b_at = problem * p.k * b_step + across * QUADS;
    // Row by row, a row being QUADS vectors.
    var sum: array<vec4<f32>, 36>;
    for (var k = 0u; k < p.k; k++) {
        let a0 = a[a_at];
        let a1 = a[a_at + 1u];
        let a2 = a[a_at + 2u];
        let b0 = b[b_at];
        sum[0] += a0.x * b0;
        sum[3] += a0.y * b0;
        sum[6] += a0.z * b0;
        sum[9] += a0.w * b0;
        sum[12] += a1.x * b0;
        sum[15] += a1.y * b0;
        sum[18] += a1.z * b0;
        sum[21] += a1.w * b0;
        sum[24] += a2.x * b0;
        sum[27] += a2.y * b0;
        sum[30] += a2.z * b0;
        sum[33] += a2.w * b0;
        let b1 = b[b_at + 1u];
        sum[1] += a0.x * b1;
        sum[4] += a0.y * b1;
        sum[7] += a0.z * b1;
        sum[10] += a0.w * b1;
        sum[13] += a1.x * b1;
        sum[16] += a1.y * b1;
        sum[19] += a1.z * b1;
        sum[22] += a1.w * b1;
        sum[25] += a2.x * b1;
        sum[28] += a2.y * b1;
        sum[31] += a2.z * b1;
        sum[34] += a2.w * b1;
        let b2 = b[b_at + 2u];
        sum[2] += a0.x * b2;
        sum[5] += a0.y * b2;
        sum[8] += a0.z * b2;
        sum[11] += a0.w * b2;
        sum[14] += a1.x * b2;
        sum[17] += a1.y * b2;
        sum[20] += a1.z * b2;
        sum[23] += a1.w * b2;
        sum[26] += a2.x * b2;
        sum[29] += a2.y * b2;
        sum[32] += a2.z * b2;
        sum[35] += a2.w * b2;
        a_at += a_step;
        b_at += b_step;
    }

    let matrix = out_of(problem);
    for (var r = 0u; r < SIDE; r++) {
        for (var q = 0u; q < QUADS; q++) {
            store(matrix, down * SIDE + r, across * SIDE + q * 4u, sum[r * QUADS + q]);
        }
    }
}

override LANES_DOWN: u32 = 8u;
override LANES_ACROSS: u32 = 16u;
// Quads of rows, and of columns, of an invocation, one or two. Its rows are neighbours, its second columns LANES_ACROSS
// quads from its first.
override DOWN: u32 = 2u;
override ACROSS: u32 = 1u;
// Steps of k that are staged at once.
override STEP: u32 = 16u;
// How many times as many are in workgroup memory.
override STAGES: u32 = 1u;
override LANES: u32 = LANES_DOWN * LANES_ACROSS;
override QUADS_DOWN: u32 = DOWN * LANES_DOWN;
override A_STEP: u32 = QUADS_DOWN * STEP;
override A_LEN: u32 = STAGES * A_STEP;
override QUADS_ACROSS: u32 = ACROSS * LANES_ACROSS;
override B_STEP: u32 = QUADS_ACROSS * STEP;
override B_LEN: u32 = STAGES * B_STEP;

// Adds one step of k of an invocation's rows, in two quads, by four columns: its first sums, or the second eight.
fn accumulate(
    sum: ptr<function, array<vec4<f32>, 16>>,
    first: u32,
    above: vec4<f32>,
    below: vec4<f32>,
    columns: vec4<f32>,
) {
    (*sum)[first] += above.x * columns;
    (*sum)[first + 1u] += above.y * columns;
    (*sum)[first + 2u] += above.z * columns;
    (*sum)[first + 3u] += above.w * columns;
    if DOWN == 2u {
        (*sum)[first + 4u] += below.x * columns;
        (*sum)[first + 5u] += below.y * columns;
        (*sum)[first + 6u] += below.z * columns;
        (*sum)[first + 7u] += below.w * columns;
    }
}

// [stage][step][four rows]
var<workgroup> a_tile: array<vec4<f32>, A_LEN>;
// [stage][step][four columns]
var<workgroup> b_tile: array<vec4<f32>, B_LEN>;

@compute @workgroup_size(LANES)
fn tiled(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let tiles_across = (p.n + 4u * QUADS_ACROSS - 1u) / (4u * QUADS_ACROSS);
    let tiles_down = (p.m + 4u * QUADS_DOWN - 1u) / (4u * QUADS_DOWN);
    let problem = tile / (tiles_across * tiles_down);
    if problem >= p.problems {
        return;
    }
    let first_across = tile % tiles_across * QUADS_ACROSS;
    let first_down = tile / tiles_across % tiles_down * QUADS_DOWN;
    let a_step = (p.m + SIDE - 1u) / SIDE * QUADS;
    let b_step = (p.n + SIDE - 1u) / SIDE * QUADS;
    let lane_down = lane / LANES_ACROSS;
    let lane_across = lane % LANES_ACROSS;

    var sum: array<vec4<f32>, 16>;
    for (var first = 0u; first < p.k; first += STEP) {
        let stage = first / STEP % STAGES;
        // Rows, columns and steps past the end count as zeros.
        for (var at = lane; at < A_STEP; at += LANES) {
            let k = first + at / QUADS_DOWN;
            let quad = first_down + at % QUADS_DOWN;
            var rows = vec4(0.0);
            if k < p.k && quad < a_step {
                rows = a[(problem * p.k + k) * a_step + quad];
            }
            a_tile[stage * A_STEP + at] = rows;
        }
        for (var at = lane; at < B_STEP; at += LANES) {
            let k = first + at / QUADS_ACROSS;
            let quad = first_across + at % QUADS_ACROSS;
            var columns = vec4(0.0);
            if k < p.k && quad < b_step {
                columns = b[(problem * p.k + k) * b_step + quad];
            }
            b_tile[stage * B_STEP + at] = columns;
        }
        workgroupBarrier();
        for (var step = 0u; step < STEP; step++) {
            let rows_at = stage * A_STEP + step * QUADS_DOWN + DOWN * lane_down;
            let above = a_tile[rows_at];
            let below = a_tile[rows_at + DOWN - 1u];
            let columns_at = stage * B_STEP + step * QUADS_ACROSS + lane_across;
            accumulate(&sum, 0u, above, below, b_tile[columns_at]);
            if ACROSS == 2u {
                accumulate(&sum, 8u, above, below, b_tile[columns_at + LANES_ACROSS]);
            }
        }
        if STAGES == 1u {
            // Nobody may overwrite the tiles before all have read them. Of two stages the other one is written next, which
            // all have read who came past the barrier.
            workgroupBarrier();
        }
    }

    // A copy may lie in memory, where a loop can index it.
    var sums = sum;
    let matrix = out_of(problem);
    let row = 4u * (first_down + DOWN * lane_down);
    for (var q = 0u; q < ACROSS; q++) {
        for (var r = 0u; r < 4u * DOWN; r++) {
            store(matrix, row + r, 4u * (first_across + q * LANES_ACROSS + lane_across), sums[8u * q + r]);
        }
    }
}
