enable f16;

// out = f16(source): a batch of matrices of floats at any strides to contiguous ones in f16, [problem][row][column], rows
// and columns padded to multiples of four with zeros. Values beyond the range of f16 become the nearest of its ends.
//
// One invocation writes four rows of four columns, so that the divisions that find the place are done once for sixteen
// values.

struct Parameters {
    source: View,
    outer: u32,
    inner: u32,
    rows: u32,
    columns: u32,
}

const LARGEST: f32 = 65504.0;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f16>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let block = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let across = (p.columns + 3u) / 4u;
    let down = (p.rows + 3u) / 4u;
    let problem = block / (across * down);
    if problem >= p.outer * p.inner {
        return;
    }
    let column = block % across * 4u;
    let row = block / across % down * 4u;
    let columns = vec4(column) + vec4(0u, 1u, 2u, 3u);
    let inside = columns < vec4(p.columns);

    let matrix = p.source.offset + problem / p.inner * p.source.outer + problem % p.inner * p.source.inner;
    let start = matrix + min(columns, vec4(p.columns - 1u)) * p.source.column;
    for (var r = row; r < row + 4u; r++) {
        var values = vec4(0.0);
        if r < p.rows {
            let at = start + r * p.source.row;
            values = select(values, vec4(source[at.x], source[at.y], source[at.z], source[at.w]), inside);
        }
        out[(problem * down * 4u + r) * across + column / 4u] = vec4<f16>(clamp(values, vec4(-LARGEST), vec4(LARGEST)));
    }
}
