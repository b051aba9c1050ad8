// code = quantize(x): floats at any stride to 8-bit lanes, four along k packed into one word, first k lowest.
// The formats are those of shared/codes.wgsl.
//
// PACK_ROWS: out is [job][problem][row][word]. Otherwise [job][problem][word][row], rows padded to a multiple of four
// with zeros. A workgroup writes a stretch of one matrix; an invocation writes STRIP words of it, 64 apart, so that
// neighbours write neighbouring words and the divisions that find the place are done once for all of them.

struct View {
    offset: u32,
    outer: u32,
    inner: u32,
    row: u32,
    column: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

struct Parameters {
    source: View,
    outer: u32,
    inner: u32,
    rows: u32,
    k: u32,
    jobs: u32,
    // The scale of a row: group = inner * inner_groups + row / group_rows, of `groups` in all.
    groups: u32,
    inner_groups: u32,
    group_rows: u32,
    q: f32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

const STRIP: u32 = 8u;

override PACK_ROWS: bool = true;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> source: array<f32>;
// 1 / scale_1 and 1 / scale_2 of [job][group]; uniform uses the first.
@group(0) @binding(2) var<storage, read> inverse_scales: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let words = (p.k + 3u) / 4u;
    // The dimension of the output that runs fastest, and the other one.
    var fast_size = words;
    var slow_size = p.rows;
    if !PACK_ROWS {
        fast_size = (p.rows + 3u) / 4u * 4u;
        slow_size = words;
    }
    let matrix_size = fast_size * slow_size;
    let stretches = (matrix_size + 64u * STRIP - 1u) / (64u * STRIP);
    let index = workgroup.y * workgroups.x + workgroup.x;
    let matrix = index / stretches;
    if matrix >= p.jobs * p.outer * p.inner {
        return;
    }
    let problem = matrix % (p.outer * p.inner);
    let job = matrix / (p.outer * p.inner);
    let inner = problem % p.inner;
    let source_matrix = p.source.offset + problem / p.inner * p.source.outer + inner * p.source.inner;
    let first_group = job * p.groups + inner * p.inner_groups;

    let start = index % stretches * 64u * STRIP + lane;
    var fast = start % fast_size;
    var slow = start / fast_size;
    for (var step = 0u; step < STRIP; step++) {
        if slow >= slow_size {
            return;
        }
        var row = slow;
        var word = fast;
        if !PACK_ROWS {
            row = fast;
            word = slow;
        }
        var packed = 0u;
        if row < p.rows {
            var group = first_group;
            if p.group_rows < p.rows {
                group += row / p.group_rows;
            }
            let inverse = inverse_scales[group];
            let source_row = source_matrix + row * p.source.row;
            for (var lane_k = 0u; lane_k < 4u; lane_k++) {
                let k = word * 4u + lane_k;
                if k < p.k {
                    packed |= quantize(source[source_row + k * p.source.column], inverse, p.q) << (8u * lane_k);
                }
            }
        }
        codes[matrix * matrix_size + slow * fast_size + fast] = packed;
        fast += 64u;
        while fast >= fast_size {
            fast -= fast_size;
            slow++;
        }
    }
}
