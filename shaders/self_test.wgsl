// What a driver must get right before anything else is trusted to it. Two answers that are known in advance:
//   result[0]: iterations of a nested loop, 300 * 300. Mesa 22.3.6's software driver stops an invocation silently
//              after 65,535 iterations in all.
//   result[1]: a dot product of packed signed bytes, -128 * 127 + 127 * -128 + -1 * -1 + 3 * 5.

struct Parameters {
    rows: u32,
    columns: u32,
    left: u32,
    right: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;

@compute @workgroup_size(1)
fn main() {
    var iterations = 0u;
    for (var row = 0u; row < parameters.rows; row++) {
        for (var column = 0u; column < parameters.columns; column++) {
            // Depends on what the loop computed so far, so that no compiler can count the iterations in advance.
            iterations += 1u + (iterations >> 31u);
        }
    }
    result[0] = iterations;
    result[1] = bitcast<u32>(dot4I8Packed(parameters.left, parameters.right));
}
