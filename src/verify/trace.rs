//! An integer network site by site. On a device every site is given what the CPU gave it, so what is found at one does not
//! depend on what happened at another. And every site multiplies random codes, the same on every machine, because what the
//! CPU of one gives may differ from another's in a code that follows from floats.

use super::kernels::sha256;
use super::report::{Codes, Failure, SiteIntegers};
use super::step::{levels_apart, step};
use crate::device::{Buffer, Commands, Device};
use crate::error::Result;
use crate::graph::{Activation, Network, Output, Products, Site, Then};
use crate::kernels::Format;
use crate::kernels::catalogue::Random;
use crate::quant::{Codes as Packed, IntegerProducts, OperandCodes, QuantizedModel, Side, Table};

/// Bounds the codes that may differ, of those that follow from floats, to one in this many: a device's float may err by
/// some epsilons (2^-23), a code's step is no less than 2^-8 of the largest, so about one in 2^15 for each epsilon lies
/// between two codes. One in a thousand is 30 times that; and two always may.
const MOST_DIFFERING: u64 = 1000;
/// Bounds the error of a value in proportion to a sum's largest part: scale, bias and residual are rounded once each.
const VALUE_ERROR: f64 = 8.0 * f32::EPSILON as f64;
/// Bounds the further error of a product in floats for each of its k terms, which both sides round.
const FLOAT_ERROR: f64 = f32::EPSILON as f64;

/// Holds every site, in the order in which the network comes to them.
pub(super) struct Trace(Vec<SiteTrace>);

/// Holds what was computed at a site.
struct SiteTrace {
    site: Site,
    images: usize,
    /// The product's integers; absent where the product stays in floats.
    integers: Option<IntegerTrace>,
    out: Out,
}

/// Holds a product of integers.
struct IntegerTrace {
    /// The left operand's codes.
    a: Vec<u32>,
    /// The right operand's codes, where it is an activation.
    b: Option<Vec<u32>>,
    /// The integers of these codes, laid out as O is.
    integers: Vec<f32>,
    /// The integers of random codes.
    of_random: Vec<f32>,
}

/// Holds what a site left.
enum Out {
    Values(Vec<f32>),
    /// Codes for the site of this name.
    Codes(Vec<u32>, String),
}

/// Computes an integer network's products, and keeps what each site computes.
struct Tracer<'a> {
    device: &'a Device,
    products: &'a mut IntegerProducts,
    /// What the sites of this segment are given.
    given: Option<&'a [SiteTrace]>,
    sites: Vec<Kept>,
}

/// Holds what is computed at a site, on the device.
struct Kept {
    site: Site,
    images: usize,
    integers: Option<KeptIntegers>,
    out: Output,
    /// The site that codes are for.
    next: Option<String>,
}

/// Holds a product of integers, on the device.
struct KeptIntegers {
    codes: OperandCodes,
    integers: Buffer<f32>,
    of_random: Buffer<f32>,
}

impl Kept {
    async fn read(self, commands: &mut Commands) -> Result<SiteTrace> {
        let integers = match self.integers {
            Some(kept) => Some(IntegerTrace {
                a: commands.read_async(&kept.codes.a.words).await?,
                b: match kept.codes.b {
                    Some(b) => Some(commands.read_async(&b.words).await?),
                    None => None,
                },
                integers: commands.read_async(&kept.integers).await?,
                of_random: commands.read_async(&kept.of_random).await?,
            }),
            None => None,
        };
        let out = match self.out {
            Output::Values(values) => Out::Values(commands.read_async(&values).await?),
            Output::Codes(words) => {
                let next = self.next.expect("codes are for a site");
                Out::Codes(commands.read_async(&words).await?, next)
            }
        };
        Ok(SiteTrace {
            site: self.site,
            images: self.images,
            integers,
            out,
        })
    }
}

impl Products for Tracer<'_> {
    fn product(
        &mut self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: Activation,
        b: Option<&Output>,
        then: Then,
    ) -> Output {
        let device = self.device;
        let given = self.given.map(|given| &given[self.sites.len()]);
        let (integers, out) = if self.products.is_integer(site) {
            let codes = self.products.codes(commands, site, images, a, b);
            let given_codes = given.and_then(|given| given.integers.as_ref());
            let given_codes = given_codes.map(|given| OperandCodes {
                a: Packed::shared(device.upload(&given.a)),
                b: given.b.as_ref().map(|b| Packed::shared(device.upload(b))),
            });
            let operands = given_codes.as_ref().unwrap_or(&codes);
            let random = random_codes(device, site, images, operands);
            let integers = self.products.integers(commands, site, images, operands);
            let of_random = self.products.integers(commands, site, images, &random);
            let out = self
                .products
                .multiply(commands, site, images, operands, then);
            let kept = KeptIntegers {
                codes,
                integers,
                of_random,
            };
            (Some(kept), out)
        } else {
            let out = self.products.product(commands, site, images, a, b, then);
            (None, out)
        };
        self.sites.push(Kept {
            site: site.clone(),
            images,
            integers,
            out: out.clone(),
            next: match then {
                Then::Gelu(_, next) | Then::Feed(next) => Some(next.name.clone()),
                Then::Keep | Then::Add(_) => None,
            },
        });
        match given.map(|given| &given.out) {
            Some(Out::Values(values)) => Output::Values(device.upload(values)),
            Some(Out::Codes(words, _)) => Output::Codes(device.upload(words)),
            None => out,
        }
    }
}

/// Makes random codes in the place of a site's own.
fn random_codes(device: &Device, site: &Site, images: usize, like: &OperandCodes) -> OperandCodes {
    let product = site.product(images);
    let mut random = Random::new(product.multiply_adds());
    let mut words = |len: usize| -> Vec<u32> {
        let bytes = random.bytes(4 * len);
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word))
            .collect()
    };
    let mut a = words(like.a.words.len());
    // Lanes past k are zero.
    let (count, padded) = (product.k.div_ceil(4), product.m.next_multiple_of(4));
    let lanes = product.k - 4 * (count - 1);
    for (at, word) in a.iter_mut().enumerate() {
        if at / padded % count == count - 1 {
            *word &= u32::MAX >> (32 - 8 * lanes);
        }
    }
    OperandCodes {
        a: Packed::shared(device.upload(&a)),
        b: like
            .b
            .as_ref()
            .map(|b| Packed::shared(device.upload(&words(b.words.len())))),
    }
}

/// Runs `model` on `images`; where a trace is `given`, each site on what that trace had there. What a segment's sites
/// compute stays on the device until the whole segment has been computed.
pub(super) async fn record(
    device: &Device,
    model: &QuantizedModel,
    images: &[Vec<f32>],
    given: Option<&Trace>,
) -> Result<Trace> {
    let (network, mut products): (Network, _) = model.load(device)?;
    let commands = &mut Commands::new(device);
    let mut values = device.upload(&images.concat());
    let mut sites = Vec::new();
    for segment in network.segments() {
        let mut tracer = Tracer {
            device,
            products: &mut products,
            given: given.map(|given| &given.0[sites.len()..]),
            sites: Vec::new(),
        };
        values = segment.forward(commands, &mut tracer, images.len(), &values);
        for kept in tracer.sites {
            sites.push(kept.read(commands).await?);
        }
    }
    Ok(Trace(sites))
}

/// Compares a device's trace with the CPU's, which it was given.
pub(super) fn compare(
    model: &QuantizedModel,
    found: &Trace,
    expected: &Trace,
) -> Vec<SiteIntegers> {
    let sites = found.0.iter().zip(&expected.0);
    sites
        .map(|(found, expected)| compare_site(model, found, expected))
        .collect()
}

/// Says how the codes of an operand are compared.
struct Operand<'a> {
    format: Format,
    /// What a code of R2 is worth, in units of R1.
    ratio: f64,
    /// The tables of the groups, which take turns, where codes are looked up in them.
    tables: &'a [Table],
    /// Rows of a matrix; the rows that pad it hold anything.
    rows: usize,
    /// Words of a row.
    words: usize,
}

impl<'a> Operand<'a> {
    fn new(model: &'a QuantizedModel, site: &Site, side: Side, images: usize) -> Self {
        let plan = model.method.plan.of(site);
        let plan = plan.expect("codes are of a site in integers");
        let (scales, tables) = model.sites[&site.name].scales.operand(side);
        let quantizer = plan.quantizer(side, images, 1);
        Self {
            format: quantizer.format,
            // A twin without tables has one scale.
            ratio: f64::from(1u32 << scales[0].shift),
            tables,
            rows: quantizer.rows,
            words: quantizer.words(),
        }
    }

    fn compare(&self, found: &[u32], expected: &[u32]) -> (Codes, Option<Failure>) {
        let mut codes = Codes::default();
        let mut failure: Option<Failure> = None;
        let padded = self.rows.next_multiple_of(4);
        let words = found.iter().zip(expected).enumerate();
        for (word, (found, expected)) in words.filter(|(word, _)| word % padded < self.rows) {
            let lanes = found.to_le_bytes().into_iter().zip(expected.to_le_bytes());
            for (lane, (found, expected)) in lanes.enumerate() {
                let step = match self.tables {
                    [] => step(self.format, self.ratio, found, expected),
                    tables => {
                        let matrix = word / (self.words * padded);
                        let table = &tables[matrix % tables.len()];
                        levels_apart(&table.lanes, found, expected)
                    }
                };
                codes.count(step);
                if step > 1.0 {
                    let failure = failure.get_or_insert_with(|| Failure {
                        index: Some(4 * word + lane),
                        found: format!("code {found:#04x}"),
                        expected: Some(format!("{expected:#04x} or a step from it")),
                        wrong: 0,
                    });
                    failure.wrong += 1;
                }
            }
        }
        let allowed = 2 + codes.all / MOST_DIFFERING;
        if codes.differing > allowed && failure.is_none() {
            failure = Some(Failure {
                index: None,
                found: format!("{} of {} codes are a step off", codes.differing, codes.all),
                expected: Some(format!("at most {allowed}")),
                wrong: codes.differing as usize,
            });
        }
        (codes, failure)
    }
}

fn compare_site(model: &QuantizedModel, found: &SiteTrace, expected: &SiteTrace) -> SiteIntegers {
    let (site, images) = (&found.site, found.images);
    let mut report = SiteIntegers {
        site: site.name.clone(),
        sha256: sha256(std::iter::empty()),
        operands: Codes::default(),
        next: None,
        failure: None,
    };
    let mut value_error = VALUE_ERROR;
    match (&found.integers, &expected.integers) {
        (Some(found), Some(expected)) => {
            compare_products(model, site, images, found, expected, &mut report);
        }
        _ => value_error += FLOAT_ERROR * site.product(1).k as f64,
    }
    match (&found.out, &expected.out) {
        (Out::Values(found), Out::Values(expected)) => {
            let failure = || compare_values(found, expected, value_error);
            report.failure = report.failure.or_else(failure);
        }
        (Out::Codes(found, name), Out::Codes(expected, _)) => {
            let sites = crate::families::sites(&model.architecture);
            let site = sites.iter().find(|site| site.name == *name);
            let site = site.expect("codes are for a site of this network");
            let (codes, failure) =
                Operand::new(model, site, Side::A, images).compare(found, expected);
            report.next = Some(codes);
            report.failure = report.failure.or(failure);
        }
        _ => {
            let failure = || Failure::of("codes in the place of floats");
            report.failure.get_or_insert_with(failure);
        }
    }
    report
}

/// Compares the codes and the integers of a site, for its `report`.
fn compare_products(
    model: &QuantizedModel,
    site: &Site,
    images: usize,
    found: &IntegerTrace,
    expected: &IntegerTrace,
    report: &mut SiteIntegers,
) {
    report.sha256 = sha256(found.of_random.iter().map(|value| (value + 0.0).to_bits()));
    let mut failure;
    (report.operands, failure) =
        Operand::new(model, site, Side::A, images).compare(&found.a, &expected.a);
    if let (Some(found), Some(expected)) = (&found.b, &expected.b) {
        let (codes, of_b) = Operand::new(model, site, Side::B, images).compare(found, expected);
        report.operands.add(&codes);
        failure = failure.or(of_b);
    }
    report.failure = failure
        .or_else(|| compare_integers(&found.integers, &expected.integers))
        .or_else(|| compare_integers(&found.of_random, &expected.of_random));
}

fn compare_integers(found: &[f32], expected: &[f32]) -> Option<Failure> {
    let differ = || (0..expected.len()).filter(|&at| found.get(at) != Some(&expected[at]));
    let index = differ().next()?;
    Some(Failure {
        index: Some(index),
        found: found
            .get(index)
            .map_or("missing".to_owned(), |value| format!("the integer {value}")),
        expected: Some(expected[index].to_string()),
        wrong: differ().count(),
    })
}

fn compare_values(found: &[f32], expected: &[f32], error: f64) -> Option<Failure> {
    let largest = expected.iter().fold(0.0f32, |a, x| a.max(x.abs()));
    let bound = error * f64::from(largest);
    // So written that NaN fails.
    let holds = |at: usize| (f64::from(found[at]) - f64::from(expected[at])).abs() <= bound;
    let wrong = || (0..expected.len()).filter(|&at| !holds(at));
    let index = wrong().next()?;
    Some(Failure {
        index: Some(index),
        found: format!("{:e}", found[index]),
        expected: Some(format!("{:e}, to within {bound:.1e}", expected[index])),
        wrong: wrong().count(),
    })
}
