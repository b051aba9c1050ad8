//! What the device reaches.

use crate::js::{json, tell};
use js_sys::Function;
use ptq4vit_gpu::bench::{
    BATCHES, BenchNetwork, Ceilings, Clock, DEFAULT_MODEL, KernelFigures, Measurements,
    NetworkFigures, Precision, TimedKernel, cases_of,
};
use ptq4vit_gpu::device::Device;
use ptq4vit_gpu::error::Result;
use ptq4vit_gpu::model::recipe::recipe_named;
use ptq4vit_gpu::verify::demo::{self, MODELS};
use serde::Serialize;

/// Lists the kernels that are measured: those that most of the time goes into.
const KERNELS: [&str; 3] = ["float_product", "half_product", "integer_product"];

/// Describes a row of the page's table.
#[derive(Serialize)]
struct Row<'a> {
    section: &'static str,
    name: String,
    value: f64,
    unit: &'a str,
    /// Of the ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<f64>,
}

/// Counts the rows that are told.
struct Teller<'a> {
    listener: &'a Function,
    rows: usize,
    all: usize,
}

impl Teller<'_> {
    fn tell(&mut self, row: &Row) -> Result<()> {
        self.rows += 1;
        let done = self.rows as f64 / self.all as f64;
        tell(self.listener, &json(row), done.min(1.0))
    }
}

/// Measures the ceilings of `device`, products at DeiT-Tiny's shapes and the built-in networks, tells `listener` each row
/// when it is there, and returns the text that `bench --json` prints.
///
/// # Errors
/// Those of the device, and what the listener throws.
pub async fn run(device: &Device, listener: &Function) -> Result<String> {
    let recipe = recipe_named(DEFAULT_MODEL).expect("it is among the recipes");
    let kernels: Vec<TimedKernel> = KERNELS.into_iter().filter_map(TimedKernel::named).collect();
    let mut cases = cases_of(&recipe.architecture, &kernels);
    cases.retain(|case| case.runs_on(device));
    let precisions = Precision::ALL
        .into_iter()
        .filter(|precision| precision.runs_on(device));
    let precisions: Vec<Precision> = precisions.collect();

    let ceilings = Ceilings::measure_async(device).await?;
    let networks = MODELS.len() * precisions.len() * BATCHES.len();
    let mut teller = Teller {
        listener,
        rows: 0,
        all: ceilings.all().len() + cases.len() + networks,
    };
    for ceiling in ceilings.all() {
        teller.tell(&Row {
            section: "ceilings",
            name: ceiling.kernel.to_owned(),
            value: ceiling.rate.rate,
            unit: ceiling.rate.unit.name(),
            share: None,
        })?;
    }
    let mut figures = Vec::new();
    for case in &cases {
        let figure = case.measure_async(device, &ceilings).await?;
        let mut words = vec![
            figure.kernel.to_owned(),
            figure.variant(),
            figure.site.clone(),
        ];
        words.retain(|word| !word.is_empty());
        teller.tell(&Row {
            section: "products",
            name: words.join("; "),
            value: figure.rate.rate,
            unit: figure.rate.unit.name(),
            share: Some(figure.fraction),
        })?;
        figures.push(figure);
    }
    let kernels = vec![KernelFigures {
        shapes: recipe.name.clone(),
        figures,
    }];
    let mut networks = Vec::new();
    for name in MODELS {
        networks.push(network(device, name, &precisions, &ceilings, &mut teller).await?);
    }
    let measurements = Measurements {
        device: device.name().to_owned(),
        driver: device.driver().to_owned(),
        timing: Clock::of(device),
        ceilings,
        kernels,
        networks,
    };
    Ok(serde_json::to_string_pretty(&measurements).expect("plain data is always JSON"))
}

async fn network(
    device: &Device,
    name: &str,
    precisions: &[Precision],
    ceilings: &Ceilings,
    teller: &mut Teller<'_>,
) -> Result<NetworkFigures> {
    let (weights, resolved) = demo::open(name)?;
    let network = BenchNetwork::new(weights, resolved);
    let mut figures = Vec::new();
    for &precision in precisions {
        let mut model = network.model_async(device, precision).await?;
        for batch in BATCHES {
            let figure = network
                .measure_async(device, &mut model, precision, batch, ceilings)
                .await?;
            teller.tell(&Row {
                section: "networks",
                name: format!("{name} {}, batch {batch}", precision.name()),
                value: figure.images_per_second,
                unit: "images/s",
                share: None,
            })?;
            figures.push(figure);
        }
    }
    Ok(NetworkFigures {
        model: name.to_owned(),
        weights: "built in".to_owned(),
        figures,
    })
}
