// sums[row] = the sum of `width` consecutive values. One invocation takes one row.

struct Parameters {
    rows: u32,
    width: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let row = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if row >= p.rows {
        return;
    }
    // Kahan's compensated sum: rows are long, and the search compares sums that nearly tie.
    var sum = 0.0;
    var lost = 0.0;
    for (var column = 0u; column < p.width; column++) {
        let value = values[row * p.width + column] - lost;
        let next = sum + value;
        lost = (next - sum) - value;
        sum = next;
    }
    sums[row] = sum;
}
