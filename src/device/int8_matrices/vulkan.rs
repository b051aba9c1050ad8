//! What Vulkan offers, and how a kernel gets there.

use super::Kernel;
use super::spirv::with_int8_matrices;
use ash::vk;
use std::borrow::Cow;
use wgpu::naga;

/// Finds the largest cooperative matrices of int8 with i32 sums that kernels can use, of an adapter that has cooperative
/// matrices at all: rows of a left matrix, as many as columns of a right one, and what they are summed over.
pub(in crate::device) fn offered(adapter: &wgpu::Adapter) -> Option<[u32; 2]> {
    // SAFETY: the adapter is only asked about, and outlives the handle.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = adapter.shared_instance();
    let extension =
        ash::khr::cooperative_matrix::Instance::new(instance.entry(), instance.raw_instance());
    // SAFETY: the handle is this instance's, and the extension's functions are there, because the adapter has it.
    let offered = unsafe {
        extension.get_physical_device_cooperative_matrix_properties(adapter.raw_physical_device())
    };
    let (codes, sums) = (vk::ComponentTypeKHR::SINT8, vk::ComponentTypeKHR::SINT32);
    let usable = offered.ok()?.into_iter().filter(|matrices| {
        let types = [
            matrices.a_type,
            matrices.b_type,
            matrices.c_type,
            matrices.result_type,
        ];
        types == [codes, codes, sums, sums]
            && matrices.scope == vk::ScopeKHR::SUBGROUP
            && matrices.saturating_accumulation == vk::FALSE
            && matrices.m_size == matrices.n_size
            && [[8, 8], [8, 16], [8, 32], [16, 16], [16, 32]]
                .contains(&[matrices.m_size, matrices.k_size])
    });
    usable
        .map(|matrices| [matrices.m_size, matrices.k_size])
        .max()
}

/// Compiles `main` of a kernel with matrices of int8, and says how its buffers are bound; `None` if naga doesn't take its
/// text.
pub(in crate::device) fn compile(
    device: &wgpu::Device,
    kernel: &Kernel,
) -> Option<(wgpu::ComputePipeline, wgpu::BindGroupLayout)> {
    let (words, entries) = to_spirv(kernel)
        .inspect_err(|problem| log::debug!("kernel {}: {problem}", kernel.name))
        .ok()?;
    let label = Some(kernel.name);
    let entry_point = wgpu::PassthroughShaderEntryPoint {
        name: "main".into(),
        // What only Metal asks for.
        workgroup_size: (0, 0, 0),
    };
    let descriptor = wgpu::ShaderModuleDescriptorPassthrough {
        label,
        entry_points: Cow::Borrowed(std::slice::from_ref(&entry_point)),
        spirv: Some(words.into()),
        ..Default::default()
    };
    // SAFETY: the words are naga's, with its checks of indices, and loops that aren't known to end are bounded. Of the types
    // that were changed in them the adapter says that it multiplies them.
    let module = unsafe { device.create_shader_module_passthrough(descriptor) };
    // Nothing says how a shader that is passed through is bound, so wgpu can't find the layout by itself.
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label,
        entries: &entries,
    });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label,
        bind_group_layouts: &[Some(&layout)],
        ..Default::default()
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    Some((pipeline, layout))
}

/// Makes SPIR-V of a kernel's text, and lists what it binds.
fn to_spirv(kernel: &Kernel) -> Result<(Vec<u32>, Vec<wgpu::BindGroupLayoutEntry>), String> {
    use naga::back::pipeline_constants::process_overrides;
    use naga::back::spv;
    use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    let source = kernel.source;
    let module =
        naga::front::wgsl::parse_str(source).map_err(|error| error.emit_to_string(source))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|error| error.emit_to_string(source))?;
    let entries = module.global_variables.iter();
    let entries = entries
        .filter_map(|(_, variable)| entry(variable))
        .collect();
    let constants = kernel
        .constants
        .iter()
        .map(|&(name, value)| (name.to_owned(), value))
        .collect();
    let stage = naga::ShaderStage::Compute;
    let (module, info) = process_overrides(&module, &info, Some((stage, "main")), &constants)
        .map_err(|error| error.to_string())?;
    let checked = BoundsCheckPolicy::Restrict;
    let options = spv::Options {
        // What Vulkan 1.2 takes, with which the extension came.
        lang_version: (1, 5),
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies {
            index: checked,
            buffer: checked,
            image_load: checked,
            binding_array: checked,
        },
        force_loop_bounding: !kernel.loops_end,
        // No kernel reads workgroup memory that it hasn't written.
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions {
        shader_stage: stage,
        entry_point: "main".to_owned(),
    };
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline))
        .map_err(|error| error.to_string())?;
    Ok((with_int8_matrices(&words, kernel.depth)?, entries))
}

/// Says how a variable of a shader is bound, if it is.
fn entry(variable: &naga::GlobalVariable) -> Option<wgpu::BindGroupLayoutEntry> {
    let ty = match variable.space {
        naga::AddressSpace::Uniform => wgpu::BufferBindingType::Uniform,
        naga::AddressSpace::Storage { access } => wgpu::BufferBindingType::Storage {
            read_only: !access.contains(naga::StorageAccess::STORE),
        },
        _ => return None,
    };
    Some(wgpu::BindGroupLayoutEntry {
        binding: variable.binding.as_ref()?.binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rspirv::dr::{Module, load_words};
    use rspirv::spirv::Op;

    const SOURCE: &str = "
        enable wgpu_cooperative_matrix;
        alias Left = coop_mat16x16<f32, A>;
        alias Right = coop_mat16x16<f32, B>;
        alias Sum = coop_mat16x16<f32, C>;
        override PITCH: u32 = 1u;
        @group(0) @binding(0) var<uniform> count: u32;
        @group(0) @binding(1) var<storage, read> codes: array<vec4<f32>>;
        @group(0) @binding(2) var<storage, read_write> out: array<f32>;
        @compute @workgroup_size(32)
        fn main() {
            var sum = Sum();
            for (var at = 0u; at < count; at++) {
                let left = coopLoadT<Left>(&codes[at], PITCH);
                let right = coopLoad<Right>(&codes[at], PITCH);
                sum = coopMultiplyAdd(left, right, sum);
            }
            coopStoreT(sum, &out[0], 16u);
        }";

    fn spirv(source: &str, loops_end: bool) -> Result<(Vec<u32>, Vec<BufferKind>), String> {
        let (words, entries) = to_spirv(&Kernel {
            name: "test",
            source,
            loops_end,
            constants: &[("PITCH", 2.0)],
            depth: 32,
        })?;
        let kinds = entries.into_iter().map(|entry| (entry.binding, entry.ty));
        Ok((words, kinds.collect()))
    }

    type BufferKind = (u32, wgpu::BindingType);

    fn number(module: &Module, id: u32) -> u32 {
        let constants = module.types_global_values.iter();
        let mut constants = constants.filter(|it| it.class.opcode == Op::Constant);
        let constant = constants.find(|it| it.result_id == Some(id)).unwrap();
        constant.operands[0].unwrap_literal_bit32()
    }

    #[test]
    fn matrices_are_of_int8_and_their_sums_of_i32() {
        let (words, _) = spirv(SOURCE, true).unwrap();
        let module = load_words(&words).unwrap();
        let declared = |id| {
            let mut types = module.types_global_values.iter();
            types.position(|it| it.result_id == Some(id)).unwrap()
        };
        let mut found = Vec::new();
        for (at, matrix) in module.types_global_values.iter().enumerate() {
            if matrix.class.opcode != Op::TypeCooperativeMatrixKHR {
                continue;
            }
            let ids: Vec<u32> = matrix
                .operands
                .iter()
                .map(|it| it.id_ref_any().unwrap())
                .collect();
            assert!(
                ids.iter().all(|&id| declared(id) < at),
                "declared before use"
            );
            let component = &module.types_global_values[declared(ids[0])];
            assert_eq!(component.class.opcode, Op::TypeInt);
            let [width, signed] = [0, 1].map(|of| component.operands[of].unwrap_literal_bit32());
            let [rows, columns, by_use] = [2, 3, 4].map(|of| number(&module, ids[of]));
            found.push([by_use, rows, columns, width, signed]);
        }
        found.sort();
        assert_eq!(
            found,
            [[0, 16, 32, 8, 1], [1, 32, 16, 8, 1], [2, 16, 16, 32, 1]]
        );
        let products: Vec<_> = module
            .all_inst_iter()
            .filter(|it| it.class.opcode == Op::CooperativeMatrixMulAddKHR)
            .map(|it| it.operands[3].unwrap_cooperative_matrix_operands().bits())
            .collect();
        assert_eq!(products, [0b1111], "all signed");
        // Nothing is declared twice, as SPIR-V demands of types.
        let ints = module.types_global_values.iter();
        let ints: Vec<_> = ints.filter(|it| it.class.opcode == Op::TypeInt).collect();
        for (at, int) in ints.iter().enumerate() {
            assert!(
                ints[..at]
                    .iter()
                    .all(|other| other.operands != int.operands)
            );
        }
    }

    #[test]
    fn buffers_are_bound_as_the_text_says() {
        let (_, bound) = spirv(SOURCE, true).unwrap();
        let buffer = |ty| wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let storage = |read_only| buffer(wgpu::BufferBindingType::Storage { read_only });
        let expected = [
            (0, buffer(wgpu::BufferBindingType::Uniform)),
            (1, storage(true)),
            (2, storage(false)),
        ];
        assert_eq!(bound, expected);
    }

    #[test]
    fn loops_that_may_not_end_are_bounded_and_mistakes_are_told() {
        let [ending, bounded] = [true, false].map(|ends| spirv(SOURCE, ends).unwrap().0.len());
        assert!(bounded > ending, "{bounded} words, {ending} without bounds");
        let problem = spirv(&SOURCE.replace("count;", "counter;"), true).unwrap_err();
        assert!(problem.contains("counter"), "{problem}");
    }
}
