//! The classes of transformers' that can be run here.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::{beit, clip, dinov2, dinov3, siglip, swin, vit};
use crate::model::config::Architecture;
use crate::model::recipe::arguments::shown;

/// Holds a class of transformers' whose networks can be run here, if its configuration says so.
pub struct Class {
    pub name: &'static str,
    /// Returns the network that a configuration describes.
    pub architecture: fn(&Fields) -> std::result::Result<Architecture, String>,
    /// The processor of its images, where none is named.
    pub processor: &'static str,
    /// Whether the network takes images of other sizes than its configuration's.
    pub any_image_size: bool,
}

/// Lists the classes.
static CLASSES: [Class; 25] = [
    Class {
        name: "ViTModel",
        architecture: vit::of_features,
        processor: "ViTImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "ViTForImageClassification",
        architecture: vit::of_class_token,
        processor: "ViTImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "ViTMAEForPreTraining",
        architecture: vit::of_features,
        processor: "ViTImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "ViTMAEModel",
        architecture: vit::of_features,
        processor: "ViTImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "DeiTModel",
        architecture: vit::of_features_with_distillation_token,
        processor: "DeiTImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "DeiTForImageClassification",
        architecture: vit::with_distillation_token,
        processor: "DeiTImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "DeiTForImageClassificationWithTeacher",
        architecture: vit::with_distillation_head,
        processor: "DeiTImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "BeitModel",
        architecture: beit::of_features,
        processor: "BeitImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "BeitForImageClassification",
        architecture: beit::of_classes,
        processor: "BeitImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "Data2VecVisionForImageClassification",
        architecture: beit::of_classes,
        processor: "BeitImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "SwinModel",
        architecture: swin::of_features,
        processor: "ViTImageProcessor",
        any_image_size: true,
    },
    Class {
        name: "SwinForImageClassification",
        architecture: swin::of_mean,
        processor: "ViTImageProcessor",
        any_image_size: true,
    },
    Class {
        name: "Swinv2Model",
        architecture: swin::of_features_v2,
        processor: "ViTImageProcessor",
        any_image_size: true,
    },
    Class {
        name: "Swinv2ForImageClassification",
        architecture: swin::of_mean_v2,
        processor: "ViTImageProcessor",
        any_image_size: true,
    },
    Class {
        name: "Dinov2Model",
        architecture: dinov2::of_features,
        processor: "BitImageProcessor",
        any_image_size: true,
    },
    Class {
        name: "Dinov2ForImageClassification",
        architecture: dinov2::of_classes,
        processor: "BitImageProcessor",
        any_image_size: true,
    },
    Class {
        name: "Dinov2WithRegistersModel",
        architecture: dinov2::of_features_with_registers,
        processor: "BitImageProcessor",
        any_image_size: true,
    },
    Class {
        name: "Dinov2WithRegistersForImageClassification",
        architecture: dinov2::of_classes_with_registers,
        processor: "BitImageProcessor",
        any_image_size: true,
    },
    Class {
        name: "DINOv3ViTModel",
        architecture: dinov3::of_features,
        processor: "DINOv3ViTImageProcessor",
        any_image_size: true,
    },
    Class {
        name: "CLIPVisionModel",
        architecture: clip::of_features,
        processor: "CLIPImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "CLIPVisionModelWithProjection",
        architecture: clip::of_projection,
        processor: "CLIPImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "CLIPModel",
        architecture: clip::of_image_tower,
        processor: "CLIPImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "SiglipVisionModel",
        architecture: siglip::of_features,
        processor: "SiglipImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "SiglipModel",
        architecture: siglip::of_image_tower,
        processor: "SiglipImageProcessor",
        any_image_size: false,
    },
    Class {
        name: "SiglipForImageClassification",
        architecture: siglip::of_classes,
        processor: "SiglipImageProcessor",
        any_image_size: false,
    },
];

/// Returns the class of a configuration.
pub fn class(config: &Map<String, Value>) -> std::result::Result<&'static Class, String> {
    let supported = || CLASSES.each_ref().map(|class| class.name).join(", ");
    let names = config.get("architectures").and_then(Value::as_array);
    let [Value::String(name)] = names.map_or(&[][..], Vec::as_slice) else {
        return Err(format!(
            "is transformers', for a model of type {}, and its `architectures` don't name one class; supported are {}",
            shown(config.get("model_type").unwrap_or(&Value::Null)),
            supported()
        ));
    };
    CLASSES
        .iter()
        .find(|class| class.name == name)
        .ok_or_else(|| {
            format!(
                "is of transformers' class {}, which is not supported; supported are {}",
                shown(&Value::from(name.as_str())),
                supported()
            )
        })
}
