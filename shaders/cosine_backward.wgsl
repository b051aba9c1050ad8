// The gradient of cosine's qkv [tokens, 3, heads, head_dim], row by row. With x a query or a key, n = x / |x| and s its
// scale, 1 of a key,
//
//   out = (grad - n * (n . grad)) * s / |x|
//
// That of values is grad as it is. What has no length has no direction either, and no gradient.
//
// The lanes of a row (shared/rows.wgsl), which is one head's part of a token, find both sums together.

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
@group(0) @binding(3) var<storage, read> grad: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

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
    var own_squares = 0.0;
    for (var i = lane; i < width; i += LANES) {
        own_squares += qkv[start + i] * qkv[start + i];
    }
    let squares = sum_of_lanes(own_squares, invocation);
    let inverse_length = inverseSqrt(max(squares, p.least_square));
    var own_along = 0.0;
    for (var i = lane; i < width; i += LANES) {
        own_along += qkv[start + i] * inverse_length * grad[start + i];
    }
    let along = sum_of_lanes(own_along, invocation);
    let part = row / p.heads % 3u;
    if part == 2u {
        for (var i = lane; i < width; i += LANES) {
            out[start + i] = grad[start + i];
        }
        return;
    }
    var factor = 0.0;
    if squares > p.least_square {
        factor = inverse_length;
        if part == 0u {
            factor *= scales[row % p.heads];
        }
    }
    for (var i = lane; i < width; i += LANES) {
        out[start + i] = (grad[start + i] - qkv[start + i] * inverse_length * along) * factor;
    }
}
