// code = quantize(x): floats at any stride to 8-bit lanes, four along k packed into one word, first k lowest.
// The formats are those of shared/codes.wgsl.
//
// codes is [job][problem][word][row], rows padded to a multiple of four with zeros: an operand of an integer product. A
// workgroup writes a stretch of one matrix for up to JOBS jobs; an invocation reads the values of a word once for all of
// them, and does so for STRIP words, 64 apart, so that neighbours write neighbouring words and the divisions that find
// the place are done once.

struct Parameters {
    source: View,
    outer: u32,
    inner: u32,
    rows: u32,
    k: u32,
    jobs: u32,
    // The encoder of a row: group = inner * inner_groups + row / group_rows, of `groups` in all.
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

// Whether the rows of one matrix have encoders of their own. If not, no division is spent on finding them.
override ROW_GROUPS: bool = true;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> source: array<f32>;
// [job][group]
@group(0) @binding(2) var<storage, read> encoders: array<u32>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;

fn encoder_word(at: u32) -> u32 {
    return encoders[at];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let words = (p.k + 3u) / 4u;
    let padded_rows = (p.rows + 3u) / 4u * 4u;
    let matrix_size = padded_rows * words;
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
    var row = start % padded_rows;
    var word = start / padded_rows;
    let row_step = 64u % padded_rows;
    let word_step = 64u / padded_rows;
    for (var step = 0u; step < STRIP; step++) {
        if word < words {
            let at = source_matrix + row * p.source.row + 4u * word * p.source.column;
            let x = vec4(
                source[at],
                source[at + p.source.column],
                source[at + 2u * p.source.column],
                source[at + 3u * p.source.column],
            );
            // What was read beyond k or the rows counts as nothing.
            let inside = select(0u, p.k - 4u * word, row < p.rows);
            var group = first_group;
            if ROW_GROUPS {
                group += row / p.group_rows;
            }
            for (var job = first_job; job < end_job; job++) {
                let encoder = encoder_of(job * p.groups + group);
                var codes_of_x = 0u;
                if inside > 0u {
                    codes_of_x = first_lanes(quantize(x, encoder, p.q), inside);
                }
                codes[(job * problems + problem) * matrix_size + word * padded_rows + row] = codes_of_x;
            }
        }
        row += row_step;
        word += word_step;
        if row >= padded_rows {
            row -= padded_rows;
            word++;
        }
    }
}
