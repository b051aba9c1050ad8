"""Makes pipelines of shaders by Dawn and its compiler Tint, for no GPU, within WebGPU's default limits.

Reads a list of shaders from stdin (`name`, `source`, `entry_points`). Writes a list of what there is to complain about.
Both are JSON.
"""

import json
import os
import sys

os.environ["WGPU_BACKEND_TYPE"] = "Null"

import wgpudawn

adapter = wgpudawn.gpu.request_adapter_sync()
device = adapter.request_device_sync(required_features=["shader-f16"])
complaints = []
for shader in json.load(sys.stdin):
    try:
        module = device.create_shader_module(code=shader["source"])
        for message in module.get_compilation_info_sync().messages:
            complaints.append(f"{shader['name']}.wgsl:{message.line_num}: {message.type}: {message.message}")
        for entry_point in shader["entry_points"]:
            compute = {"module": module, "entry_point": entry_point}
            device.create_compute_pipeline(layout="auto", compute=compute)
    except wgpudawn.GPUError as error:
        complaints.append(f"{shader['name']}.wgsl: {error}")
json.dump(complaints, sys.stdout)
