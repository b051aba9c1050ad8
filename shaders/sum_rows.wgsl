// sums[row] = the sum of `width` consecutive values. A row's lanes (shared/rows.wgsl) take it together.

struct Parameters {
    rows: u32,
    width: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let p = parameters;
    let row = (workgroup.y * workgroups.x + workgroup.x) * ROWS + invocation / LANES;
    let lane = invocation % LANES;
    let width = select(0u, p.width, row < p.rows);
    // Kahan's compensated sum: rows are long, and the search compares sums that nearly tie. Lanes are few.
    var own_sum = 0.0;
    var lost = 0.0;
    for (var column = lane; column < width; column += LANES) {
        let value = values[row * p.width + column] - lost;
        let next = own_sum + value;
        lost = (next - own_sum) - value;
        own_sum = next;
    }
    let sum = sum_of_lanes(own_sum, invocation);
    if lane == 0u && row < p.rows {
        sums[row] = sum;
    }
}
