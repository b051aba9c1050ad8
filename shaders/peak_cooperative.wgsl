// What the device can compute at most by cooperative matrices: coopMultiplyAdd on registers, and nothing else.
//
// A workgroup is one subgroup. It runs four chains of sum = left * right + sum, independent of each other, so that none waits
// for another's result. All elements of the two left matrices are 1 and 2, of the right ones 1 and 3. It writes one element
// of the chains' sum, per row of a right matrix: the same whatever the size of the matrices.

enable f16;
enable wgpu_cooperative_matrix;

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
// Rows and columns of a matrix. The Rust side makes 16 of it, and of the names above, where the adapter's are larger.
const SIDE: u32 = 8u;
const ELEMENTS: u32 = SIDE * SIDE;

struct Parameters {
    count: u32,
    rounds: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

override LANES: u32 = 32u;

// A matrix of ones, one of twos, one of threes.
var<workgroup> elements: array<f16, 3u * ELEMENTS>;
var<workgroup> sums: array<f32, ELEMENTS>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup.y * workgroups.x + workgroup.x;
    if index >= parameters.count {
        return;
    }
    for (var at = lane; at < 3u * ELEMENTS; at += LANES) {
        elements[at] = f16(at / ELEMENTS + 1u);
    }
    workgroupBarrier();
    let left_0 = coopLoadT<Left>(&elements[0], SIDE);
    let left_1 = coopLoadT<Left>(&elements[ELEMENTS], SIDE);
    let right_0 = coopLoadT<Right>(&elements[0], SIDE);
    let right_1 = coopLoadT<Right>(&elements[2u * ELEMENTS], SIDE);
    var sum_00 = Sum();
    var sum_01 = Sum();
    var sum_10 = Sum();
    var sum_11 = Sum();
    for (var round = 0u; round < parameters.rounds; round++) {
        sum_00 = coopMultiplyAdd(left_0, right_0, sum_00);
        sum_01 = coopMultiplyAdd(left_0, right_1, sum_01);
        sum_10 = coopMultiplyAdd(left_1, right_0, sum_10);
        sum_11 = coopMultiplyAdd(left_1, right_1, sum_11);
        sum_00 = coopMultiplyAdd(left_0, right_0, sum_00);
        sum_01 = coopMultiplyAdd(left_0, right_1, sum_01);
        sum_10 = coopMultiplyAdd(left_1, right_0, sum_10);
        sum_11 = coopMultiplyAdd(left_1, right_1, sum_11);
    }
    let sum = (sum_00 + sum_01) + (sum_10 + sum_11);
    coopStoreT(sum, &sums[0], SIDE);
    workgroupBarrier();
    if lane == 0u {
        out[index] = sums[ELEMENTS - 1u] / f32(SIDE);
    }
}
