//! The search's scan at a product of a network: candidates of one scale, quantized, multiplied and compared with the FP
//! network's output.

use crate::device::{Commands, Device};
use crate::graph::{LinearWeights, Record, Site};
use crate::kernels::Format;
use crate::kernels::catalogue::{
    Amount, Exercise, NetworkProduct, Prepared, Random, Role, Variant, scale_to,
};
use crate::quant::{
    CodedProduct, MAX_SHIFT, Metric, OperandScheme, Policy, Preset, Scale, Scan, Side, SitePlan,
    SiteScales,
};

/// Names it among the kernels.
pub(super) const NAME: &str = "scan";
/// Says what it is.
pub(super) const ABOUT: &str =
    "Candidates of a scale: quantized, multiplied and compared with the FP network's output";
/// Counts the images of one chunk of a search, as a calibration with 32 images takes them.
pub(super) const IMAGES: usize = 2;
/// Counts the candidates of one operand, as the paper has them. As many as the search computes in one go are timed.
const CANDIDATES: usize = 100;
/// Counts the bits of codes.
const BITS: u32 = 8;

/// Lists the scans of A's scale at `site`: in the format that the paper's method searches there, or, at a product that
/// stands in no network, in all that are searched.
pub(super) fn exercises(site: &Site, images: usize, at: &NetworkProduct) -> Vec<Exercise> {
    let formats = match at.role {
        // Tables are not searched.
        Role::Alone => Format::ALL
            .into_iter()
            .filter(|format| format.lanes().is_none())
            .collect(),
        _ => vec![at.twin.unwrap_or(Format::Uniform)],
    };
    let exercise = |format| {
        let variant = Variant {
            format: Some(format),
            ..Variant::default()
        };
        let (site, at) = (site.clone(), *at);
        Exercise::new(
            variant,
            at.sides(),
            Amount::Codes(at.product.multiply_adds()),
            at.largest(),
            move |device, _| prepare(device, &site, images, &at, format),
        )
    };
    formats.into_iter().map(exercise).collect()
}

/// Makes one step of a search: as many candidates as it computes in one go.
fn prepare(
    device: &Device,
    site: &Site,
    images: usize,
    at: &NetworkProduct,
    format: Format,
) -> Prepared {
    let plan = plan(site, format);
    let operands = at.operands(device, format);
    let fixed = scales(&plan, 1.0);
    let one = std::slice::from_ref(&fixed.b);
    let product = plan.product(images);
    let commands = &mut Commands::new(device);
    let fixed_codes = product.codes(commands, Side::B, &operands.b, one, &[]);
    let (linear, b) = match site.weight() {
        Some(_) => {
            let linear = LinearWeights::new(operands.b, device, operands.bias.as_deref());
            (Some(linear), None)
        }
        None => (None, Some(operands.b)),
    };
    let mut random = Random::new(1);
    let mut matrix = || device.upload(&random.bell(images * site.out_len(), 0.0, 1.0));
    let record = Record {
        a: operands.a,
        b,
        out: matrix(),
        grad: Some(matrix()),
    };
    let candidates = match plan.a.format {
        Format::SoftmaxTwin => MAX_SHIFT as usize,
        _ => CANDIDATES,
    };
    let at_once = scan_of(&product, &record, linear.as_ref());
    let jobs = at_once.jobs_at_once(Side::A).min(candidates);
    let candidates: Vec<SiteScales> = (1..=jobs)
        .map(|job| {
            let a = scales(&plan, job as f32 / jobs as f32).a;
            SiteScales::new(a, fixed.b.clone())
        })
        .collect();
    let searched: Vec<Vec<Scale>> = candidates.iter().map(|scales| scales.a.clone()).collect();
    let run = move |commands: &mut Commands| {
        let scan = scan_of(&product, &record, linear.as_ref());
        let codes = scan.codes(commands, Side::A, &searched);
        drop(scan.scores(commands, product.lines(), &codes, &fixed_codes, &candidates));
    };
    Prepared {
        run: Box::new(run),
        jobs,
    }
}

fn scan_of<'a>(
    product: &'a CodedProduct,
    record: &'a Record,
    linear: Option<&'a LinearWeights>,
) -> Scan<'a> {
    Scan {
        product,
        metric: Metric::Hessian,
        record,
        linear,
    }
}

fn plan(site: &Site, format: Format) -> SitePlan {
    let policy = Policy::preset(Preset::Ptq4vit, BITS, BITS);
    let plan = policy.plan(std::slice::from_ref(site));
    let plan = plan.expect("the widths are in range").of(site);
    let plan = plan.expect("the preset leaves nothing in floats");
    SitePlan {
        a: OperandScheme { format, ..plan.a },
        ..plan
    }
}

/// Returns scales that cover the operands, times `part`.
fn scales(plan: &SitePlan, part: f32) -> SiteScales {
    let all = |side| {
        let scale = scale_to(2.0 * part, plan.operand(side).format);
        vec![scale; plan.groups(side)]
    };
    SiteScales::new(all(Side::A), all(Side::B))
}
