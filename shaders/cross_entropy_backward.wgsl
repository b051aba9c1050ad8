// The gradient of the sum over rows of cross_entropy(row, argmax(row)): the row's probabilities, less one at its argmax.
// There the entry is computed as minus the sum of the others: p - 1 would cancel to zero where the network is sure.
//
// A row's lanes (shared/rows.wgsl) compute it in three passes: the first of the largest logits, then the exponentials and
// the sum of all but its own, then the division.

struct Parameters {
    rows: u32,
    classes: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

// The first of the largest logits of the row at `start`, given each lane's. A float holds their numbers exactly.
fn winner_of_lanes(start: u32, own: u32, invocation: u32) -> u32 {
    var winner = own;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        let other = u32(exchange(f32(winner), invocation, invocation ^ step));
        let theirs = logits[start + other];
        let largest = logits[start + winner];
        if theirs > largest || (theirs == largest && other < winner) {
            winner = other;
        }
    }
    return winner;
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let p = parameters;
    let row = (workgroup.y * workgroups.x + workgroup.x) * ROWS + invocation / LANES;
    let lane = invocation % LANES;
    let classes = select(0u, p.classes, row < p.rows);
    let start = row * p.classes;
    // A lane may have no logit of its own.
    var own_winner = 0u;
    for (var i = lane; i < classes; i += LANES) {
        if logits[start + i] > logits[start + own_winner] {
            own_winner = i;
        }
    }
    let winner = winner_of_lanes(start, own_winner, invocation);
    let largest = logits[start + winner];
    var own_others = 0.0;
    for (var i = lane; i < classes; i += LANES) {
        if i != winner {
            let exponential = exp(logits[start + i] - largest);
            out[start + i] = exponential;
            own_others += exponential;
        }
    }
    let others = sum_of_lanes(own_others, invocation);
    // The winner's own exponential is 1.
    let inverse = 1.0 / (1.0 + others);
    for (var i = lane; i < classes; i += LANES) {
        if i == winner {
            out[start + i] = -others * inverse;
        } else {
            out[start + i] *= inverse;
        }
    }
}
