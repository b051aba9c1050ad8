// out = a * b + bias, a batch of matrix products in f32, each operand at its own strides.
//
// One invocation computes ROWS rows by four columns in registers: no workgroup memory and no barrier, so the same text
// runs well on software drivers. Neighbouring invocations take neighbouring columns.

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

const ROWS: u32 = 8u;
const COLUMNS: u32 = 4u;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn matrix(view: View, outer: u32, inner: u32) -> u32 {
    return view.offset + outer * view.outer + inner * view.inner;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let tile = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let tiles_across = (p.n + COLUMNS - 1u) / COLUMNS;
    let tiles_down = (p.m + ROWS - 1u) / ROWS;
    let problem = tile / (tiles_across * tiles_down);
    if problem >= p.outer * p.inner {
        return;
    }
    let column = tile % tiles_across * COLUMNS;
    let row = tile / tiles_across % tiles_down * ROWS;
    let outer = problem / p.inner;
    let inner = problem % p.inner;

    // Rows and columns past the edge are computed from the last valid one and not stored.
    let b_matrix = matrix(p.b, outer, inner);
    let b_start = b_matrix + min(vec4(column) + vec4(0u, 1u, 2u, 3u), vec4(p.n - 1u)) * p.b.column;
    let a_matrix = matrix(p.a, outer, inner);
    var a_start: array<u32, ROWS>;
    var sum: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        a_start[r] = a_matrix + min(row + r, p.m - 1u) * p.a.row;
        sum[r] = vec4(0.0);
    }
    for (var k = 0u; k < p.k; k++) {
        let at = b_start + k * p.b.row;
        let b_values = vec4(b[at.x], b[at.y], b[at.z], b[at.w]);
        let step = k * p.a.column;
        for (var r = 0u; r < ROWS; r++) {
            sum[r] += a[a_start[r] + step] * b_values;
        }
    }

    let out_matrix = matrix(p.out, outer, inner);
    for (var r = 0u; r < ROWS; r++) {
        for (var c = 0u; c < COLUMNS; c++) {
            if row + r < p.m && column + c < p.n {
                var value = sum[r][c];
                if p.has_bias != 0u {
                    value += bias[column + c];
                }
                out[out_matrix + (row + r) * p.out.row + (column + c) * p.out.column] = value;
            }
        }
    }
}
