"""Times a ViT on the CPU: this program beside ONNX Runtime and OpenVINO, FP32 and int8, in one run.

    pip install timm==1.0.31 torch onnx onnxscript onnxruntime openvino nncf pillow
    cargo build --release
    python benches/cpu_peers.py M.safetensors IMAGES [--architecture deit_tiny_patch16_224] [--rounds 3]

IMAGES is a folder that int8 models are calibrated on. Every figure is images a second, the best of the rounds; the
programs take turns, so that what else the machine does falls on all of them. Ours are those of `bench --networks`.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import nncf
import numpy
import onnxruntime
import openvino
import timm
import torch
from onnxruntime import quantization
from PIL import Image
from safetensors.torch import load_file

BATCHES = [1, 8, 32]
PROGRAM = Path(__file__).parent.parent / "target/release/ptq4vit-gpu"


class Reader(quantization.CalibrationDataReader):
    """Hands images to ONNX Runtime one by one."""

    def __init__(self, images):
        self.images = iter(images)

    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"images": image}


def pixels(model, folder):
    """Reads a folder's images as the model takes them, [1, 3, S, S] each."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    return [transform(Image.open(path).convert("RGB"))[None].numpy() for path in files]


def export(model, path):
    """Writes the model as ONNX, for any number of images."""
    images = torch.zeros(2, 3, *model.patch_embed.img_size)
    torch.onnx.export(
        model,
        (images,),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        dynamo=False,
    )


def onnx_runtime(path):
    """Opens an ONNX model; returns what runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def open_vino(model):
    """Compiles an OpenVINO model; returns what runs it."""
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": os.cpu_count()})
    return lambda images: compiled([images])


def rate(run, images, seconds=2.0):
    """Returns images a second over about `seconds`, after one run without a clock."""
    run(images)
    start, runs = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        run(images)
        runs += 1
    return runs * len(images) / (time.perf_counter() - start)


def ours(checkpoint):
    """Returns images a second of this program, by precision and batch."""
    command = [PROGRAM, "bench", "--device", "cpu", "--networks", "--model", checkpoint, "--json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    figures = report["networks"][0]["figures"]
    return {(f["precision"], f["batch"]): f["images_per_second"] for f in figures}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("images")
    parser.add_argument("--architecture", default="deit_tiny_patch16_224")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    model = timm.create_model(arguments.architecture).eval()
    model.load_state_dict(load_file(arguments.checkpoint))
    images = pixels(model, arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        float_path, prepared, int_path = (f"{folder}/{name}.onnx" for name in ("float", "prepared", "int8"))
        export(model, float_path)
        quantization.quant_pre_process(float_path, prepared)
        quantization.quantize_static(prepared, int_path, Reader(images), per_channel=True)
        float_vino = openvino.convert_model(float_path)
        int_vino = nncf.quantize(
            openvino.convert_model(float_path),
            nncf.Dataset([image for image in images]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
        )
        peers = {
            "ONNX Runtime FP32": onnx_runtime(float_path),
            "ONNX Runtime int8": onnx_runtime(int_path),
            "OpenVINO FP32": open_vino(float_vino),
            "OpenVINO int8": open_vino(int_vino),
        }
        best = {}
        for _ in range(arguments.rounds):
            for batch in BATCHES:
                input = numpy.concatenate([images[at % len(images)] for at in range(batch)])
                for name, run in peers.items():
                    best[name, batch] = max(best.get((name, batch), 0), rate(run, input))
            for (precision, batch), found in ours(arguments.checkpoint).items():
                best[precision, batch] = max(best.get((precision, batch), 0), found)
    names = list(dict.fromkeys(name for name, _ in best))
    print("images a second      " + "".join(f"{batch:>8}" for batch in BATCHES))
    for name in names:
        print(f"{name:<21}" + "".join(f"{best[name, batch]:>8.1f}" for batch in BATCHES))


if __name__ == "__main__":
    main()
