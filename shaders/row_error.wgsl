// 1 - cos(output, reference) for each line of each group, for many candidates. CENTERED takes the lines less their
// means first, which makes it 1 - Pearson's correlation.
//
// With the error e = output - reference, o the reference and the sums over a line,
//     sin^2 = (|o|^2 |e|^2 - (o.e)^2) / (|o|^2 |output|^2),   1 - cos = sin^2 / (1 + cos),
// which keeps its digits where output and reference nearly agree; 1 - cos computed as written there would lose all but
// a few. A line whose reference or output is zero (or constant, when centred) has no direction: its error counts as 0
// if both are, else as 1.
//
// A line's lanes (shared/rows.wgsl) take it together. Lines and groups are those of weighted_error.wgsl; errors is
// [job][group][line].

struct Parameters {
    jobs: u32,
    columns: u32,
    group_columns: u32,
    column_groups: u32,
    group_rows: u32,
    row_groups: u32,
    lines: u32,
    job_stride: u32,
}

override CENTERED: bool = false;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> outputs: array<f32>;
@group(0) @binding(2) var<storage, read> reference: array<f32>;
@group(0) @binding(3) var<storage, read_write> errors: array<f32>;

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let p = parameters;
    let index = (workgroup.y * workgroups.x + workgroup.x) * ROWS + invocation / LANES;
    let lane = invocation % LANES;
    let groups = p.row_groups * p.column_groups;
    let job = index / (p.lines * groups);
    let columns = select(0u, p.group_columns, job < p.jobs);
    let line = index % p.lines;
    let group = index / p.lines % groups;
    let row_group = group % p.row_groups;
    let row = (line / p.group_rows * p.row_groups + row_group) * p.group_rows + line % p.group_rows;
    let start = row * p.columns + group / p.row_groups * p.group_columns;
    let output_start = job * p.job_stride + start;

    var reference_mean = 0.0;
    var error_mean = 0.0;
    if CENTERED {
        for (var column = lane; column < columns; column += LANES) {
            let value = reference[start + column];
            reference_mean += value;
            error_mean += outputs[output_start + column] - value;
        }
        reference_mean = sum_of_lanes(reference_mean, invocation) / f32(p.group_columns);
        error_mean = sum_of_lanes(error_mean, invocation) / f32(p.group_columns);
    }
    var oo = 0.0;
    var ee = 0.0;
    var oe = 0.0;
    for (var column = lane; column < columns; column += LANES) {
        let value = reference[start + column];
        let error = outputs[output_start + column] - value - error_mean;
        let centred = value - reference_mean;
        oo += centred * centred;
        ee += error * error;
        oe += centred * error;
    }
    oo = sum_of_lanes(oo, invocation);
    ee = sum_of_lanes(ee, invocation);
    oe = sum_of_lanes(oe, invocation);
    let output_norm = max(oo + 2.0 * oe + ee, 0.0);
    var result = 1.0;
    if oo == 0.0 && output_norm == 0.0 {
        result = 0.0;
    } else if oo > 0.0 && output_norm > 0.0 {
        let cosine = (oo + oe) / (sqrt(oo) * sqrt(output_norm));
        if cosine > 0.0 {
            // Divided one after the other: the product of the squared norms may leave f32's range.
            let parallel = oe / oo;
            let sine_squared = max(ee - parallel * oe, 0.0) / output_norm;
            result = sine_squared / (1.0 + cosine);
        } else {
            result = 1.0 - cosine;
        }
    }
    if lane == 0u && job < p.jobs {
        errors[index] = result;
    }
}
