// Sums over groups of elements, which lie one after the other: of out², estimate², (estimate - out)² and
// (weight · (estimate - out))².
//
// A workgroup takes a part of a group; each invocation writes its share of each sum.

struct Parameters {
    groups: u32,
    // Elements of a group.
    length: u32,
    // Parts of a group.
    parts: u32,
    has_weight: u32,
}

const ELEMENTS_PER_INVOCATION: u32 = 128u;

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> out: array<f32>;
@group(0) @binding(2) var<storage, read> estimate: array<f32>;
// Read only where there are weights.
@group(0) @binding(3) var<storage, read> weight: array<f32>;
// [sum][group][part][invocation]
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup.y * workgroups.x + workgroup.x;
    if index >= p.groups * p.parts {
        return;
    }
    let group = index / p.parts;
    let start = index % p.parts * 64u * ELEMENTS_PER_INVOCATION;
    var sums = array<f32, 4>();
    for (var step = 0u; step < ELEMENTS_PER_INVOCATION; step++) {
        let place = start + step * 64u + lane;
        if place < p.length {
            let at = group * p.length + place;
            let error = estimate[at] - out[at];
            sums[0] += out[at] * out[at];
            sums[1] += estimate[at] * estimate[at];
            sums[2] += error * error;
            if p.has_weight != 0u {
                let weighted = weight[at] * error;
                sums[3] += weighted * weighted;
            }
        }
    }
    for (var sum = 0u; sum < 4u; sum++) {
        partial[(sum * p.groups * p.parts + index) * 64u + lane] = sums[sum];
    }
}
