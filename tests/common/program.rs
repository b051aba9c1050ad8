//! Running the program itself.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A command line under construction.
pub struct Program {
    pub arguments: Vec<OsString>,
    /// Variables of its environment besides this process's.
    pub environment: Vec<(&'static str, OsString)>,
    /// Where it runs, by default in the crate's folder.
    pub folder: PathBuf,
}

/// A run.
pub struct Running {
    arguments: Vec<OsString>,
    pub child: Child,
}

/// What a run left behind.
pub struct Outcome {
    arguments: Vec<OsString>,
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The program with this subcommand.
pub fn program(subcommand: &str) -> Program {
    Program {
        arguments: vec![subcommand.into()],
        environment: Vec::new(),
        folder: here(""),
    }
}

impl Program {
    /// Adds a flag without a value.
    pub fn flag(mut self, flag: &str) -> Self {
        self.arguments.push(flag.into());
        self
    }

    /// Adds a flag and its value.
    pub fn with(self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        let mut program = self.flag(flag);
        program.arguments.push(value.as_ref().to_owned());
        program
    }

    /// Runs the program to its end.
    pub fn run(self) -> Outcome {
        self.run_with_stdout(Stdio::piped())
    }

    /// Runs the program to its end, with another stdout.
    pub fn run_with_stdout(self, stdout: impl Into<Stdio>) -> Outcome {
        self.start(stdout).finish()
    }

    /// Starts the program.
    pub fn start(self, stdout: impl Into<Stdio>) -> Running {
        let child = Command::new(env!("CARGO_BIN_EXE_ptq4vit-gpu"))
            .args(&self.arguments)
            // What is said is compared with what is said by default.
            .env_remove("RUST_LOG")
            .envs(self.environment)
            .current_dir(self.folder)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .expect("cargo built the program");
        Running {
            arguments: self.arguments,
            child,
        }
    }
}

impl Running {
    /// Waits for the end.
    pub fn finish(self) -> Outcome {
        let output = self.child.wait_with_output().expect("the program ends");
        let text = |bytes| String::from_utf8(bytes).expect("the program prints UTF-8");
        let outcome = Outcome {
            arguments: self.arguments,
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!outcome.stderr.contains("panicked"), "{outcome}");
        // Nothing that a terminal would obey, whatever files have.
        for text in [&outcome.stdout, &outcome.stderr] {
            let control = text
                .chars()
                .find(|&it| it.is_control() && it != '\n' && it != '\t');
            assert_eq!(control, None, "{outcome}");
        }
        outcome
    }
}

impl Outcome {
    /// What a successful run said: its results, and on stderr everything else.
    pub fn success(self) -> (String, String) {
        assert_eq!(self.code, Some(0), "{self}");
        (self.stdout, self.stderr)
    }

    /// The JSON that a successful run printed, and nothing else with it on stdout.
    pub fn json(self) -> serde_json::Value {
        let (stdout, _) = self.success();
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(
            f,
            "{:?} ended with {:?}\nstdout: {}\nstderr: {}",
            self.arguments, self.code, self.stdout, self.stderr
        )
    }
}

/// A file or folder of the crate.
pub fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
