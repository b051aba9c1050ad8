// out[first + i] = source[rows[i]]: rows of one matrix, in any order and any number of them, to consecutive rows of
// another.
//
// A workgroup copies one row; neighbours write neighbours.

struct Parameters {
    // Rows to copy.
    count: u32,
    // Elements of a row.
    dim: u32,
    // The row of the result that the first of them becomes.
    first: u32,
    unused_0: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let row = workgroup.y * workgroups.x + workgroup.x;
    if row >= p.count {
        return;
    }
    let start = rows[row] * p.dim;
    let out_start = (p.first + row) * p.dim;
    for (var column = lane; column < p.dim; column += 64u) {
        out[out_start + column] = source[start + column];
    }
}
