//! The page of a calibration: one HTML file with everything in it, for people who would rather look.

use super::accuracy::Accuracy;
use super::agreement::Agreement;
use super::charts::{
    Ink, KINDS, allotment_curve, dark_style, error_shares, ink, landscape_curves, metrics, ratios,
    score_curves, value_histograms, widths,
};
use super::closeness::Closeness;
use super::inspection::{SiteInspection, inspect_sites};
use crate::families::sites;
use crate::model::config::Answer;
use crate::quant::{AllotmentCurve, Landscape, QuantizedModel, Scale, Side, SiteReport};
use crate::text::printable;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Holds what the page tells.
pub struct Page<'a> {
    /// The quantized model.
    pub model: &'a QuantizedModel,
    /// Bytes of the model's file.
    pub bytes: u64,
    /// What the calibration found, in the order of the network.
    pub reports: &'a [SiteReport],
    /// The network's loss under the candidates of chosen products, where it was computed.
    pub landscapes: &'a [Landscape],
    /// What bits are estimated to cost, where some were allotted; empty where an earlier run did that, from whose journal this
    /// one went on.
    pub allotment: Option<&'a [AllotmentCurve]>,
    /// The device that the calibration ran on.
    pub device: &'a str,
    /// The device's driver.
    pub driver: &'a str,
    /// Seconds that the calibration took.
    pub seconds: f64,
    /// How well the quantized network agrees with the FP network on the calibration images.
    pub calibration: Agreement,
    /// How well the FP network and the quantized one do on labelled images.
    pub labelled: Option<[Accuracy; 2]>,
}

const STYLE: &str = include_str!("page.css");

impl Page<'_> {
    /// Renders the page as an HTML file.
    pub fn html(&self) -> String {
        let name = &self.model.provenance.name;
        let sites = inspect_sites(self.model);
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { "Calibration of " (name) }
                    style {
                        (PreEscaped(STYLE))
                        "@media (prefers-color-scheme: dark){" (PreEscaped(dark_style())) "}"
                    }
                }
                body {
                    main {
                        (self.header())
                        (self.accuracy())
                        (errors(&sites))
                        (self.bits(&sites))
                        (self.histograms())
                        (self.curves())
                        (self.landscapes())
                        (table(&sites))
                    }
                }
            }
        };
        printable::text(&page.into_string()).into_owned()
    }

    fn header(&self) -> Markup {
        let model = self.model;
        let (provenance, method) = (&model.provenance, &model.method);
        let bits = method.plan.in_words(&sites(&model.architecture));
        let fp32 = model.architecture.parameters() * size_of::<f32>() as u64;
        html! {
            header {
                h1 { (provenance.name) }
                p {
                    "Bits of " (bits) ": " (mebibytes(self.bytes)) " instead of " (mebibytes(fp32)) " in FP32, "
                    (percent(self.bytes as f64 / fp32 as f64, 1)) "."
                }
                dl {
                    (fact("Preset", &format!("{}: {}", provenance.preset.name(), method.settings.choices())))
                    (fact("Images", &provenance.images_in_words()))
                    (fact("Device", &format!("{} ({})", self.device, self.driver)))
                    (fact("Program", &format!("ptq4vit-gpu {}", provenance.tool_version)))
                    (fact("Time", &format!("{:.1} s", self.seconds)))
                    (fact("SHA-256 of the source", &provenance.source_sha256))
                    (fact("SHA-256 of the images", &provenance.calibration_sha256))
                }
            }
        }
    }

    fn accuracy(&self) -> Markup {
        let column = |accuracy: &Accuracy| {
            [
                accuracy.agreement.map(|share| percent(share, 1)),
                accuracy.kl.map(|kl| format!("{kl:.4}")),
                accuracy.logit_sqnr_db.map(|sqnr| format!("{sqnr:.1} dB")),
            ]
        };
        let rows = |heading: &str, accuracy: &Accuracy| {
            let cells = column(accuracy);
            html! {
                tr {
                    th scope="row" { (heading) }
                    td { (accuracy.images) }
                    @for cell in &cells { td { (cell.as_deref().unwrap_or("–")) } }
                }
            }
        };
        html! {
            section {
                h2 { "Before and after" }
                @if let Some([before, after]) = &self.labelled {
                    table {
                        thead { tr { th {} th { "images" } th { "top-1" } th { "top-5" } } }
                        tbody {
                            @for (name, accuracy) in [("FP32", before), ("quantized", after)] {
                                tr {
                                    th scope="row" { (name) }
                                    td { (accuracy.images) }
                                    td { (percent(accuracy.top1, 2)) }
                                    td { (percent(accuracy.top5, 2)) }
                                }
                            }
                        }
                    }
                }
                @match &self.calibration {
                    Agreement::Features(closeness, images) => (features(closeness, *images)),
                    Agreement::Logits(calibration) => table {
                        thead {
                            tr {
                                th { "the quantized network's answers, compared with FP32's" }
                                th { "images" } th { "agreement" } th { "KL" } th { "logit SQNR" }
                            }
                        }
                        tbody {
                            (rows("on the calibration images", calibration))
                            @if let Some([_, after]) = &self.labelled {
                                (rows("on the labelled images", after))
                            }
                        }
                    },
                }
            }
        }
    }

    /// Draws how wide codes are, where products of a kind have other widths in one block than in another, and what bits cost
    /// where they were allotted.
    fn bits(&self, sites: &[SiteInspection]) -> Markup {
        let differ = |kind: &str| {
            let of_kind = sites.iter().filter(|site| site.site.ends_with(kind));
            let mut widths = of_kind.map(|site| [site.a.bits, site.b.bits]);
            let first = widths.next();
            widths.any(|widths| Some(widths) != first)
        };
        let has_bars = KINDS.iter().any(|(kind, _)| differ(kind));
        if !has_bars && self.allotment.is_none() {
            return Markup::default();
        }
        html! {
            section {
                h2 { "Bits" }
                @if has_bars {
                    (legend_of_kinds())
                    figure.scrolls {
                        figcaption { "Bits of the codes of A, the activations from the left." }
                        (widths(sites, Side::A))
                    }
                    figure.scrolls {
                        figcaption { "Bits of the codes of B: the weights, and the other activations of q·kᵀ and p·v." }
                        (widths(sites, Side::B))
                    }
                }
                @if let Some(curves) = self.allotment { (self.allotment(curves)) }
            }
        }
    }

    /// Draws what bits are estimated to cost.
    fn allotment(&self, curves: &[AllotmentCurve]) -> Markup {
        let unit = match self.model.architecture.answer() {
            Answer::Logits(_) => "nats of KL divergence",
            Answer::Features(_) => "units of half the features' squared error",
        };
        if curves.is_empty() {
            return html! {
                p {
                    "An earlier run of the same command allotted the bits, and this one went on from its journal, which "
                    "has the widths but not what they cost: there is no curve of that here."
                }
            };
        }
        html! {
            p {
                "What bits are estimated to cost over their mean, on a logarithmic axis; the dot is what was "
                (key(ink::CHOSEN, "chosen")) ". This is an estimate, not measured accuracy: the sum of what each operand's "
                "error costs by itself, with all else in floats, in " (unit) " on the calibration images, which the "
                "allotment makes as small as it can. The four narrowest widths were measured; each further bit is taken to "
                "divide the cost by four. An activation gets any width, a weight one of the two around the mean."
            }
            div.wide {
                @for curve in curves {
                    figure {
                        figcaption {
                            b { (curve.kind.name()) }
                            (format!(
                                ": {:.3} bits on average, estimated at {:.3e} {unit}",
                                curve.chosen.mean_bits,
                                curve.chosen.cost,
                            ))
                        }
                        (allotment_curve(curve, unit))
                    }
                }
            }
        }
    }

    fn histograms(&self) -> Markup {
        let model = self.model;
        let sites = sites(&model.architecture);
        let shown = self.reports.iter().filter_map(|report| {
            let site = sites.iter().find(|site| site.name == report.site)?;
            let histograms = report.histograms.as_ref()?;
            let plan = model.method.plan.of(site)?;
            let scales = &model.sites[&site.name].scales;
            Some((plan, scales, report, histograms))
        });
        let (softmax, gelu): (Vec<_>, Vec<_>) =
            shown.partition(|(plan, ..)| !plan.site.has_weight());
        html! {
            section {
                h2 { "Values and codes" }
                p {
                    "Counts of the values after softmax and after GELU on all calibration images, on a logarithmic "
                    "axis, and below them the values that codes stand for: the paper's Figures 2 and 3. On the left "
                    "all values, on the right those near zero. A twin has a fine range, "
                    (key(ink::R1, "R1")) ", and a coarse one, " (key(ink::R2, "R2")) ". Codes of a table stand for "
                    "levels at any places; where each head has one, the first head's are shown."
                }
                @for (heading, sites) in [("After softmax", softmax), ("After GELU", gelu)] {
                    h3 { (heading) }
                    div.wide {
                        @for (plan, scales, report, histograms) in sites {
                            figure {
                                figcaption {
                                    b { (plan.site.name) }
                                    @if let Some(share) = report.evidence.a_in_r2 {
                                        ": m = " (shifts(&scales.a)) ", " (percent(share, 1)) " of the codes in R2"
                                    }
                                }
                                (value_histograms(&plan, scales, histograms))
                            }
                        }
                    }
                }
            }
        }
    }

    /// Draws the scores of sites whose scales were searched, where there are any.
    fn curves(&self) -> Markup {
        let reports = self.reports.iter();
        let mut searched = reports
            .filter(|report| !report.curves.is_empty())
            .peekable();
        if searched.peek().is_none() {
            return Markup::default();
        }
        html! {
            section {
                h2 { "Scores of the candidates" }
                p {
                    "What the candidates for a scale scored when it was last searched, as multiples of the "
                    (key(ink::CHOSEN, "chosen")) " one's score, up to ten: A's scales on the left, B's on the right, by "
                    "the numbers of the candidates. Those that were evaluated on everything are "
                    (key(ink::COMPLETE, "bold")) ". The others were left as soon as their error had passed the best "
                    "one's whole error, and are " (key(ink::ESTIMATE, "faint")) ": an estimate, as if the rest of their "
                    "error were to the rest of the chosen one's as it was until then. Where each output channel of a "
                    "weight has a scale, the eight channels with the largest errors are shown."
                }
                div.small {
                    @for report in searched {
                        figure {
                            figcaption { b { (report.site) } }
                            (score_curves(report))
                        }
                    }
                }
            }
        }
    }

    /// Draws the loss beside the metrics for the products that were chosen, where there are any.
    fn landscapes(&self) -> Markup {
        if self.landscapes.is_empty() {
            return Markup::default();
        }
        let has_kl = self.landscapes[0].kl().is_some();
        let least = |landscape: &Landscape, metric| {
            let least = landscape.least(|point| point.scores[&metric]);
            (least + 1, landscape.candidates[least].loss)
        };
        html! {
            section {
                h2 { "The loss beside the scores" }
                p {
                    "What the candidates for an operand's scales do to the loss of the whole network on the calibration "
                    "images, and what each metric says of them: the paper's Figure 5. Only that operand is rounded; the "
                    "product's other operand and all other products are in floats. Each curve goes from its least, which "
                    "a dot marks, to its largest, over the numbers of the candidates. A metric chooses well where its dot "
                    "is below the loss's, or where the loss is about as low."
                }
                p {
                    @if has_kl {
                        "The loss is the cross-entropy against the FP network's own classes, and falls where the network "
                        "gets surer of them, even below what it is in floats. KL is the divergence of the FP network's "
                        "probabilities to the network's, a mean over the images in nats: 0 in floats, and more wherever "
                        "answers differ."
                    } @else {
                        "The network answers with features, so there is no KL divergence: the loss is the squared distance "
                        "from the FP network's features."
                    }
                }
                p.legend {
                    (key(ink::LOSS, "loss")) " "
                    @if has_kl { (key(ink::KL, "KL")) " " }
                    @for (metric, ink) in metrics() { (key(ink, metric.name())) " " }
                }
                div.wide {
                    @for landscape in self.landscapes {
                        figure {
                            figcaption {
                                b { (landscape.site) " " (landscape.side.name()) }
                                @let best = landscape.least(|point| point.loss);
                                (format!(
                                    ": loss {:.5} in floats; at candidate {}, {:.5}",
                                    landscape.float_loss,
                                    best + 1,
                                    landscape.candidates[best].loss,
                                ))
                                @if let Some(best) = landscape.least_kl() {
                                    (format!("; at KL's {}, {:.5}", best + 1, landscape.candidates[best].loss))
                                }
                                @for (metric, _) in metrics() {
                                    @let (number, loss) = least(landscape, metric);
                                    (format!("; at {}'s {number}, {loss:.5}", metric.name()))
                                }
                            }
                            (landscape_curves(landscape))
                        }
                    }
                }
            }
        }
    }
}

/// Renders a fact of the header.
fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// Renders a word in the ink that it stands for.
fn key(ink: Ink, word: &str) -> Markup {
    html! { b.key style=(ink.style()) { (word) } }
}

/// Renders what the bars of sites are drawn in.
fn legend_of_kinds() -> Markup {
    html! {
        p.legend {
            @for (name, ink) in KINDS { (key(ink, name)) " " }
            (key(ink::OTHER, "others"))
        }
    }
}

fn errors(sites: &[SiteInspection]) -> Markup {
    let mut worst: Vec<(&str, f64)> = sites
        .iter()
        .filter_map(|site| Some((&*site.site, site.error_share?)))
        .collect();
    worst.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    worst.truncate(5);
    html! {
        section {
            h2 { "Which products hurt" }
            (legend_of_kinds())
            figure.scrolls {
                figcaption {
                    "SQNR of each matrix product's result against the FP network's, in dB: higher is better."
                }
                (ratios(sites))
            }
            @if !worst.is_empty() {
                figure.scrolls {
                    figcaption {
                        "Share of the total Hessian error, Σ G² (Ô − O)² over all products, with G the gradient of the "
                        "loss: lower is better. The worst are "
                        @for (index, (site, share)) in worst.iter().enumerate() {
                            @if index > 0 { ", " }
                            b { (site) } " " (percent(*share, 1))
                        }
                        "."
                    }
                    (error_shares(sites))
                }
            }
        }
    }
}

/// Tells how close features are.
fn features(closeness: &Closeness, images: usize) -> Markup {
    let sqnr = closeness.feature_sqnr_db;
    html! {
        table {
            thead {
                tr {
                    th { "the quantized network's features, compared with FP32's" }
                    th { "images" } th { "cosine" } th { "least cosine" } th { "relative error" } th { "SQNR" }
                }
            }
            tbody {
                tr {
                    th scope="row" { "on the calibration images" }
                    td { (images) }
                    td { (format!("{:.5}", closeness.cosine)) }
                    td { (format!("{:.5}", closeness.cosine_min)) }
                    td { (percent(closeness.relative_error, 2)) }
                    td { (sqnr.map_or("–".to_owned(), |sqnr| format!("{sqnr:.1} dB"))) }
                }
            }
        }
    }
}

fn table(sites: &[SiteInspection]) -> Markup {
    let scales = |scales: &[f32]| {
        let scales: Vec<String> = scales.iter().map(|scale| format!("{scale:.3e}")).collect();
        scales.join(" ")
    };
    let number = |value: Option<f64>, digits: usize| {
        value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
    };
    let share = |value: Option<f64>, digits: usize| {
        value.map_or("–".to_owned(), |value| percent(value, digits))
    };
    html! {
        section {
            h2 { "All matrix products" }
            div.scrolls {
                table.sites {
                    thead {
                        tr {
                            th { "product" } th { "scales of A" } th { "m" } th { "scales of B" }
                            th { "in R2" } th { "A clipped" } th { "B clipped" }
                            th { "SQNR, dB" } th { "cosine" } th { "Hessian error" } th { "share" }
                        }
                    }
                    tbody {
                        @for site in sites {
                            @let evidence = site.evidence.as_ref();
                            tr {
                                th scope="row" { (site.site) }
                                td { (scales(&site.a_scales)) }
                                td {
                                    @for shift in site.a_shifts.iter().flatten() { (shift) " " }
                                }
                                td { (scales(&site.b_scales)) }
                                td { (share(evidence.and_then(|figures| figures.a_in_r2), 1)) }
                                td { (share(evidence.map(|figures| figures.a_clipped), 3)) }
                                td { (share(evidence.map(|figures| figures.b_clipped), 3)) }
                                td { (number(evidence.and_then(|figures| figures.sqnr_db), 1)) }
                                td { (number(evidence.and_then(|figures| figures.cosine), 5)) }
                                td {
                                    @if let Some(error) = evidence.and_then(|figures| figures.hessian_error) {
                                        (format!("{error:.2e}"))
                                    } @else { "–" }
                                }
                                td { (share(site.error_share, 1)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Words the left shifts m of a twin: one, or from the least to the largest.
fn shifts(scales: &[Scale]) -> String {
    let shifts = || scales.iter().map(|scale| scale.shift);
    match (shifts().min(), shifts().max()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (least, _) => least.unwrap_or(0).to_string(),
    }
}

fn percent(share: f64, digits: usize) -> String {
    format!("{:.digits$}%", 100.0 * share)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}
