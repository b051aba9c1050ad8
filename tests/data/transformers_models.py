"""Writes small random models of Hugging Face transformers into `transformers/`, each as a folder with what its repository
would have, and `answers.safetensors`: pixels and logits, or pooled features, of two images, in float64 rounded to float32, and as metadata what
the classes' own modules call their tensors: `python transformers_models.py`."""

import json
import math
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoImageProcessor,
    BeitConfig,
    BeitForImageClassification,
    BeitModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Data2VecVisionConfig,
    Data2VecVisionForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
    Swinv2Config,
    Swinv2ForImageClassification,
    Swinv2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
)

HERE = Path(__file__).parent
IMAGES = [Image.open(HERE / name).convert("RGB") for name in ("portrait.png", "landscape.png")]
DIGITS = dict(enumerate("zero one two three four five six seven eight nine".split()))
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
VIT = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=16, patch_size=8,
    id2label=DIGITS,
)  # fmt: skip
DINOV2 = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, mlp_ratio=2, image_size=16, patch_size=8,
)  # fmt: skip
CLIP = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=16, patch_size=8,
)  # fmt: skip
TEXT = dict(
    hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=10, max_position_embeddings=4,
    bos_token_id=0, eos_token_id=1,
)  # fmt: skip
# Patches that don't fill the image.
SIGLIP = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=20, patch_size=8,
)  # fmt: skip
SIGLIP_TEXT = dict(
    hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=10, max_position_embeddings=4,
    bos_token_id=0, eos_token_id=1, pad_token_id=2,
)  # fmt: skip
# Windows that pad the first stage, an odd side to merge, and a stage of whole windows.
SWIN = dict(
    embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4, image_size=30, patch_size=2, mlp_ratio=2.0,
    id2label=DIGITS,
)  # fmt: skip

BARE, BARE_SWIN = ({key: value for key, value in config.items() if key != "id2label"} for config in (VIT, SWIN))


def processor(kind, size, **others):
    """As transformers 5 writes it."""
    return dict(
        image_processor_type=kind, do_resize=True, size=dict(height=size, width=size), do_rescale=True,
        rescale_factor=1 / 255, do_normalize=True,
    ) | others  # fmt: skip


MODELS = {
    # An epsilon that shows.
    "vit": (
        ViTForImageClassification(ViTConfig(**VIT, layer_norm_eps=0.05)),
        dict(feature_extractor_type="ViTFeatureExtractor", size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        torch.float32,
    ),
    "deit": (
        DeiTForImageClassification(DeiTConfig(**VIT)),
        processor(
            "DeiTImageProcessor", 20, resample=3, do_center_crop=True, crop_size=dict(height=16, width=16), **IMAGENET
        ),
        torch.bfloat16,
    ),
    "deit_distilled": (
        DeiTForImageClassificationWithTeacher(DeiTConfig(**VIT)),
        dict(feature_extractor_type="DeiTFeatureExtractor", size=18, crop_size=16, resample=1, **IMAGENET),
        torch.float32,
    ),
    "swin": (
        SwinForImageClassification(SwinConfig(**SWIN)),
        processor("ViTImageProcessorFast", 30, resample=3, **IMAGENET),
        torch.float16,
    ),
    "dinov2": (
        Dinov2Model(Dinov2Config(**DINOV2)),
        processor(
            "BitImageProcessor", 19, resample=3, do_center_crop=True, crop_size=dict(height=16, width=16), **IMAGENET
        )
        | dict(size=dict(shortest_edge=19)),
        torch.float32,
    ),
    "dinov2_classes": (
        Dinov2ForImageClassification(Dinov2Config(**DINOV2, id2label=DIGITS)),
        processor("BitImageProcessorFast", 16, resample=3, do_center_crop=False, **IMAGENET),
        torch.float16,
    ),
    "dinov2_registers": (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=2)),
        dict(image_processor_type="BitImageProcessor", size=16, crop_size=16),
        torch.float32,
    ),
    "dinov2_registers_classes": (
        Dinov2WithRegistersForImageClassification(
            Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=2, id2label=DIGITS)
        ),
        dict(image_processor_type="BitImageProcessor", size=dict(shortest_edge=17), crop_size=16, resample=2, **IMAGENET),
        torch.float32,
    ),
    # By an older name of the processor, and with another form of GELU than CLIP's.
    "clip": (
        CLIPVisionModel(CLIPVisionConfig(**CLIP, hidden_act="gelu_pytorch_tanh")),
        dict(feature_extractor_type="CLIPFeatureExtractor", size=18, crop_size=16),
        torch.float32,
    ),
    "clip_projection": (
        CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP, projection_dim=20)),
        processor("CLIPImageProcessorFast", 19, resample=3, do_center_crop=True, crop_size=dict(height=16, width=16))
        | dict(size=dict(shortest_edge=19)),
        torch.float32,
    ),
    "clip_with_text": (
        CLIPModel(CLIPConfig(vision_config=CLIP, text_config=TEXT, projection_dim=20)),
        dict(image_processor_type="CLIPImageProcessor", size=dict(shortest_edge=16), crop_size=16),
        torch.float16,
    ),
    "siglip": (
        SiglipVisionModel(SiglipVisionConfig(**SIGLIP)),
        processor("SiglipImageProcessor", 20, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        torch.float32,
    ),
    "siglip_with_text": (
        SiglipModel(SiglipConfig(vision_config=SIGLIP | dict(hidden_act="gelu"), text_config=SIGLIP_TEXT)),
        processor("SiglipImageProcessorFast", 20),
        torch.bfloat16,
    ),
    # Its classifier reads the mean of the patches, and the pooling that is in its file isn't read.
    "siglip_classes": (
        SiglipForImageClassification(SiglipConfig(vision_config=SIGLIP, text_config=SIGLIP_TEXT, id2label=DIGITS)),
        processor("SiglipImageProcessor", 20, resample=2, **IMAGENET),
        torch.float32,
    ),
    # Its own processor resizes floats, which the program doesn't.
    "dinov3": (
        DINOv3ViTModel(DINOv3ViTConfig(**CLIP, num_register_tokens=2)),
        processor("ViTImageProcessor", 16, resample=2, **IMAGENET),
        torch.float32,
    ),
    "beit": (
        BeitForImageClassification(BeitConfig(**VIT, use_relative_position_bias=True, use_mask_token=True)),
        dict(
            feature_extractor_type="BeitFeatureExtractor", size=16, crop_size=16, do_center_crop=False, resample=2,
            image_mean=[0.5] * 3, image_std=[0.5] * 3,
        ),
        torch.float32,
    ),
    # With a crop, learned positions, a head on the class token and no LayerScale.
    "beit_class_token": (
        BeitForImageClassification(
            BeitConfig(
                **VIT, use_absolute_position_embeddings=True, use_mean_pooling=False, layer_scale_init_value=0.0
            )
        ),
        processor(
            "BeitImageProcessorFast", 20, do_center_crop=True, crop_size=dict(height=16, width=16), do_reduce_labels=False
        ),
        torch.float16,
    ),
    "data2vec": (
        Data2VecVisionForImageClassification(Data2VecVisionConfig(**VIT, use_relative_position_bias=True)),
        processor("BeitImageProcessor", 16),
        torch.bfloat16,
    ),
    "dinov2_gated": (
        Dinov2Model(Dinov2Config(**DINOV2, use_swiglu_ffn=True)),
        dict(image_processor_type="BitImageProcessor", size=16, crop_size=16),
        torch.float32,
    ),
    "dinov3_gated": (
        DINOv3ViTModel(DINOv3ViTConfig(**CLIP, num_register_tokens=2, use_gated_mlp=True, hidden_act="silu")),
        processor("ViTImageProcessor", 16, resample=2, **IMAGENET),
        torch.bfloat16,
    ),
    # Windows that were smaller in training, in the first stage, and don't fill it now.
    "swin_v2": (
        Swinv2ForImageClassification(Swinv2Config(**SWIN, pretrained_window_sizes=[3, 0])),
        processor("ViTImageProcessor", 30, resample=3, **IMAGENET),
        torch.float32,
    ),
    # Without classes; their files' names don't begin with the network's word.
    "vit_features": (ViTModel(ViTConfig(**BARE, hidden_act="relu")), processor("ViTImageProcessor", 16), torch.float32),
    "deit_features": (
        DeiTModel(DeiTConfig(**BARE)),
        processor("DeiTImageProcessor", 16, do_center_crop=False, **IMAGENET),
        torch.float16,
    ),
    "beit_features": (
        BeitModel(BeitConfig(**BARE, use_relative_position_bias=True)),
        processor("BeitImageProcessor", 16),
        torch.float32,
    ),
    "swin_features": (
        SwinModel(SwinConfig(**BARE_SWIN)),
        processor("ViTImageProcessor", 30, resample=3, **IMAGENET),
        torch.bfloat16,
    ),
    "swin_v2_features": (
        Swinv2Model(Swinv2Config(**BARE_SWIN)),
        processor("ViTImageProcessor", 30, resample=3, **IMAGENET),
        torch.float32,
    ),
    # Its decoder isn't read.
    "vit_mae": (
        ViTMAEForPreTraining(
            ViTMAEConfig(
                **BARE, decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
                decoder_intermediate_size=8,
            )
        ),
        dict(feature_extractor_type="ViTFeatureExtractor", size=16, **IMAGENET),
        torch.float32,
    ),
    # Grey images that aren't squares, and images with alpha.
    "vit_grey": (
        ViTForImageClassification(ViTConfig(**VIT | dict(image_size=(16, 24), num_channels=1))),
        processor("ViTImageProcessor", 16, image_mean=[0.4], image_std=[0.3]) | dict(size=dict(height=16, width=24)),
        torch.float32,
    ),
    "dinov3_alpha": (
        DINOv3ViTModel(DINOv3ViTConfig(**CLIP | dict(num_channels=4), num_register_tokens=2)),
        processor("ViTImageProcessor", 16, image_mean=[0.5] * 4, image_std=0.5) | dict(size=dict(height=24, width=16)),
        torch.float32,
    ),
}


def lively(model):
    """Gives `model` random weights with which softmax's rows are peaky and GELU's inputs have both signs."""
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape)
        if name.endswith(("lambda1", "lambda_1", "lambda_2")):
            # LayerScale: over an order of magnitude, of either sign.
            values = 10 ** (torch.rand(parameter.shape) - 0.7) * values.sign()
        elif name.endswith(("table", "embeddings", "token", "tokens")):
            values *= 0.5
        elif parameter.dim() <= 1:
            values = values * 0.3 + ("norm" in name and name.endswith("weight"))
        else:
            peaky = any(part in name for part in ("q_proj", "k_proj", "in_proj"))
            values *= (2.2 if peaky else 1.2) / math.sqrt(parameter[0].numel())
        parameter.data = values


torch.manual_seed(0)
for name, (model, prepares, dtype) in MODELS.items():
    folder = HERE / "transformers" / name
    lively(model)
    # Of the distilled one several files.
    model.to(dtype).save_pretrained(folder, **(dict(max_shard_size="20KB") if name == "deit_distilled" else {}))
    (folder / "preprocessor_config.json").write_text(json.dumps(prepares, indent=2) + "\n")
    mode = {1: "L", 4: "RGBA"}.get(getattr(model.config, "num_channels", 3), "RGB")
    images = [image.convert(mode) for image in IMAGES]
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(images, return_tensors="pt").pixel_values
    model = type(model).from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    with torch.no_grad():
        if isinstance(model, (ViTModel, DeiTModel, ViTMAEForPreTraining)):
            # The class token; of an autoencoder's where nothing is masked.
            model.config.mask_ratio = 0.0
            network = getattr(model, "vit", model)
            logits = network(pixels.double()).last_hidden_state[:, 0]
        else:
            answer = model.get_image_features if hasattr(model, "get_image_features") else model
            output = answer(pixels.double())
            (key,) = {"logits", "image_embeds", "pooler_output"} & set(output)
            logits = output[key]
    metadata = dict(modules=json.dumps(sorted(model.state_dict())))
    save_file(dict(pixels=pixels, logits=logits.float()), folder / "answers.safetensors", metadata=metadata)
