//! Quantized products: in integers, and simulated in floats for comparison.

use super::plan::{Codes, Side, SitePlan, SiteScales};
use crate::device::{Buffer, Device};
use crate::kernels::{View, fake_quantize, float_product};
use crate::model::{FloatProducts, Linear, Products, Site};
use std::collections::HashMap;

/// A linear site's weight as codes, and its bias.
pub struct LinearCodes {
    /// Packed as the right operand of an integer product.
    codes: Codes,
    /// `[outputs]`, where the site has one.
    bias: Option<Buffer<f32>>,
}

impl LinearCodes {
    /// Uploads `codes` `[outputs, inputs]` and, where there is one, `bias` `[outputs]`.
    pub fn upload(device: &Device, sizes: &Linear, codes: &[i8], bias: Option<&[f32]>) -> Self {
        let inputs = sizes.inputs;
        let columns = sizes.outputs.next_multiple_of(4);
        let mut words = vec![0u32; inputs.div_ceil(4) * columns];
        for (output, row) in codes.chunks_exact(inputs).enumerate() {
            for (word, lanes) in row.chunks(4).enumerate() {
                let mut bytes = [0; 4];
                for (byte, &lane) in bytes.iter_mut().zip(lanes) {
                    *byte = lane as u8;
                }
                words[word * columns + output] = u32::from_le_bytes(bytes);
            }
        }
        Self {
            codes: Codes {
                words: device.upload(&words),
                per_job: false,
            },
            bias: bias.map(|bias| device.upload(bias)),
        }
    }
}

/// A site as it is computed in integers.
struct IntegerSite {
    plan: SitePlan,
    scales: SiteScales,
    linear: Option<LinearCodes>,
}

/// Products on integers: activations are quantized on the fly, sums are exact, scale and bias come last.
pub struct IntegerProducts {
    device: Device,
    sites: HashMap<String, IntegerSite>,
}

impl IntegerProducts {
    /// Products of no site yet.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            sites: HashMap::new(),
        }
    }

    /// Adds a site; `linear` is its weight, unless B is an activation.
    pub fn insert(&mut self, plan: SitePlan, scales: SiteScales, linear: Option<LinearCodes>) {
        self.sites.insert(
            plan.site.name.clone(),
            IntegerSite {
                plan,
                scales,
                linear,
            },
        );
    }
}

impl Products for IntegerProducts {
    fn product(
        &mut self,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let IntegerSite {
            plan,
            scales,
            linear,
        } = &self.sites[&site.name];
        let device = &self.device;
        let jobs = |scales: &Vec<_>| vec![scales.clone()];
        let a = plan.codes(device, Side::A, images, a, &jobs(&scales.a));
        let scales_of_one_job = std::slice::from_ref(scales);
        match (linear, b) {
            (Some(linear), _) => plan.integer_product(
                device,
                images,
                &a,
                &linear.codes,
                scales_of_one_job,
                linear.bias.as_ref(),
            ),
            (None, Some(b)) => {
                let b = plan.codes(device, Side::B, images, b, &jobs(&scales.b));
                plan.integer_product(device, images, &a, &b, scales_of_one_job, None)
            }
            (None, None) => unreachable!("a site has a weight or two activations"),
        }
    }
}

/// The same quantization in floats: both operands rounded to what their codes stand for, and an f32 product. What
/// published code runs; here the reference that [`IntegerProducts`] are compared with.
pub struct FakeQuantizedProducts {
    device: Device,
    float: FloatProducts,
    sites: HashMap<String, (SitePlan, SiteScales)>,
}

impl FakeQuantizedProducts {
    /// Quantizes the products of `float` as `sites` say.
    pub fn new(
        device: &Device,
        float: FloatProducts,
        sites: impl IntoIterator<Item = (SitePlan, SiteScales)>,
    ) -> Self {
        Self {
            device: device.clone(),
            float,
            sites: sites
                .into_iter()
                .map(|(plan, scales)| (plan.site.name.clone(), (plan, scales)))
                .collect(),
        }
    }
}

impl Products for FakeQuantizedProducts {
    fn product(
        &mut self,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let (plan, scales) = &self.sites[&site.name];
        let device = &self.device;
        let rounded = |side, source: &Buffer<f32>| {
            let quantizer = plan.quantizer(side, images, 1);
            let of_side = match side {
                Side::A => &scales.a,
                Side::B => &scales.b,
            };
            let values: Vec<f32> = of_side
                .iter()
                .flat_map(|scale| {
                    let [inverse_1, inverse_2] = scale.inverses();
                    [scale.scale, scale.scale_2(), inverse_1, inverse_2]
                })
                .collect();
            fake_quantize(device, &quantizer, source, &device.upload(&values))
        };
        let (b, bias) = match b {
            Some(b) => (b.clone(), None),
            None => {
                let linear = self.float.linear(site);
                (linear.weight.clone(), linear.bias.clone())
            }
        };
        // The rounded operands are contiguous: [problem][m][k], and B transposed, [problem][n][k].
        let mut product = site.product(images);
        let inner = product.batch[1];
        let compact = |rows: usize, columns: usize| {
            let matrix = rows * columns;
            View::new(0, [inner * matrix, matrix], columns, 1)
        };
        product.a = compact(product.m, product.k);
        product.b = compact(product.n, product.k).transposed();
        let out = device.zeros(images * site.out_len());
        float_product(
            device,
            &product,
            &rounded(Side::A, a),
            &rounded(Side::B, &b),
            bias.as_ref(),
            &out,
        );
        out
    }
}
