//! `models`: what is known by name.

use super::error::Result;
use super::print_json;
use crate::model::config::Architecture;
use crate::model::recipe::{Recipe, recipes};
use clap::{Args, ValueEnum};

/// Lists the models that are known by name.
///
/// Of each: sizes, preprocessing, and where the hub has it. Other sizes of the same kinds work too, where the config.json beside the weights tells what they are.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # What --model takes by name, as text and for programs
  ptq4vit-gpu models
  ptq4vit-gpu models --json")]
pub struct Models {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Models {
    pub fn run(&self) -> Result<()> {
        if self.json {
            return print_json(&recipes());
        }
        recipes().iter().try_for_each(print)
    }
}

fn print(recipe: &Recipe) -> Result<()> {
    let paper_name = recipe.paper_name.as_ref();
    let paper_name = paper_name.map_or(String::new(), |name| format!("  ({name})"));
    print_line!("{}{paper_name}", recipe.name)?;
    print_line!(
        "     {}, {} pixels, {:.1} million parameters, {}",
        recipe.architecture.family(),
        recipe.architecture.image_size(),
        recipe.parameters as f64 / 1e6,
        blocks(&recipe.architecture),
    )?;
    let preprocessing = &recipe.preprocessing;
    let interpolation = preprocessing.interpolation.to_possible_value();
    print_line!(
        "     {}, crop_pct {}, mean {}, std {}",
        interpolation.expect("no value is hidden").get_name(),
        preprocessing.crop_pct,
        list(&preprocessing.mean, ","),
        list(&preprocessing.std, ","),
    )?;
    print_line!("     {}", recipe.hub_id)
}

/// Words the blocks; a Swin's stages as `2+2+6+2`.
fn blocks(architecture: &Architecture) -> String {
    match architecture {
        Architecture::Vit(sizes) => {
            let mut words = vec![
                format!("{} blocks of {} features", sizes.depth, sizes.dim),
                format!("{} heads", sizes.heads),
            ];
            words.extend(sizes.particulars());
            match (sizes.classes, sizes.projection) {
                (0, 0) => words.push("no classifier".to_owned()),
                (0, features) => words.push(format!("projected to {features}")),
                _ => {}
            }
            words.join(", ")
        }
        Architecture::Swin(sizes) => {
            let dims: Vec<usize> = sizes.stages().iter().map(|stage| stage.dim).collect();
            format!(
                "{} blocks of {} features, {} heads, windows of {}{}",
                list(&sizes.depths, "+"),
                list(&dims, "+"),
                list(&sizes.heads, "+"),
                sizes.window,
                if sizes.v2 { ", cosine attention" } else { "" },
            )
        }
    }
}

fn list<T: ToString>(values: &[T], separator: &str) -> String {
    let values: Vec<String> = values.iter().map(T::to_string).collect();
    values.join(separator)
}
