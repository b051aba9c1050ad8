//! Finds variables that are declared in a loop without an initial value. WGSL sets them to zero each time round, but
//! not every compiler does: Chrome's (Tint) sets an array to zero once per call of the function.

use naga::{Expression, Function, Module, Statement};

/// Lists the names of all such variables.
pub(super) fn without_initial_value(module: &Module) -> Vec<&str> {
    let functions = module.functions.iter().map(|(_, function)| function);
    let entry_points = module.entry_points.iter().map(|entry| &entry.function);
    let mut found = Vec::new();
    for function in functions.chain(entry_points) {
        find(function, &function.body, &mut found);
    }
    found
}

/// Relies on Naga, which moves a loop's variables to the top of the function and leaves a store of the initial value in
/// their place. Where the text has none it stores a zero of its own making, which it says comes from the whole
/// declaration; a value in the text comes from a part of it.
fn find<'a>(function: &'a Function, statements: &[Statement], found: &mut Vec<&'a str>) {
    for statement in statements {
        match statement {
            Statement::Store { pointer, value } => {
                let Expression::LocalVariable(variable) = function.expressions[*pointer] else {
                    continue;
                };
                // Naga's own variables, which have no names, have no place in the text either.
                let name = function.local_variables[variable].name.as_deref();
                let declared = function.local_variables.get_span(variable);
                let is_made_up = function.expressions.get_span(*value) == declared;
                found.extend(name.filter(|_| is_made_up));
            }
            Statement::Block(block) => find(function, block, found),
            Statement::If { accept, reject, .. } => {
                find(function, accept, found);
                find(function, reject, found);
            }
            Statement::Switch { cases, .. } => {
                for case in cases {
                    find(function, &case.body, found);
                }
            }
            Statement::Loop {
                body, continuing, ..
            } => {
                find(function, body, found);
                find(function, continuing, found);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::integer_product;

    fn found_in(source: &str) -> Vec<String> {
        let module = naga::front::wgsl::parse_str(source).expect("valid text");
        let found = without_initial_value(&module).into_iter();
        found.map(str::to_owned).collect()
    }

    /// What the sums of twins relied on, and computed wrong in a browser.
    #[test]
    fn the_sums_of_a_product_are_missed() {
        let source = integer_product::SHADER.source;
        let without = source.replace(
            "var sum = array<vec4<i32>, SUMS>();",
            "var sum: array<vec4<i32>, SUMS>;",
        );
        assert!(without != source);
        assert_eq!(found_in(source), [""; 0]);
        assert_eq!(found_in(&without), ["sum"]);
    }

    #[test]
    fn every_place_in_a_loop_is_looked_at() {
        let found = found_in(
            "struct Pair { one: u32, other: vec2<f32> }

            fn called(count: u32) -> u32 {
                var outside: array<u32, 4>;
                for (var i = 0u; i < count; i++) {
                    var plain: u32;
                    var zero: u32 = 0u;
                    var zeros = vec4<u32>();
                    var pair = Pair();
                    var copy = outside;
                    if i == 2u {
                        var accepted: array<u32, 4>;
                        outside[0] += accepted[i] + zero + plain;
                    } else {
                        var rejected: Pair;
                        outside[1] += rejected.one + zeros.x + pair.one + copy[i];
                    }
                    switch i {
                        case 0u: {
                            var in_case: bool;
                            outside[2] += u32(in_case);
                        }
                        default: {}
                    }
                    {
                        var in_block: vec2<f32>;
                        outside[3] += u32(in_block.x);
                    }
                }
                return outside[0];
            }

            @compute @workgroup_size(1)
            fn main() {
                var at_top: u32;
                loop {
                    at_top += called(at_top);
                    continuing {
                        var in_continuing: u32;
                        at_top += in_continuing;
                        break if at_top > 9u;
                    }
                }
                while at_top < 100u {
                    var in_while: mat2x2<f32>;
                    at_top += u32(in_while[0].x) + 1u;
                }
            }",
        );
        assert_eq!(
            found,
            [
                "plain",
                "accepted",
                "rejected",
                "in_case",
                "in_block",
                "in_continuing",
                "in_while"
            ]
        );
    }
}
