// What the device can compute at most by cooperative matrices of int8: coopMultiplyAdd on registers, and nothing else. What
// stands for these matrices in WGSL is in shared/int8_matrices.
//
// As in peak_cooperative.wgsl, a workgroup is one subgroup with four chains of sum = left * right + sum. All elements of the
// two left matrices are 1 and 2, of the right ones 1 and 3. It writes one element of the chains' sum, per row of a right
// matrix: the same whatever the size of the matrices.

enable wgpu_cooperative_matrix;

struct Parameters {
    count: u32,
    rounds: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

override LANES: u32 = 32u;
// Codes of a left matrix's row, or a right one's column.
override DEPTH: u32 = SIDE;

// Quads that hold a matrix of codes of any depth up to 32, and one of sums.
const CODES: u32 = SIDE * 2u;
const SUMS: u32 = SIDE * SIDE / 4u;
// Matrices of ones, of twos and of threes; then four of sums.
var<workgroup> tile: array<Piece, PIECES_PER_QUAD * max(3u * CODES, 4u * SUMS)>;

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
    for (var at = lane; at < 3u * CODES; at += LANES) {
        put(at, vec4((at / CODES + 1u) * 0x01010101u));
    }
    workgroupBarrier();
    let pitch = PIECES_PER_QUAD * 2u;
    let matrix = PIECES_PER_QUAD * CODES;
    let left_0 = coopLoadT<Left>(&tile[0], pitch);
    let left_1 = coopLoadT<Left>(&tile[matrix], pitch);
    let right_0 = coopLoad<Right>(&tile[0], pitch);
    let right_1 = coopLoad<Right>(&tile[2u * matrix], pitch);
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
    workgroupBarrier();
    let row = PIECES_PER_QUAD * SIDE / 4u;
    let sums = PIECES_PER_QUAD * SUMS;
    coopStoreT(sum_00, &tile[0], row);
    coopStoreT(sum_01, &tile[sums], row);
    coopStoreT(sum_10, &tile[2u * sums], row);
    coopStoreT(sum_11, &tile[3u * sums], row);
    workgroupBarrier();
    if lane == 0u {
        let sum = taken(SUMS - 1u).w + taken(2u * SUMS - 1u).w + taken(3u * SUMS - 1u).w + taken(4u * SUMS - 1u).w;
        out[index] = f32(sum / i32(DEPTH));
    }
}
