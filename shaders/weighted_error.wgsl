// Partial sums of  sum of (weight * (output - reference))^2  over the elements of each group, for many candidates.
//
// A workgroup takes one candidate (job), one group, and `lines_per_part` of the group's lines; its invocations take
// neighbouring elements and write one partial sum each: partial[job][group][part][invocation].
//
// A line is a group's stretch of one row: `group_columns` columns wide. The group of a line is
//     row / group_rows % row_groups  (attention heads, stacked in rows)   or   column / group_columns  (thirds of qkv),
// the other of the two always being 0.

struct Parameters {
    jobs: u32,
    columns: u32,
    group_columns: u32,
    column_groups: u32,
    group_rows: u32,
    row_groups: u32,
    // Lines of one group.
    lines: u32,
    lines_per_part: u32,
    // Elements of one candidate's output.
    job_stride: u32,
    has_weight: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> outputs: array<f32>;
@group(0) @binding(2) var<storage, read> reference: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let index = workgroup.y * workgroups.x + workgroup.x;
    let parts = (p.lines + p.lines_per_part - 1u) / p.lines_per_part;
    let groups = p.row_groups * p.column_groups;
    let job = index / (parts * groups);
    if job >= p.jobs {
        return;
    }
    let part = index % parts;
    let group = index / parts % groups;
    let row_group = group % p.row_groups;
    let first_column = group / p.row_groups * p.group_columns;

    // Where the first line is; the next ones follow without dividing again.
    let first_line = part * p.lines_per_part;
    var block = first_line / p.group_rows;
    var row_in_block = first_line % p.group_rows;
    let last_line = min(first_line + p.lines_per_part, p.lines);
    var sum = 0.0;
    for (var line = first_line; line < last_line; line++) {
        let row = (block * p.row_groups + row_group) * p.group_rows + row_in_block;
        row_in_block++;
        if row_in_block == p.group_rows {
            row_in_block = 0u;
            block++;
        }
        let start = row * p.columns + first_column;
        var line_sum = 0.0;
        for (var column = lane; column < p.group_columns; column += 64u) {
            let at = start + column;
            var error = outputs[job * p.job_stride + at] - reference[at];
            if p.has_weight != 0u {
                error *= weight[at];
            }
            line_sum += error * error;
        }
        sum += line_sum;
    }
    partial[index * 64u + lane] = sum;
}
