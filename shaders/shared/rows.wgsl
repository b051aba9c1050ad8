// Rows that invocations share: a workgroup has ROWS rows, and each row LANES neighbouring invocations, a power of two. A
// lane takes every LANES-th element, so that neighbours read what lies side by side; what the lanes of a row have found is
// then brought together. Where a row has one lane (src/kernels/rows.rs), that lane finds everything itself, in the order
// of the elements.
//
// All invocations come to every exchange, so a row past the end is no reason to return before the last one.

override ROWS: u32 = 64u;
override LANES: u32 = 1u;
override INVOCATIONS: u32 = ROWS * LANES;

var<workgroup> exchanged: array<f32, INVOCATIONS>;

// What `other`, an invocation of the workgroup, gives as its `own`.
fn exchange(own: f32, invocation: u32, other: u32) -> f32 {
    if LANES == 1u {
        return own;
    }
    // Nobody may overwrite what others have yet to read.
    workgroupBarrier();
    exchanged[invocation] = own;
    workgroupBarrier();
    return exchanged[other];
}

// The sum of what the lanes of a row give. All of them get the same bits, because a + b and b + a are the same.
fn sum_of_lanes(own: f32, invocation: u32) -> f32 {
    var sum = own;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        sum += exchange(sum, invocation, invocation ^ step);
    }
    return sum;
}

// The largest of what the lanes of a row give.
fn max_of_lanes(own: f32, invocation: u32) -> f32 {
    var largest = own;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        largest = max(largest, exchange(largest, invocation, invocation ^ step));
    }
    return largest;
}

// The row, of those of its workgroup, whose codes an invocation writes: neighbours write neighbouring rows, because words
// of these lie side by side. It knows of the row what one of the row's lanes gives (`of_coded_row`), and takes every
// LANES-th word, from `first_coded_word` on.
fn coded_row(invocation: u32) -> u32 {
    return invocation % ROWS;
}

fn of_coded_row(own: f32, invocation: u32) -> f32 {
    return exchange(own, invocation, coded_row(invocation) * LANES);
}

fn first_coded_word(invocation: u32) -> u32 {
    return invocation / ROWS;
}
