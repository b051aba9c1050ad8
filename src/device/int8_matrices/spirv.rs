//! SPIR-V in which matrices of f32 become such of int8, and their sums such of i32.

use rspirv::binary::Assemble;
use rspirv::dr::{Instruction, Module, Operand, load_words};
use rspirv::spirv::{Capability, CooperativeMatrixOperands, Op, Word};

/// Makes of cooperative matrices of f32 such of int8, left ones with `depth` columns and right ones with as many rows, and of
/// their sums such of i32.
pub(super) fn with_int8_matrices(words: &[u32], depth: u32) -> Result<Vec<u32>, String> {
    let mut module = load_words(words).map_err(|error| error.to_string())?;
    let int8 = new_id(&mut module)?;
    let depth_id = new_id(&mut module)?;
    let (word_type, int32) = (int_type(&mut module, 0)?, int_type(&mut module, 1)?);
    module.capabilities.push(Instruction::new(
        Op::Capability,
        None,
        None,
        vec![Operand::Capability(Capability::Int8)],
    ));
    let declarations = &mut module.types_global_values;
    // Types come before what is made of them: these first, in the place of their own declarations.
    declarations.retain(|it| ![Some(word_type), Some(int32)].contains(&it.result_id));
    let constant = Instruction::new(
        Op::Constant,
        Some(word_type),
        Some(depth_id),
        vec![Operand::LiteralBit32(depth)],
    );
    let first = [
        integer(word_type, 32, 0),
        integer(int32, 32, 1),
        integer(int8, 8, 1),
        constant,
    ];
    declarations.splice(0..0, first);

    let uses: Vec<(Word, u32)> = declarations
        .iter()
        .filter(|it| it.class.opcode == Op::Constant && it.result_type == Some(word_type))
        .filter_map(|it| Some((it.result_id?, it.operands[0].unwrap_literal_bit32())))
        .collect();
    for matrix in declarations {
        if matrix.class.opcode != Op::TypeCooperativeMatrixKHR {
            continue;
        }
        // Component, scope, rows, columns, use.
        let by_use = matrix.operands[4].unwrap_id_ref();
        let component = match uses.iter().find(|&&(id, _)| id == by_use) {
            Some((_, 0)) => {
                matrix.operands[3] = Operand::IdRef(depth_id);
                int8
            }
            Some((_, 1)) => {
                matrix.operands[2] = Operand::IdRef(depth_id);
                int8
            }
            Some((_, 2)) => int32,
            _ => return Err("a matrix that is no operand of a product and no sum".to_owned()),
        };
        matrix.operands[0] = Operand::IdRef(component);
    }
    let signed = CooperativeMatrixOperands::MATRIX_A_SIGNED_COMPONENTS_KHR
        | CooperativeMatrixOperands::MATRIX_B_SIGNED_COMPONENTS_KHR
        | CooperativeMatrixOperands::MATRIX_C_SIGNED_COMPONENTS_KHR
        | CooperativeMatrixOperands::MATRIX_RESULT_SIGNED_COMPONENTS_KHR;
    for instruction in module.all_inst_iter_mut() {
        if instruction.class.opcode == Op::CooperativeMatrixMulAddKHR {
            let operands = Operand::CooperativeMatrixOperands(signed);
            instruction.operands.push(operands);
        }
    }
    Ok(module.assemble())
}

/// Takes an id that nothing has.
fn new_id(module: &mut Module) -> Result<Word, String> {
    let header = module.header.as_mut().ok_or("there is no header")?;
    header.bound += 1;
    Ok(header.bound - 1)
}

/// Returns the id of the type of 32-bit integers, or one for it where there is none: of signed ones, or with 0 of unsigned
/// ones.
fn int_type(module: &mut Module, signedness: u32) -> Result<Word, String> {
    let wanted = integer(0, 32, signedness);
    let mut declarations = module.types_global_values.iter();
    let found = declarations
        .find(|it| it.class.opcode == Op::TypeInt && it.operands == wanted.operands)
        .and_then(|it| it.result_id);
    match found {
        Some(id) => Ok(id),
        None => new_id(module),
    }
}

/// Declares a type of integers.
fn integer(id: Word, width: u32, signedness: u32) -> Instruction {
    let operands = vec![
        Operand::LiteralBit32(width),
        Operand::LiteralBit32(signedness),
    ];
    Instruction::new(Op::TypeInt, None, Some(id), operands)
}
