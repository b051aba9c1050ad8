// maxima[problem][row] = the largest value, or (ABSOLUTE) the largest magnitude, of one row of a batch of matrices.
// A row's lanes (shared/rows.wgsl) take it together.

struct Parameters {
    source: View,
    outer: u32,
    inner: u32,
    rows: u32,
    columns: u32,
}

override ABSOLUTE: bool = true;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read_write> maxima: array<f32>;

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let p = parameters;
    let index = (workgroup.y * workgroups.x + workgroup.x) * ROWS + invocation / LANES;
    let lane = invocation % LANES;
    let exists = index < p.outer * p.inner * p.rows;
    let columns = select(0u, p.columns, exists);
    let problem = index / p.rows;
    let start = p.source.offset
        + problem / p.inner * p.source.outer
        + problem % p.inner * p.source.inner
        + index % p.rows * p.source.row;
    // A lane may have no element of its own.
    var own_largest = source[start];
    if ABSOLUTE {
        own_largest = abs(own_largest);
    }
    for (var column = lane; column < columns; column += LANES) {
        var value = source[start + column * p.source.column];
        if ABSOLUTE {
            value = abs(value);
        }
        own_largest = max(own_largest, value);
    }
    let largest = max_of_lanes(own_largest, invocation);
    if lane == 0u && exists {
        maxima[index] = largest;
    }
}
