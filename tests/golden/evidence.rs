//! What a calibration says about the scales that it has chosen.

use crate::common::devices;
use crate::literal::gathered;
use crate::network::{Golden, plans, six_bit_methods, six_bits};
use ptq4vit_gpu::device::{Buffer, Commands, Device};
use ptq4vit_gpu::graph::{FloatingProducts, Record, Site};
use ptq4vit_gpu::kernels::Format;
use ptq4vit_gpu::quant::{Calibration, FakeQuantizedProducts, Method, Preset, Side, SiteReport};

/// The evidence of every site, computed again from records of a forward and backward pass of all images together, from
/// products of rounded floats instead of integers, and in plain sums.
pub fn the_evidence_is_that_of_plain_sums(golden: &Golden) {
    for device in devices() {
        let network = golden.network(&device);
        let images = golden.images("input");
        let (_, records) = golden.records(&network);
        for mut method in six_bit_methods(&network) {
            method.settings.candidates = 10;
            let found = golden.calibrate(&device, &method, None);
            let plans = plans(&network, &method).into_iter().map(|plan| {
                let scales = found.sites[&plan.site.name].scales.clone();
                (plan, scales)
            });
            let rounded = FakeQuantizedProducts::new(golden.float_products(&network), plans);
            let commands = &mut Commands::new(&device);
            for (site, report) in network.sites().zip(&found.reports) {
                let record = &records[&site.name];
                let estimate =
                    rounded.multiply(commands, site, images.len(), &record.a, record.b.as_ref());
                let mut read = |buffer: &Buffer<f32>| -> Vec<f64> {
                    let values = commands.read(buffer).unwrap();
                    values.into_iter().map(f64::from).collect()
                };
                let (out, estimate) = (read(&record.out), read(&estimate));
                let grad = read(record.grad.as_ref().unwrap());
                let sum = |term: &dyn Fn(usize) -> f64| (0..out.len()).map(term).sum::<f64>();
                let signal = sum(&|at| out[at].powi(2));
                let noise = sum(&|at| (estimate[at] - out[at]).powi(2));
                let evidence = &report.evidence;
                let about = |found: Option<f64>, expected: f64, what: &str| {
                    let found = found.unwrap_or_else(|| panic!("{} has no {what}", site.name));
                    // f32's rounding of an error that is some hundredth of O.
                    assert!(
                        (found / expected - 1.0).abs() < 1e-4,
                        "{}: {}: {what} {found}, expected {expected}",
                        device.name(),
                        site.name
                    );
                };
                about(evidence.sqnr_db, 10.0 * (signal / noise).log10(), "SQNR");
                let norms = signal * sum(&|at| estimate[at].powi(2));
                let cosine = sum(&|at| out[at] * estimate[at]) / norms.sqrt();
                about(evidence.cosine, cosine, "cosine");
                if method.settings.metric.needs_gradient() {
                    let error = sum(&|at| (grad[at] * (estimate[at] - out[at])).powi(2));
                    about(evidence.hessian_error, error, "Hessian error");
                    about(evidence.hessian_error, report.score, "score");
                } else {
                    assert_eq!(evidence.hessian_error, None);
                }
                codes_are_counted(&device, golden, &method, site, record, &found, report);
            }
        }
    }
}

/// That codes are counted as their definition says, value by value.
pub fn codes_are_counted(
    device: &Device,
    golden: &Golden,
    method: &Method,
    site: &Site,
    record: &Record,
    found: &Calibration,
    report: &SiteReport,
) {
    let (plan, scales) = (
        method.plan.of(site).unwrap(),
        &found.sites[&site.name].scales,
    );
    let images = golden.images("input").len();
    let (mut in_r2, mut histogram) = (0, 0);
    let mut clipped_shares = Vec::new();
    for (side, scales) in [(Side::A, &scales.a), (Side::B, &scales.b)] {
        let what = plan.quantizer(side, images, 1);
        let values = match (side, &record.b) {
            (Side::A, _) => device.read(&record.a).unwrap(),
            (Side::B, Some(b)) => device.read(b).unwrap(),
            (Side::B, None) => golden
                .weights
                .float(&format!("{}.weight", site.name))
                .unwrap(),
        };
        let q = (1 << (what.bits - 1)) as f32;
        let (mut count, mut clipped) = (0, 0);
        let values = gathered(&values, what.source, what.batch, what.rows, what.k);
        for (row, values) in values.chunks_exact(what.k).enumerate() {
            let (problem, row) = (row / what.rows, row % what.rows);
            let group = problem % what.batch[1] * what.inner_groups + row / what.group_rows;
            let inverses = scales[group].inverses();
            for x in values {
                let [code_1, code_2] = inverses.map(|inverse| (x * inverse).round_ties_even());
                let second = match what.format {
                    Format::Uniform => false,
                    Format::SoftmaxTwin => code_1 > q - 1.0,
                    Format::GeluTwin => *x >= 0.0,
                    Format::Table | Format::TwinTable => unreachable!("no search finds tables"),
                };
                let out_of_reach = match (what.format, second) {
                    (Format::Uniform, _) => !(-q..=q - 1.0).contains(&code_1),
                    (_, true) => code_2 > q - 1.0,
                    (_, false) => code_1.abs() > q - 1.0,
                };
                count += 1;
                clipped += usize::from(out_of_reach);
                in_r2 += usize::from(second);
                histogram += usize::from(side == Side::A);
            }
        }
        clipped_shares.push(clipped as f64 / count as f64);
    }
    let evidence = &report.evidence;
    assert_eq!(
        [evidence.a_clipped, evidence.b_clipped],
        clipped_shares[..],
        "{}",
        site.name
    );
    let in_r2 = plan
        .a
        .format
        .is_twin()
        .then(|| in_r2 as f64 / histogram as f64);
    assert_eq!(evidence.a_in_r2, in_r2, "{}", site.name);
    if let Some(histograms) = &report.histograms {
        let counted: u64 = histograms.whole.counts.iter().sum();
        assert_eq!(counted, histogram as u64, "{}", site.name);
    }
}

/// Nor do the curves and histograms.
pub fn the_evidence_does_not_depend_on_the_memory(golden: &Golden) {
    for device in devices() {
        let network = golden.network(&device);
        let method = six_bits(Preset::Ptq4vit, &network);
        let run = |bytes| {
            let mut reports = golden.calibrate(&device, &method, bytes).reports;
            for report in &mut reports {
                report.seconds = 0.0;
            }
            reports
        };
        // Little enough that images go through one by one.
        assert_eq!(run(None), run(Some(440 << 10)), "{}", device.name());
    }
}
