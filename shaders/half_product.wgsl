enable f16;

// out = a * b + bias, a batch of matrix products of operands in f16; products and sums are in f32.
//
// a is [problem][m][k], b is [problem][k][n], each contiguous, rows and columns padded to multiples of four with zeros
// (to_half.wgsl).
//
// One invocation computes ROWS rows by four columns in registers, four steps of k at a time; neighbours take
// neighbouring columns.

struct Parameters {
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

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> a: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let tile = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let tiles_across = (p.n + 3u) / 4u;
    let tiles_down = (p.m + ROWS - 1u) / ROWS;
    let problem = tile / (tiles_across * tiles_down);
    if problem >= p.outer * p.inner {
        return;
    }
    let tile_column = tile % tiles_across;
    let row = tile / tiles_across % tiles_down * ROWS;

    // Rows past the edge are computed from the last valid one and not stored; columns past it are zeros in b.
    let steps = (p.k + 3u) / 4u;
    let a_matrix = problem * ((p.m + 3u) / 4u * 4u);
    var a_at: array<u32, ROWS>;
    var sum: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        a_at[r] = (a_matrix + min(row + r, p.m - 1u)) * steps;
        sum[r] = vec4(0.0);
    }
    var b_at = problem * steps * 4u * tiles_across + tile_column;
    for (var step = 0u; step < steps; step++) {
        let b_0 = vec4<f32>(b[b_at]);
        let b_1 = vec4<f32>(b[b_at + tiles_across]);
        let b_2 = vec4<f32>(b[b_at + 2u * tiles_across]);
        let b_3 = vec4<f32>(b[b_at + 3u * tiles_across]);
        b_at += 4u * tiles_across;
        for (var r = 0u; r < ROWS; r++) {
            let values = vec4<f32>(a[a_at[r] + step]);
            sum[r] += values.x * b_0 + values.y * b_1 + values.z * b_2 + values.w * b_3;
        }
    }

    let inner = problem % p.inner;
    let out_matrix = p.out.offset + problem / p.inner * p.out.outer + inner * p.out.inner;
    for (var r = 0u; r < ROWS; r++) {
        for (var c = 0u; c < 4u; c++) {
            let column = tile_column * 4u + c;
            if row + r < p.m && column < p.n {
                var value = sum[r][c];
                if p.has_bias != 0u {
                    value += bias[column];
                }
                out[out_matrix + (row + r) * p.out.row + column * p.out.column] = value;
            }
        }
    }
}
