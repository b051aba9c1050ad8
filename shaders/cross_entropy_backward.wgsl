// The gradient of the sum over rows of cross_entropy(row, argmax(row)): the row's probabilities, less one at its argmax.
// There the entry is computed as minus the sum of the others: p - 1 would cancel to zero where the network is sure.
//
// One invocation computes one row in three passes: the first of the largest logits, then the exponentials and the sum of
// all but its own, then the division.

struct Parameters {
    rows: u32,
    classes: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

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
    let start = row * p.classes;
    var winner = 0u;
    for (var i = 1u; i < p.classes; i++) {
        if logits[start + i] > logits[start + winner] {
            winner = i;
        }
    }
    let largest = logits[start + winner];
    var others = 0.0;
    for (var i = 0u; i < p.classes; i++) {
        if i != winner {
            let exponential = exp(logits[start + i] - largest);
            out[start + i] = exponential;
            others += exponential;
        }
    }
    // The winner's own exponential is 1.
    let inverse = 1.0 / (1.0 + others);
    for (var i = 0u; i < p.classes; i++) {
        if i == winner {
            out[start + i] = -others * inverse;
        } else {
            out[start + i] *= inverse;
        }
    }
}
