// qkv [tokens, 3, heads, head_dim] with queries and keys of length 1, and queries then of their head's scale, so that their
// products are cosines of this size. Values stay as they are, and what has no length stays zero.
//
// The lanes of a row (shared/rows.wgsl), which is one head's part of a token, find its length together.

struct Parameters {
    // Rows of qkv: three for each token and head.
    rows: u32,
    heads: u32,
    head_dim: u32,
    // The least length that is divided by, squared.
    least_square: f32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
// [heads]
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let p = parameters;
    let row = (workgroup.y * workgroups.x + workgroup.x) * ROWS + invocation / LANES;
    let lane = invocation % LANES;
    let width = select(0u, p.head_dim, row < p.rows);
    let start = row * p.head_dim;
    var squares = 0.0;
    for (var i = lane; i < width; i += LANES) {
        squares += qkv[start + i] * qkv[start + i];
    }
    let inverse_length = inverseSqrt(max(sum_of_lanes(squares, invocation), p.least_square));
    let part = row / p.heads % 3u;
    var factor = 1.0;
    if part == 0u {
        factor = inverse_length * scales[row % p.heads];
    } else if part == 1u {
        factor = inverse_length;
    }
    for (var i = lane; i < width; i += LANES) {
        out[start + i] = qkv[start + i] * factor;
    }
}
