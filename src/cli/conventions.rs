//! What holds for every subcommand, as the program's help and its manual pages tell it.

/// Shows the way from a checkpoint to a quantized model in use.
pub(super) const EXAMPLES: &str = "\
Examples:
  # Everything on two small models that are inside the program
  ptq4vit-gpu demo

  # From a checkpoint to a quantized model, how well it does, and what it sees
  ptq4vit-gpu calibrate --model deit_small_patch16_224 --images photos --out w8a8.safetensors
  ptq4vit-gpu eval --model deit_small_patch16_224 --quantized w8a8.safetensors --images imagenet/val
  ptq4vit-gpu classify --quantized w8a8.safetensors cat.jpg";

/// Lists the exit codes, those of [`Error`](super::error::Error).
pub(super) const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "All went well."),
    (
        "1",
        "A check failed: devices differ, say, or too many images were skipped.",
    ),
    (
        "2",
        "Flags that are unknown, missing, out of range or at odds with each other.",
    ),
    (
        "3",
        "A file or folder that can't be read, understood or written, the hub, or values not finite.",
    ),
    (
        "4",
        "A device that is missing, computes wrong, was lost or has too little memory.",
    ),
    ("130", "Interrupted by Ctrl-C or SIGTERM."),
    ("141", "Nobody reads the output any more."),
];

/// Lists the variables that are read.
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "RUST_LOG",
        "What is said on stderr, as in ptq4vit_gpu=debug,wgpu_hal=info; -v and -q win.",
    ),
    (
        "HF_ENDPOINT",
        "The hub's URL, by default https://huggingface.co.",
    ),
    (
        "HF_HUB_CACHE",
        "Where files from the hub are kept, by default hub in HF_HOME.",
    ),
    (
        "HF_HOME",
        "The hub's cache and token, by default huggingface in the user's cache.",
    ),
    (
        "HF_TOKEN",
        "The token to fetch with; else the file HF_TOKEN_PATH, else token in HF_HOME.",
    ),
    (
        "HF_HUB_OFFLINE",
        "1: ask the hub nothing, use its cache alone.",
    ),
    (
        "SSL_CERT_FILE",
        "Certificates to trust, in the place of the system's; SSL_CERT_DIR: folders.",
    ),
    (
        "REQUESTS_CA_BUNDLE",
        "Certificates that alone are trusted, a file or folder; else CURL_CA_BUNDLE.",
    ),
    (
        "XDG_CACHE_HOME",
        "The user's cache, of hub files and of bench --tune; by default the system's.",
    ),
];

/// Returns what the program's help says below its subcommands.
pub(super) fn after_help() -> String {
    let section = |title: &str, rows: &[(&str, &str)]| {
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let rows = rows.iter();
        let lines = rows.map(|(name, meaning)| format!("  {name:<width$}  {meaning}\n"));
        format!("\n\n{title}:\n{}", lines.collect::<String>().trim_end())
    };
    format!(
        "{EXAMPLES}{}{}\n\nResults go to stdout, everything else to stderr.",
        section("Exit codes", EXIT_CODES),
        section("Environment", ENVIRONMENT),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    #[test]
    fn every_help_has_examples_that_fit_a_terminal() {
        let mut program = Cli::command();
        program.build();
        let mut helps = vec![after_help()];
        for command in program
            .get_subcommands()
            .filter(|found| found.get_name() != "help" && !found.is_hide_set())
        {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_else(|| panic!("{} has none", command.get_name()));
            let example = format!("\n  {} {} ", crate::cli::NAME, command.get_name());
            assert!(
                format!("{help} ").replace('\n', " \n").contains(&example),
                "{help}"
            );
            // What the list of subcommands shows.
            let about = command.get_about().expect("a first line").to_string();
            assert!(about.len() <= 85, "{}: {about}", about.len());
            helps.push(help);
        }
        for help in helps {
            assert!(help.starts_with("Examples:\n  # "), "{help}");
            for line in help.lines() {
                assert!(line.len() <= 100, "{line}");
            }
        }
    }
}
