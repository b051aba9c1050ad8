// code = quantize(x): floats at any stride to 8-bit lanes, four along k packed into one word, first k lowest.
//
//   FORMAT 0, uniform:       clamp(round(x / scale), -q, q - 1), two's complement
//   FORMAT 1, softmax twin:  round(x / scale_1) while that is at most q - 1 (R1), else 0x80 | clamp(round(x / scale_2))
//   FORMAT 2, GELU twin:     x < 0: clamp(round(-x / scale_1)) (R1), else 0x80 | clamp(round(x / scale_2))
//
// A lane's top bit is a twin's range flag, whatever the bit width; q = 2^(bits - 1). The inverse scales are computed
// once on the host: multiplying by them is rounded alike everywhere, which division is not.
//
// PACK_ROWS: out is [job][problem][row][word]. Otherwise [job][problem][word][row], rows padded to a multiple of four
// with zeros. A workgroup writes a stretch of one matrix for up to JOBS jobs; an invocation reads the values of a word
// once for all of them, and does so for STRIP words, 64 apart, so that neighbours write neighbouring words and the
// divisions that find the place are done once.

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
const JOBS: u32 = 8u;

override FORMAT: u32 = 0u;
override PACK_ROWS: bool = true;
// Whether the rows of one matrix have scales of their own. If not, no division is spent on finding them.
override ROW_GROUPS: bool = true;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> source: array<f32>;
// 1 / scale_1 and 1 / scale_2 of [job][group]; uniform uses the first.
@group(0) @binding(2) var<storage, read> inverse_scales: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;

// 1.5 * 2^23: added to a float of magnitude below 2^22, it rounds half-to-even to an integer, which is then in the low
// bits of the sum. Some software drivers take several times as long for round(). No product is added to it without a
// min between, so that none can become a fused multiply-add, which rounds only once.
const ROUNDER: f32 = 12582912.0;

// The codes of four values in one word, the first lowest. Clamping to integers before rounding gives what clamping after
// it gives.
fn quantize(x: vec4<f32>, inverse: vec2<f32>, q: f32) -> u32 {
    var rounded: vec4<f32>;
    if FORMAT == 0u {
        rounded = clamp(x * inverse.x, vec4(-q), vec4(q - 1.0)) + ROUNDER;
    } else {
        let in_r2 = min(x * inverse.y, vec4(q - 1.0)) + (ROUNDER + 128.0);
        if FORMAT == 1u {
            let in_r1 = min(x * inverse.x, vec4(q)) + ROUNDER;
            rounded = select(in_r2, in_r1, in_r1 < vec4(ROUNDER + q));
        } else {
            let in_r1 = min(-x * inverse.x, vec4(q - 1.0)) + ROUNDER;
            rounded = select(in_r2, in_r1, x < vec4(0.0));
        }
    }
    let lanes = bitcast<vec4<u32>>(rounded) & vec4(0xffu);
    return lanes.x | (lanes.y << 8u) | (lanes.z << 16u) | (lanes.w << 24u);
}

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
    let problems = p.outer * p.inner;
    let index = workgroup.y * workgroups.x + workgroup.x;
    let problem = index / stretches % problems;
    let first_job = index / stretches / problems * JOBS;
    let end_job = min(first_job + JOBS, p.jobs);
    let inner = problem % p.inner;
    let source_matrix = p.source.offset + problem / p.inner * p.source.outer + inner * p.source.inner;
    let first_group = inner * p.inner_groups;

    let start = index % stretches * 64u * STRIP + lane;
    var fast = start % fast_size;
    var slow = start / fast_size;
    let fast_step = 64u % fast_size;
    let slow_step = 64u / fast_size;
    for (var step = 0u; step < STRIP; step++) {
        if slow < slow_size {
            let row = select(fast, slow, PACK_ROWS);
            let k = 4u * select(slow, fast, PACK_ROWS);
            let at = source_matrix + row * p.source.row + k * p.source.column;
            let x = vec4(
                source[at],
                source[at + p.source.column],
                source[at + 2u * p.source.column],
                source[at + 3u * p.source.column],
            );
            // What was read beyond k or the rows counts as nothing.
            let inside = select(0u, 0xffffffffu >> (32u - 8u * min(p.k - k, 4u)), row < p.rows);
            var group = first_group;
            if ROW_GROUPS {
                group += row / p.group_rows;
            }
            for (var job = first_job; job < end_job; job++) {
                let inverse = inverse_scales[job * p.groups + group];
                let to = (job * problems + problem) * matrix_size + slow * fast_size + fast;
                codes[to] = inside & quantize(x, inverse, p.q);
            }
        }
        fast += fast_step;
        slow += slow_step;
        if fast >= fast_size {
            fast -= fast_size;
            slow++;
        }
    }
}
