// maxima[problem][row] = the largest value, or (ABSOLUTE) the largest magnitude, of one row of a batch of matrices.
// One invocation takes one row.

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

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let index = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if index >= p.outer * p.inner * p.rows {
        return;
    }
    let problem = index / p.rows;
    let start = p.source.offset
        + problem / p.inner * p.source.outer
        + problem % p.inner * p.source.inner
        + index % p.rows * p.source.row;
    var largest = source[start];
    if ABSOLUTE {
        largest = abs(largest);
    }
    for (var column = 1u; column < p.columns; column++) {
        var value = source[start + column * p.source.column];
        if ABSOLUTE {
            value = abs(value);
        }
        largest = max(largest, value);
    }
    maxima[index] = largest;
}
