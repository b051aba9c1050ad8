// out = a * b + bias, a batch of matrix products in f32, each operand at its own strides.
//
// Each invocation computes eight rows by four columns. Two entry points add each sum up in the same order:
// main   reads global memory only; neighbours take neighbouring columns. Without workgroup memory and barriers it suits
//        software drivers, and few rows.
// tiled  stages STEP steps of k of the rows and columns of a workgroup, LANES_DOWN by LANES_ACROSS invocations, in
//        workgroup memory, from where each is read many times. This is for GPUs.

struct View {
    offset: u32,
    outer: u32,
    inner: u32,
    row: u32,
    column: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

struct Parameters {
    a: View,
    b: View,
    out: View,
    outer: u32,
    inner: u32,
    m: u32,
    n: u32,
    k: u32,
    has_bias: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn matrix(view: View, outer: u32, inner: u32) -> u32 {
    return view.offset + outer * view.outer + inner * view.inner;
}

// Adds one step of k: of eight rows, in two vectors, by four columns. An array that is indexed by anything but constants
// would not stay in registers.
fn accumulate(sum: ptr<function, array<vec4<f32>, 8>>, upper: vec4<f32>, lower: vec4<f32>, columns: vec4<f32>) {
    (*sum)[0] += upper.x * columns;
    (*sum)[1] += upper.y * columns;
    (*sum)[2] += upper.z * columns;
    (*sum)[3] += upper.w * columns;
    (*sum)[4] += lower.x * columns;
    (*sum)[5] += lower.y * columns;
    (*sum)[6] += lower.z * columns;
    (*sum)[7] += lower.w * columns;
}

// Writes four neighbouring columns of one row, where row and columns exist.
fn store(problem: u32, row: u32, first_column: u32, sum: vec4<f32>) {
    let p = parameters;
    if row >= p.m {
        return;
    }
    let at = matrix(p.out, problem / p.inner, problem % p.inner) + row * p.out.row;
    for (var c = 0u; c < 4u; c++) {
        let column = first_column + c;
        if column < p.n {
            var value = sum[c];
            if p.has_bias != 0u {
                value += bias[column];
            }
            out[at + column * p.out.column] = value;
        }
    }
}

// Stores what an invocation computed: eight rows by four columns.
fn store_rows(problem: u32, row: u32, column: u32, sum: ptr<function, array<vec4<f32>, 8>>) {
    // A copy may lie in memory, where a loop can index it.
    var sums = *sum;
    for (var r = 0u; r < 8u; r++) {
        store(problem, row + r, column, sums[r]);
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
    let tiles_across = (p.n + 3u) / 4u;
    let tiles_down = (p.m + 7u) / 8u;
    let problem = tile / (tiles_across * tiles_down);
    if problem >= p.outer * p.inner {
        return;
    }
    let column = tile % tiles_across * 4u;
    let row = tile / tiles_across % tiles_down * 8u;

    // Rows and columns past the edge are copies of the last one and not stored.
    let neighbours = vec4(0u, 1u, 2u, 3u);
    let a_matrix = matrix(p.a, problem / p.inner, problem % p.inner);
    let b_matrix = matrix(p.b, problem / p.inner, problem % p.inner);
    let upper_at = a_matrix + min(row + neighbours, vec4(p.m - 1u)) * p.a.row;
    let lower_at = a_matrix + min(row + 4u + neighbours, vec4(p.m - 1u)) * p.a.row;
    let columns_at = b_matrix + min(column + neighbours, vec4(p.n - 1u)) * p.b.column;
    var sum: array<vec4<f32>, 8>;
    for (var k = 0u; k < p.k; k++) {
        let upper = upper_at + k * p.a.column;
        let lower = lower_at + k * p.a.column;
        let columns = columns_at + k * p.b.row;
        accumulate(
            &sum,
            vec4(a[upper.x], a[upper.y], a[upper.z], a[upper.w]),
            vec4(a[lower.x], a[lower.y], a[lower.z], a[lower.w]),
            vec4(b[columns.x], b[columns.y], b[columns.z], b[columns.w]),
        );
    }
    store_rows(problem, row, column, &sum);
}

override LANES_DOWN: u32 = 8u;
override LANES_ACROSS: u32 = 16u;
// Steps of k that are staged at once.
override STEP: u32 = 16u;
override LANES: u32 = LANES_DOWN * LANES_ACROSS;
// Rows and columns are staged in vectors of four. Odd pitches keep invocations that write neighbouring steps of k out of
// each other's memory banks.
override A_QUADS: u32 = 2u * LANES_DOWN;
override B_QUADS: u32 = LANES_ACROSS;
override A_PITCH: u32 = A_QUADS + 1u;
override B_PITCH: u32 = B_QUADS + 1u - B_QUADS % 2u;
override A_LEN: u32 = A_PITCH * STEP;
override B_LEN: u32 = B_PITCH * STEP;

// [step][four rows]
var<workgroup> a_tile: array<vec4<f32>, A_LEN>;
// [step][four columns]
var<workgroup> b_tile: array<vec4<f32>, B_LEN>;

// The step of k and the quad that an invocation brings. Neighbours take what lies side by side in global memory.
fn share(at: u32, quads: u32, along_k: bool) -> vec2<u32> {
    if along_k {
        return vec2(at % STEP, at / STEP);
    }
    return vec2(at / quads, at % quads);
}

@compute @workgroup_size(LANES)
fn tiled(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let tiles_across = (p.n + 4u * LANES_ACROSS - 1u) / (4u * LANES_ACROSS);
    let tiles_down = (p.m + 8u * LANES_DOWN - 1u) / (8u * LANES_DOWN);
    let problem = tile / (tiles_across * tiles_down);
    if problem >= p.outer * p.inner {
        return;
    }
    let first_column = tile % tiles_across * 4u * LANES_ACROSS;
    let first_row = tile / tiles_across % tiles_down * 8u * LANES_DOWN;
    let a_matrix = matrix(p.a, problem / p.inner, problem % p.inner);
    let b_matrix = matrix(p.b, problem / p.inner, problem % p.inner);
    let lane_down = lane / LANES_ACROSS;
    let lane_across = lane % LANES_ACROSS;

    var sum: array<vec4<f32>, 8>;
    for (var first = 0u; first < p.k; first += STEP) {
        // Rows and columns past the edge are copies of the last one and not stored; steps past the end count as zeros.
        for (var at = lane; at < A_QUADS * STEP; at += LANES) {
            let place = share(at, A_QUADS, p.a.column < p.a.row);
            let k = first + place.x;
            var rows = vec4(0.0);
            if k < p.k {
                let row = vec4(first_row + 4u * place.y) + vec4(0u, 1u, 2u, 3u);
                let from_step = a_matrix + k * p.a.column + min(row, vec4(p.m - 1u)) * p.a.row;
                rows = vec4(a[from_step.x], a[from_step.y], a[from_step.z], a[from_step.w]);
            }
            a_tile[place.x * A_PITCH + place.y] = rows;
        }
        for (var at = lane; at < B_QUADS * STEP; at += LANES) {
            let place = share(at, B_QUADS, p.b.row < p.b.column);
            let k = first + place.x;
            var columns = vec4(0.0);
            if k < p.k {
                let column = vec4(first_column + 4u * place.y) + vec4(0u, 1u, 2u, 3u);
                let from_step = b_matrix + k * p.b.row + min(column, vec4(p.n - 1u)) * p.b.column;
                columns = vec4(b[from_step.x], b[from_step.y], b[from_step.z], b[from_step.w]);
            }
            b_tile[place.x * B_PITCH + place.y] = columns;
        }
        workgroupBarrier();
        for (var k = 0u; k < STEP; k++) {
            let upper = a_tile[k * A_PITCH + 2u * lane_down];
            let lower = a_tile[k * A_PITCH + 2u * lane_down + 1u];
            accumulate(&sum, upper, lower, b_tile[k * B_PITCH + lane_across]);
        }
        // Nobody may overwrite the tiles before all have read them.
        workgroupBarrier();
    }
    store_rows(problem, first_row + 8u * lane_down, first_column + 4u * lane_across, &sum);
}
