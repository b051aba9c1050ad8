//! Codes that are looked up in tables: networks with tables wherever there can be any, from the file to the integers.

mod common;
#[path = "common/container.rs"]
mod container;
#[path = "common/program.rs"]
mod program;

use common::devices;
use container::Container;
use program::{here, program};
use ptq4vit_gpu::device::{Buffer, Commands, Device};
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::file::weights::Weights;
use ptq4vit_gpu::graph::{
    Activation, FloatProducts, FloatingProducts, LinearWeights, Output, Products, Site, SiteKind,
    Then,
};
use ptq4vit_gpu::kernels::{Format, View};
use ptq4vit_gpu::model::recipe::resolve;
use ptq4vit_gpu::quant::{
    Calibration, CalibrationIdentity, FakeQuantizedProducts, Granularity, JournalLock, Lanes,
    Method, OperandScheme, Plan, Preset, Provenance, QuantizedModel, QuantizedSite, Scale, Side,
    SiteEvidence, SitePlan, SiteReport, SiteScales, Table, Work, nearest_codes,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

const MODELS: [&str; 2] = [
    "models/demo/vit_mnist/model.safetensors",
    "models/demo/swin_mnist/model.safetensors",
];

/// Plans tables for all operands, with a range flag after softmax and GELU, and weights with a scale for each channel.
fn plan(sites: &[Site]) -> Plan {
    let bits = [4, 8, 3, 6, 2];
    let schemes = sites
        .iter()
        .zip(bits.into_iter().cycle())
        .map(|(site, bits)| {
            let operand = |format, granularity| OperandScheme {
                bits,
                format,
                granularity,
            };
            let head = operand(Format::Table, Granularity::Head);
            let (a, b) = match site.kind {
                SiteKind::Linear(linear) => {
                    let format = match linear.after_gelu.is_some() {
                        true => Format::TwinTable,
                        false => Format::Table,
                    };
                    let weight = operand(Format::Table, Granularity::Channel);
                    (operand(format, Granularity::Tensor), weight)
                }
                SiteKind::Scores(_) => (head, head),
                SiteKind::Context(_) => (operand(Format::TwinTable, Granularity::Head), head),
            };
            (site.name.clone(), json!({ "a": a, "b": b }))
        });
    let plan: Plan =
        serde_json::from_value(schemes.collect::<serde_json::Map<_, _>>().into()).unwrap();
    plan.check(sites).unwrap();
    plan
}

/// Makes a table of random levels, some of 2^bits, and its scale, so that it reaches `reach` times its largest lane.
fn table(random: &mut ChaCha8Rng, plan: &OperandScheme, reach: f32, offset: f32) -> (Scale, Table) {
    let lanes_are = plan.format.lanes().unwrap();
    let shift = match lanes_are {
        Lanes::Signed => 0,
        Lanes::Ranges => random.random_range(0..=11),
    };
    let integer = |lane: &u8| lanes_are.integer(*lane, shift);
    let count = random.random_range(2..=1 << plan.bits);
    let mut lanes: Vec<u8> = (0..count).map(|_| random.random()).collect();
    lanes.sort_by_key(integer);
    lanes.dedup_by_key(|lane| integer(lane));
    let largest = lanes.iter().map(|lane| integer(lane).abs()).max().unwrap();
    let scale = Scale {
        scale: reach / largest.max(1) as f32,
        shift,
    };
    (scale, Table { offset, lanes })
}

/// Makes random tables and scales of a site; those of a weight reach each row's largest value.
fn scales(random: &mut ChaCha8Rng, plan: &SitePlan, weight: Option<&[f32]>) -> SiteScales {
    let has_bias = plan.site.weight().is_some_and(|linear| linear.has_bias);
    let mut operand = |side, reach| -> (Vec<Scale>, Vec<Table>) {
        let tables = (0..plan.groups(side)).map(|_| {
            let offset = match side == Side::A && has_bias {
                true => random.random_range(-0.5..0.5),
                false => 0.0,
            };
            table(random, plan.operand(side), reach, offset)
        });
        tables.unzip()
    };
    let reach = match plan.site.kind {
        SiteKind::Context(_) => 0.5,
        _ => 3.0,
    };
    let (a, a_tables) = operand(Side::A, reach);
    let (mut b, mut b_tables) = operand(Side::B, 3.0);
    if let (Some(weight), Some(sizes)) = (weight, plan.site.weight()) {
        let table = b_tables.remove(0);
        let integers = table
            .lanes
            .iter()
            .map(|&lane| Lanes::Signed.integer(lane, 0).abs());
        let largest = integers.max().unwrap().max(1) as f32;
        b = weight
            .chunks(sizes.inputs)
            .map(|row| {
                let reach = row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                Scale::uniform(reach.max(1e-3) / largest)
            })
            .collect();
        b_tables = vec![table];
    }
    SiteScales {
        a,
        b,
        a_tables,
        b_tables,
    }
}

/// Quantizes the model at `path` with random tables. What offsets take off, the biases add.
fn quantized(path: &str) -> QuantizedModel {
    let weights = Weights::open(here(path)).unwrap();
    let resolved = resolve(&weights, None).unwrap();
    let sites = sites(&resolved.architecture);
    let method = Method {
        plan: plan(&sites),
        ..Method::preset(Preset::Ptq4vit, 8, 8, &sites).unwrap()
    };
    let device = Device::cpu();
    let mut commands = Commands::new(&device);
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut quantized = HashMap::new();
    for plan in method.plan.integer(&sites) {
        let part = |part: &str| {
            weights
                .float(&format!("{}.{part}", plan.site.name))
                .unwrap()
        };
        let weight = plan.site.weight().map(|_| part("weight"));
        let scales = scales(&mut random, &plan, weight.as_deref());
        plan.check_formats(&scales).unwrap();
        let weight = plan.site.weight().zip(weight).map(|(sizes, weight)| {
            let bias = sizes.has_bias.then(|| part("bias"));
            let linear = LinearWeights::new(device.upload(&weight), &device, bias.as_deref());
            let mut weight = nearest_codes(&mut commands, &plan, &linear, &scales).unwrap();
            if let Some(bias) = &mut weight.bias {
                let rows = weight.codes.chunks(sizes.inputs).zip(&scales.b);
                for (bias, (lanes, scale)) in bias.iter_mut().zip(rows) {
                    let sum: i32 = lanes.iter().map(|&lane| i32::from(lane)).sum();
                    *bias += scales.a_tables[0].offset * scale.scale * sum as f32;
                }
            }
            weight
        });
        quantized.insert(plan.site.name.clone(), QuantizedSite { scales, weight });
    }
    let mut calibration = Calibration::default();
    calibration.sites = quantized;
    let provenance = Provenance::new(&weights, "tables", Preset::Ptq4vit, None, &[]).unwrap();
    let model = QuantizedModel::new(&weights, &resolved, method, calibration, provenance).unwrap();
    QuantizedModel {
        evidence: None,
        ..model
    }
}

fn save(model: &QuantizedModel, folder: &Path) -> std::path::PathBuf {
    let path = folder.join("tables.safetensors");
    model.save(&path).unwrap();
    path
}

#[test]
fn a_file_with_tables_is_read_as_it_was_written() {
    for path in MODELS {
        let model = quantized(path);
        let folder = tempfile::tempdir().unwrap();
        let out = save(&model, folder.path());
        let read = QuantizedModel::open(&out).unwrap();
        assert!(read == model, "{path}");
        assert_eq!(read.to_bytes(), std::fs::read(&out).unwrap());
        let file = Weights::open(&out).unwrap();
        assert_eq!(file.metadata()["format_version"], "3");
        let plans = model
            .method
            .plan
            .integer(&sites(&model.architecture))
            .collect::<Vec<_>>();
        for plan in plans {
            if let Some(sizes) = plan.site.weight() {
                let codes = file.bytes(&format!("{}.b.codes", plan.site.name)).unwrap();
                let bits = sizes.inputs * sizes.outputs * plan.b.bits as usize;
                assert_eq!(codes.len(), bits.div_ceil(8));
            }
        }
        let inspected = program("inspect").with("--json", &out).run().json();
        assert_eq!(inspected["format_version"], "3");
        let formats = |site: &Value| [&site["a"]["format"], &site["b"]["format"]].map(Value::clone);
        let found = inspected["sites"].as_array().unwrap().iter().map(formats);
        for formats in found {
            assert!(
                formats
                    .iter()
                    .all(|format| format.as_str().unwrap().ends_with("table"))
            );
        }
    }
}

/// A journal keeps tables, and weights as their lanes.
#[test]
fn a_journal_keeps_tables() {
    let model = quantized(MODELS[0]);
    let weights = Weights::open(here(MODELS[0])).unwrap();
    let resolved = resolve(&weights, None).unwrap();
    let identity =
        CalibrationIdentity::new(&model.provenance, &resolved, &model.method, &Device::cpu());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let open = || JournalLock::take(&out).unwrap().open(&identity, false);
    let plans = model
        .method
        .plan
        .integer(&sites(&model.architecture))
        .collect::<Vec<_>>();
    let (mut journal, found) = open().unwrap();
    assert!(found.is_empty());
    for plan in &plans {
        let report = SiteReport {
            site: plan.site.name.clone(),
            score: 0.5,
            rounds: 1,
            work: Work::default(),
            seconds: 0.0,
            evidence: SiteEvidence {
                sqnr_db: None,
                cosine: None,
                hessian_error: Some(0.0),
                a_in_r2: (plan.a.format == Format::TwinTable).then_some(0.25),
                a_clipped: 0.0,
                b_clipped: 0.0,
            },
            curves: Vec::new(),
            histograms: None,
        };
        journal.add(&report, &model.sites[&plan.site.name]).unwrap();
    }
    drop(journal);
    let (_, found) = open().unwrap();
    assert_eq!(found.len(), plans.len());
    for (finding, plan) in found.iter().zip(&plans) {
        assert_eq!(finding.report.site, plan.site.name);
        assert!(
            finding.quantized == model.sites[&plan.site.name],
            "{}",
            plan.site.name
        );
    }

    // A lane that is no level.
    let mut wrong = found[0].quantized.clone();
    let lanes = &wrong.scales.b_tables[0].lanes;
    let lane = (0..=255).find(|lane| !lanes.contains(lane));
    wrong.weight.as_mut().unwrap().codes[3] = lane.expect("there are fewer levels") as i8;
    let (mut journal, _) = JournalLock::take(&out)
        .unwrap()
        .open(&identity, true)
        .unwrap();
    journal.add(&found[0].report, &wrong).unwrap();
    drop(journal);
    let problem = open().err().map(|error| error.to_string()).unwrap();
    assert!(problem.contains("codes of 4 bits in hex"), "{problem}");
}

/// Holds what a site may be given: random values of its operands.
struct Given {
    a: Vec<f32>,
    b: Option<Vec<f32>>,
}

impl Given {
    fn new(random: &mut ChaCha8Rng, plan: &SitePlan) -> Self {
        let mut values = |side| -> Vec<f32> {
            let quantizer = plan.quantizer(side, 2, 1);
            let View {
                offset,
                outer,
                inner,
                row,
                column,
                ..
            } = quantizer.source;
            let [images, matrices] = quantizer.batch;
            let counts = [images, matrices, quantizer.rows, quantizer.k];
            let ends = counts.into_iter().zip([outer, inner, row, column]);
            let steps = ends.map(|(count, stride)| (count - 1) * stride as usize);
            let end = offset as usize + steps.sum::<usize>();
            let range = match (&plan.site.kind, side) {
                (SiteKind::Context(_), Side::A) => 0.0..0.4,
                _ => -4.0..4.0,
            };
            (0..=end)
                .map(|_| random.random_range(range.clone()))
                .collect()
        };
        Self {
            a: values(Side::A),
            b: (!plan.site.has_weight()).then(|| values(Side::B)),
        }
    }
}

/// A site's product of lanes is that of what they stand for, offsets and all, and its integers are the same everywhere.
#[test]
fn integers_give_what_levels_give() {
    const IMAGES: usize = 2;
    for path in MODELS {
        let model = quantized(path);
        let weights = Weights::open(here(path)).unwrap();
        let mut all_integers: Vec<Vec<Vec<f32>>> = Vec::new();
        for device in devices() {
            let (network, mut products) = model.load(&device).unwrap();
            let float = FloatProducts::load(&device, &weights, network.sites()).unwrap();
            let sites: Vec<Site> = network.sites().cloned().collect();
            let plans: Vec<SitePlan> = model.method.plan.integer(&sites).collect();
            let with_scales = plans
                .iter()
                .map(|plan| (plan.clone(), model.sites[&plan.site.name].scales.clone()));
            let rounded = FakeQuantizedProducts::new(float, with_scales);
            let mut random = ChaCha8Rng::seed_from_u64(3);
            let mut integers = Vec::new();
            for plan in &plans {
                let (site, given) = (&plan.site, Given::new(&mut random, plan));
                let upload = |values: &Vec<f32>| -> Buffer<f32> { device.upload(values) };
                let a = Output::Values(upload(&given.a));
                let b = given.b.as_ref().map(upload).map(Output::Values);
                let mut commands = Commands::new(&device);
                let expected = rounded.multiply(
                    &mut commands,
                    site,
                    IMAGES,
                    a.values(),
                    b.as_ref().map(Output::values),
                );
                let codes = products.codes(
                    &mut commands,
                    site,
                    IMAGES,
                    Activation::Output(&a),
                    b.as_ref(),
                );
                let sums = products.integers(&mut commands, site, IMAGES, &codes);
                integers.push(commands.read(&sums).unwrap());
                let found = products.product(
                    &mut commands,
                    site,
                    IMAGES,
                    Activation::Output(&a),
                    b.as_ref(),
                    Then::Keep,
                );
                let expected = commands.read(&expected).unwrap();
                let found = commands.read(found.values()).unwrap();
                let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                // Each of k products and sums is rounded in floats, to half an epsilon of at most as much as all terms.
                let k = site.product(1).k as f32;
                let bound = 2.0 * k * f32::EPSILON * largest.max(1.0);
                for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    assert!(
                        (found - expected).abs() <= bound,
                        "{} on {}: [{at}] is {found}, expected {expected}",
                        site.name,
                        device.name()
                    );
                }
            }
            all_integers.push(integers);
        }
        assert!(
            all_integers.windows(2).all(|pair| pair[0] == pair[1]),
            "{path}"
        );
    }
}

/// Every device runs the network as the CPU does: `verify` traces it site by site.
#[test]
fn devices_agree_on_networks_with_tables() {
    for path in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let out = save(&quantized(path), folder.path());
        program("verify").with("--quantized", &out).run().success();
    }
}

#[test]
fn damaged_tables_are_refused() {
    let model = quantized(MODELS[0]);
    let sound = Container::parse(&model.to_bytes());
    let wide = |site: &str| format!("blocks.0.{site}.a.levels");
    let read = |file: &Container| {
        let weights = Weights::from_bytes("tables.safetensors", &file.file());
        weights.and_then(|weights| QuantizedModel::read(&weights))
    };
    assert!(read(&sound).unwrap() == model);
    type Change<'a> = &'a dyn Fn(&mut Container);
    let cases: [(Change, &[&str]); 12] = [
        (
            &|file| file.tensor("blocks.0.attn.qk.a.scale").clear(),
            &[
                "blocks.0.attn.qk.a.scale",
                "expected positive scales, found 0",
            ],
        ),
        (
            &|file| {
                let levels = file.tensor("blocks.0.attn.qkv.b.levels");
                levels.bytes.swap(0, 1);
            },
            &["site `blocks.0.attn.qkv`: b.levels: expected rising levels, found"],
        ),
        (
            // A repetition that isn't the last level's.
            &|file| {
                let levels = file.tensor("blocks.0.attn.qkv.b.levels");
                levels.bytes[1] = levels.bytes[0];
            },
            &["site `blocks.0.attn.qkv`: b.levels: expected rising levels, found"],
        ),
        (
            &|file| {
                file.tensors.remove(&wide("attn.pv"));
            },
            &["1 missing", "blocks.0.attn.pv.a.levels"],
        ),
        (
            &|file| {
                let levels = file.tensor(&wide("attn.pv"));
                levels.shape = vec![levels.bytes.len()];
            },
            &["of another shape", "blocks.0.attn.pv.a.levels"],
        ),
        (
            &|file| {
                let levels = file.tensor(&wide("attn.pv"));
                levels.dtype = "I32";
                levels.bytes = vec![0; 4 * levels.bytes.len()];
            },
            &["blocks.0.attn.pv.a.levels` is I32, where U8 is expected"],
        ),
        (
            &|file| {
                file.tensors.remove("blocks.0.attn.qk.a.offset");
            },
            &["1 missing", "blocks.0.attn.qk.a.offset"],
        ),
        (
            &|file| {
                file.tensor("blocks.0.attn.qk.a.offset").words()[1] = 0.25f32.to_le_bytes();
            },
            &[
                "site `blocks.0.attn.qk`: expected no a.offset",
                "found 0.25",
            ],
        ),
        (
            &|file| {
                file.tensor("head.a.offset").words()[0] = 1e-40f32.to_le_bytes();
            },
            &["site `head`: expected a.offset that is 0 or a normal number"],
        ),
        (
            &|file| {
                file.tensor("head.a.offset").words()[0] = f32::NAN.to_le_bytes();
            },
            &["head.a.offset", "must be finite"],
        ),
        (
            &|file| {
                file.tensor("blocks.0.mlp.fc2.a.shift").words()[0] = 12i32.to_le_bytes();
            },
            &[
                "blocks.0.mlp.fc2.a.shift",
                "expected shifts of 0 to 11, found 12",
            ],
        ),
        (
            &|file| {
                let plan = file.metadata.get_mut("plan").unwrap();
                let mut value: Value = serde_json::from_str(plan).unwrap();
                value["head"]["b"]["format"] = json!("twin_table");
                *plan = value.to_string();
            },
            &["site `head`: b.format: expected uniform or table, found twin_table"],
        ),
    ];
    for (change, says) in cases {
        let mut file = sound.clone();
        change(&mut file);
        let problem = read(&file).err().map(|error| error.to_string());
        let problem = problem.unwrap_or_else(|| panic!("expected {says:?}, found a sound file"));
        for part in says {
            assert!(problem.contains(part), "expected {part:?} in {problem:?}");
        }
    }
}

/// The search has no candidates of tables.
#[test]
fn tables_are_not_searched() {
    let folder = tempfile::tempdir().unwrap();
    let weights = Weights::open(here(MODELS[0])).unwrap();
    let sites = sites(&resolve(&weights, None).unwrap().architecture);
    let plan_file = folder.path().join("plan.toml");
    std::fs::write(&plan_file, plan(&sites).to_toml(&sites)).unwrap();
    let outcome = program("calibrate")
        .with("--model", MODELS[0])
        .with("--images", "models/demo/calibration")
        .with("--count", "2")
        .with("--preset", "ptq4vit")
        .with("--device", "cpu")
        .with("--plan", &plan_file)
        .with("--out", folder.path().join("out.safetensors"))
        .run();
    assert_eq!(outcome.code, Some(2), "{outcome}");
    let says = ": a.format: expected one whose scales can be searched, found";
    assert!(outcome.stderr.contains("--plan: site `"), "{outcome}");
    assert!(outcome.stderr.contains(says), "{outcome}");
}
