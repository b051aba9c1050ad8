//! Models by name: fetched from a hub on this machine, and from the cache without one.

#[path = "../common/program.rs"]
mod program;
mod server;

use program::{Outcome, Program, here, program};
use ptq4vit_gpu::file::weights::{TensorData, Weights, save};
use serde_json::{Value, json};
use server::{Authority, Fault, Files, Hub, etag};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The hub's one repository, that of a recipe. Its model is the golden ViT: what it is, the files tell.
const ID: &str = "timm/deit_tiny_patch16_224.fb_in1k";
const NAME: &str = "hf-hub:timm/deit_tiny_patch16_224.fb_in1k";
const WEIGHTS: &str = "model.safetensors";

/// The golden ViT, with its description in the file.
fn weights() -> Vec<u8> {
    fs::read(here("tests/golden/vit_micro.safetensors")).unwrap()
}

/// The golden ViT, as timm's repositories have it: described beside the weights.
fn timm_files() -> Files {
    let mut weights = weights();
    let key = b"\"config\"";
    let at = weights.windows(key.len()).position(|part| part == key);
    let at = at.expect("its description");
    weights[at..at + key.len()].copy_from_slice(b"\"unread\"");
    let config = json!({
        "architecture": "vit_micro",
        "num_classes": 10,
        "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3},
        "pretrained_cfg": {
            "input_size": [3, 32, 32],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    });
    let config = config.to_string().into_bytes();
    Files::from([(WEIGHTS, weights), ("config.json", config)])
}

/// The same, with one weight that differs in its last bit.
fn other_files() -> Files {
    let mut files = timm_files();
    let weights = files.get_mut(WEIGHTS).expect("weights");
    let last = weights.len() - size_of::<f32>();
    weights[last] ^= 1;
    files
}

/// A hub, and a user's `HF_HOME` with labels for two images.
struct Scene {
    hub: Hub,
    home: TempDir,
}

impl Scene {
    fn new(files: Files) -> Self {
        let home = tempfile::tempdir().unwrap();
        let labels = "portrait.png\t3\nlandscape.png\t7\n";
        fs::write(home.path().join("labels.tsv"), labels).unwrap();
        let hub = Hub::new(ID, files);
        Self { hub, home }
    }

    /// The same with a hub that an authority vouches for.
    fn with_tls(files: Files, authority: &Authority) -> Self {
        let hub = Hub::with_tls(ID, files, authority);
        Self {
            hub,
            ..Self::new(Files::new())
        }
    }

    /// An evaluation of `model` on two images.
    fn eval(&self, model: impl AsRef<Path>) -> Program {
        let mut program = program("eval")
            .with("--model", model.as_ref())
            .with("--images", here("tests/data"))
            .with("--labels", self.home.path().join("labels.tsv"))
            .with("--device", "cpu")
            .flag("--json");
        let none = [
            "HF_HUB_CACHE",
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
        ];
        program.environment = none.map(|name| (name, "".into())).into();
        program.environment.extend([
            ("HF_HOME", self.home.path().into()),
            ("HF_ENDPOINT", self.hub.endpoint().into()),
            ("NO_PROXY", "127.0.0.1".into()),
        ]);
        program
    }

    fn offline(&self, model: &str) -> Program {
        let mut program = self.eval(model);
        program.environment.push(("HF_HUB_OFFLINE", "1".into()));
        program
    }

    /// The repository's folder in the cache.
    fn folder(&self) -> PathBuf {
        let name = format!("models--{}", ID.replace('/', "--"));
        self.home.path().join("hub").join(name)
    }

    fn snapshot(&self, commit: &str, file: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit).join(file)
    }

    fn incomplete(&self, file: &[u8]) -> PathBuf {
        self.folder()
            .join("blobs")
            .join(format!("{}.incomplete", etag(file)))
    }
}

/// What a successful run found, without what differs from run to run, and what it said.
#[track_caller]
fn success(program: Program) -> (Value, String) {
    let outcome = program.run();
    let stderr = outcome.stderr.clone();
    let mut report = outcome.json();
    report["images_per_second"].take();
    (report, stderr)
}

/// Runs a program that has to refuse its input, and returns what it said.
#[track_caller]
fn refusal(program: Program, says: &[&str]) -> String {
    let outcome: Outcome = program.run();
    assert_eq!((outcome.code, &*outcome.stdout), (Some(3), ""), "{outcome}");
    assert_says(&outcome.stderr, says);
    outcome.stderr
}

#[track_caller]
fn assert_says(stderr: &str, says: &[&str]) {
    for part in says {
        assert!(stderr.contains(part), "{stderr}\nlacks {part}");
    }
}

#[test]
fn a_model_is_fetched_once_and_then_needs_no_hub() {
    let scene = Scene::new(timm_files());
    let (first, said) = success(scene.eval(NAME));
    assert_says(
        &said,
        &[
            &format!("hub: fetching {}/{ID}/resolve/", scene.hub.endpoint()),
            "model.safetensors (265.52 KiB)",
            "config.json beside the file",
        ],
    );

    // The layout is that of huggingface_hub.
    let commit = fs::read_to_string(scene.folder().join("refs/main")).unwrap();
    for (file, contents) in timm_files() {
        let (snapshot, blob) = (scene.snapshot(&commit, file), etag(&contents));
        assert!(fs::read(&snapshot).unwrap() == contents, "{file}");
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(snapshot).unwrap(),
            Path::new("../../blobs").join(&blob)
        );
        assert!(scene.folder().join("blobs").join(blob).is_file());
    }
    assert_eq!(
        fs::read_dir(scene.folder().join("blobs")).unwrap().count(),
        2
    );
    let lines: Vec<String> = scene
        .hub
        .requests()
        .into_iter()
        .map(|request| request.method + " " + &request.path)
        .collect();
    let at = |revision: &str, file: &str| format!("/{ID}/resolve/{revision}/{file}");
    let config = format!("/api/resolve-cache/models/{ID}/{commit}/config.json");
    assert_eq!(
        lines,
        [
            format!("HEAD {}", at("main", WEIGHTS)),
            format!("HEAD {}", at(&commit, "config.json")),
            format!("HEAD {config}"),
            format!("GET {}", at(&commit, "config.json")),
            format!("GET {config}"),
            format!("GET {}", at(&commit, WEIGHTS)),
            format!("GET /storage/{commit}/{WEIGHTS}"),
        ]
    );

    let (again, said) = success(scene.eval(NAME));
    assert_eq!(again, first);
    assert_says(
        &said,
        &[
            "is in the cache, ",
            &*scene.snapshot(&commit, WEIGHTS).to_string_lossy(),
        ],
    );
    assert!(
        scene
            .hub
            .requests()
            .iter()
            .all(|request| request.method == "HEAD")
    );

    let (offline, said) = success(scene.offline(NAME));
    assert_eq!(offline, first);
    assert_says(
        &said,
        &[
            "hub: HF_HUB_OFFLINE is set; hf-hub:timm/deit",
            "comes from the cache, ",
        ],
    );
    assert!(scene.hub.requests().is_empty());

    let program = scene.eval(NAME);
    let Scene { hub, home: _home } = scene;
    drop(hub);
    let (without, said) = success(program);
    assert_eq!(without, first);
    assert_says(&said, &["Connection refused", "comes from the cache, "]);
}

#[test]
fn calibrate_takes_names_too() {
    let scene = Scene::new(timm_files());
    let images = scene.home.path().join("images");
    fs::create_dir(&images).unwrap();
    fs::copy(here("tests/data/portrait.png"), images.join("portrait.png")).unwrap();
    let out = scene.home.path().join("out.safetensors");
    let calibrate = |out: &Path| {
        let mut program = program("calibrate")
            .with("--model", NAME)
            .with("--images", &images)
            .with("--out", out)
            .with("--count", "1")
            .with("--preset", "ptq4vit")
            .with("--candidates", "10")
            .with("--rounds", "1")
            .with("--device", "cpu");
        program.environment = scene.eval(NAME).environment;
        program
    };
    // A result that can't be written is noticed before anything is fetched.
    refusal(
        calibrate(&images),
        &["is a folder, where a file to write is expected"],
    );
    assert!(scene.hub.requests().is_empty());

    calibrate(&out).run().success();
    let written = Weights::open(out).unwrap();
    let provenance: Value = serde_json::from_str(&written.metadata()["provenance"]).unwrap();
    assert_eq!(provenance["name"], "vit_micro");
    assert_eq!(provenance["source_sha256"], etag(&timm_files()[WEIGHTS]));
}

/// The golden ViT in two shards, described beside them, and its index.
fn sharded_files() -> Files {
    let names = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let mut files = timm_files();
    let whole = files.remove(WEIGHTS).expect("weights");
    let whole = Weights::from_bytes("model.safetensors", &whole).unwrap();
    let tensor = |name: &str| {
        let (shape, data) = (whole.shape(name).unwrap(), whole.float(name).unwrap());
        let shape = shape.to_vec();
        (name.to_owned(), TensorData::F32 { shape, data })
    };
    let folder = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    for (place, shard) in names.into_iter().enumerate() {
        let (first, second): (Vec<&str>, _) = whole.names().partition(|name| *name < "blocks.1");
        let held = [first, second][place].clone();
        map.extend(held.iter().map(|name| ((*name).to_owned(), shard.into())));
        let path = folder.path().join(shard);
        save(
            &path,
            held.into_iter().map(tensor).collect(),
            Default::default(),
        )
        .unwrap();
        files.insert(shard, fs::read(path).unwrap());
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    files.insert("model.safetensors.index.json", index.into_bytes());
    files
}

#[test]
fn shards_are_fetched_with_their_index() {
    let scene = Scene::new(timm_files());
    let (whole, _) = success(scene.eval(NAME));
    let scene = Scene::new(sharded_files());
    let shards = ["1", "2"].map(|at| format!("model-0000{at}-of-00002.safetensors"));

    // What has come of a shard is kept, as of any file.
    scene.hub.set_fault(Fault::BreaksOff(60_000));
    let says = [&shards[0], "broke off after 60000 bytes"];
    refusal(scene.eval(NAME), &says);
    scene.hub.set_fault(Fault::None);
    scene.hub.requests();
    let (found, said) = success(scene.eval(NAME));
    assert_eq!(found, whole);
    assert_says(&said, &["fetching the rest of ", &shards[0], &shards[1]]);
    let resumed = scene.hub.requests();
    let ranges: Vec<_> = resumed
        .iter()
        .filter_map(|request| request.range.as_deref())
        .collect();
    assert_eq!(ranges, ["bytes=60000-", "bytes=60000-"]);

    let (again, said) = success(scene.eval(NAME));
    assert_eq!(again, whole);
    assert_says(
        &said,
        &["is in the cache, ", "model.safetensors.index.json"],
    );
    assert!(
        scene
            .hub
            .requests()
            .iter()
            .all(|request| request.method == "HEAD")
    );
    let (offline, _) = success(scene.offline(NAME));
    assert_eq!(offline, whole);
    let commit = fs::read_to_string(scene.folder().join("refs/main")).unwrap();
    fs::remove_file(scene.snapshot(&commit, &shards[1])).unwrap();
    let says = [
        "HF_HUB_OFFLINE is set",
        "1 of 2 shards are missing",
        &shards[1],
    ];
    refusal(scene.offline(NAME), &says);
    // The blob is still there.
    success(scene.eval(NAME));
    success(scene.offline(NAME));

    let mut files = sharded_files();
    files.remove("model-00002-of-00002.safetensors");
    scene.hub.commit("main", files);
    refusal(
        scene.eval(NAME),
        &["model-00002-of-00002.safetensors is not there"],
    );
    let mut files = sharded_files();
    let index = br#"{"weight_map":{"a":"../../../../x"}}"#.to_vec();
    files.insert("model.safetensors.index.json", index);
    scene.hub.commit("main", files);
    refusal(
        scene.eval(NAME),
        &["shards that lie beside the index", "../x"],
    );
}

#[test]
fn a_recipes_name_is_its_repository_unless_a_file_has_it() {
    let scene = Scene::new(timm_files());
    for name in ["deit_tiny_patch16_224", "deit_tiny_patch16_224.fb_in1k"] {
        success(scene.eval(name));
        assert!(!scene.hub.requests().is_empty());

        let mut program = scene.eval(name);
        program.folder = scene.home.path().to_owned();
        fs::write(program.folder.join(name), weights()).unwrap();
        // It is the file that is found to be another model than its name says.
        refusal(program, &["the file's metadata", "the file's name"]);
        assert!(scene.hub.requests().is_empty());
    }
    refusal(
        scene.eval("deit_tiny"),
        &["deit_tiny: there is no such file", "deit_tiny_patch16_224"],
    );
    assert!(scene.hub.requests().is_empty());
}

#[test]
fn a_revision_is_a_branch_a_tag_or_a_commit() {
    let scene = Scene::new(timm_files());
    let commit = scene.hub.commit("refs/pr/1", other_files());
    success(scene.eval(format!("{NAME}@refs/pr/1")));
    assert!(fs::read(scene.snapshot(&commit, WEIGHTS)).unwrap() == other_files()[WEIGHTS]);
    assert_eq!(
        scene.hub.requests()[0].path,
        format!("/{ID}/resolve/refs%2Fpr%2F1/{WEIGHTS}")
    );
    assert_eq!(
        fs::read_to_string(scene.folder().join("refs/refs/pr/1")).unwrap(),
        commit
    );

    let (_, said) = success(scene.eval(format!("{NAME}@{commit}")));
    assert_says(&said, &["is in the cache"]);
    refusal(
        scene.offline(NAME),
        &[
            "HF_HUB_OFFLINE is set",
            "no model.safetensors of revision `main`",
        ],
    );
}

#[test]
fn a_new_commit_is_fetched() {
    let scene = Scene::new(timm_files());
    success(scene.eval(NAME));
    scene.hub.requests();
    let commit = scene.hub.commit("main", other_files());
    success(scene.eval(NAME));
    assert!(fs::read(scene.snapshot(&commit, WEIGHTS)).unwrap() == other_files()[WEIGHTS]);
    // The description is the same blob.
    let fetched = scene.hub.requests();
    assert!(
        !fetched
            .iter()
            .any(|request| request.method == "GET" && request.path.ends_with("config.json"))
    );
    assert_eq!(
        fs::read_to_string(scene.folder().join("refs/main")).unwrap(),
        commit
    );
    assert!(scene.snapshot(&commit, "config.json").is_file());
}

#[test]
fn the_file_alone_decides_where_the_repository_has_no_config() {
    let scene = Scene::new(Files::from([(WEIGHTS, weights())]));
    let (_, said) = success(scene.eval(NAME));
    assert_says(&said, &["the file's metadata key `config`"]);

    let mut files = timm_files();
    files.remove("config.json");
    let scene = Scene::new(files);
    let outcome = scene.eval(NAME).run();
    assert_eq!(outcome.code, Some(2), "{outcome}");
    assert_says(&outcome.stderr, &["--recipe"]);
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    for from_file in [false, true] {
        let scene = Scene::new(timm_files());
        let mut program = scene.eval(NAME);
        if from_file {
            fs::write(scene.home.path().join("token"), "hf_secret\n").unwrap();
        } else {
            program.environment.push(("HF_TOKEN", "hf_secret".into()));
        }
        let (_, said) = success(program);
        assert!(!said.contains("hf_secret"), "{said}");
        for request in scene.hub.requests() {
            let expected = match request.path.starts_with("/storage") {
                true => None,
                false => Some("Bearer hf_secret"),
            };
            assert_eq!(request.authorization.as_deref(), expected, "{request:?}");
        }
    }
    let scene = Scene::new(timm_files());
    let mut program = scene.eval(NAME);
    program.environment.push(("HF_TOKEN", "hf\nsecret".into()));
    let said = refusal(program, &["HF_TOKEN: ", "characters"]);
    assert!(!said.contains("secret"), "{said}");
}

#[test]
fn a_companys_authority_is_believed_where_the_environment_names_it() {
    let [authority, other] = ["ours", "another"].map(Authority::new);
    let scene = Scene::with_tls(timm_files(), &authority);
    let at = |name: &str| scene.home.path().join(name);
    fs::create_dir(at("authorities")).unwrap();
    fs::write(at("authorities/ours.pem"), &authority.pem).unwrap();
    fs::write(at("both.pem"), [&*other.pem, &authority.pem].concat()).unwrap();
    fs::write(at("other.pem"), &other.pem).unwrap();
    let with = |variables: &[(&'static str, &str)]| {
        let mut program = scene.eval(NAME);
        let values = variables.iter();
        let values = values.map(|(name, value)| (*name, at(value).into_os_string()));
        program.environment.extend(values);
        // Not what an earlier run has fetched.
        let _ = fs::remove_dir_all(scene.folder());
        program
    };
    for believed in [
        &[("SSL_CERT_FILE", "both.pem")][..],
        &[("SSL_CERT_DIR", "authorities")],
        &[
            ("SSL_CERT_FILE", "other.pem"),
            ("SSL_CERT_DIR", "authorities"),
        ],
        &[
            ("REQUESTS_CA_BUNDLE", "both.pem"),
            ("SSL_CERT_FILE", "other.pem"),
        ],
        &[("REQUESTS_CA_BUNDLE", "authorities")],
        &[("CURL_CA_BUNDLE", "both.pem")],
    ] {
        let (_, said) = success(with(believed));
        assert_says(&said, &["hub: fetching https://127.0.0.1:"]);
    }
    scene.hub.requests();
    for (variables, says) in [
        (&[][..], ["UnknownIssuer", "SSL_CERT_FILE names"]),
        (
            &[("SSL_CERT_FILE", "other.pem")],
            ["UnknownIssuer", "and the cache, "],
        ),
        (
            &[
                ("REQUESTS_CA_BUNDLE", "other.pem"),
                ("SSL_CERT_FILE", "both.pem"),
            ],
            ["UnknownIssuer", "and the cache, "],
        ),
        (
            &[("SSL_CERT_FILE", "labels.tsv")],
            [
                "warning: hub: SSL_CERT_FILE: ",
                "labels.tsv: expected certificates",
            ],
        ),
        (
            &[("REQUESTS_CA_BUNDLE", "none.pem")],
            ["error: REQUESTS_CA_BUNDLE: ", "none.pem: "],
        ),
    ] {
        refusal(with(variables), &says);
        assert!(scene.hub.requests().is_empty(), "{variables:?}");
    }
}

/// Everything that asks the hub.
fn all_commands(scene: &Scene) -> Vec<Program> {
    let home = scene.home.path();
    let images = home.join("images");
    fs::create_dir_all(&images).unwrap();
    fs::copy(here("tests/data/portrait.png"), images.join("a.png")).unwrap();
    fs::write(
        home.join("plan.toml"),
        format!(
            "out = {:?}\npresets = ['base-ptq']\nbits = [8]\n[[models]]\nmodel = '{NAME}'\n[calibration]\n\
             images = 'tests/data'\ncount = 1\n[evaluation]\nimages = 'tests/data'\nlabels = {:?}\n",
            home.join("sweep"),
            home.join("labels.tsv"),
        ),
    )
    .unwrap();
    let model = |subcommand: &str| {
        program(subcommand)
            .with("--model", NAME)
            .with("--device", "cpu")
    };
    let mut programs = vec![
        scene.eval(NAME).with("--out", home.join("part.json")),
        model("calibrate")
            .with("--images", &images)
            .with("--count", "1")
            .with("--preset", "ptq4vit")
            .with("--candidates", "10")
            .with("--rounds", "1")
            .with("--report", home.join("page.html"))
            .with("--out", home.join("out.safetensors")),
        model("classify").flag("tests/data/portrait.png"),
        model("verify")
            .with("--count", "1")
            .with("--out", home.join("report.json")),
        model("bench").with("--kernel", "gelu"),
        program("sweep")
            .with("--plan", home.join("plan.toml"))
            .with("--task", "0")
            .with("--device", "cpu"),
    ];
    for program in &mut programs {
        program.environment = scene.eval(NAME).environment;
    }
    programs
}

#[test]
fn no_secret_is_ever_said_or_written() {
    // The user and the password as they are in the URL, as they are, and as they are sent; a token.
    let user = "ali%63e:s%40cret%2F";
    let secrets = [
        "ali%63e",
        "s%40cret",
        "alice",
        "s@cret",
        "YWxpY2U6c0BjcmV0Lw==",
        "hf_secret",
    ];
    let keeps = |outcome: Outcome, scene: &Scene| {
        for secret in secrets {
            assert!(!outcome.stdout.contains(secret), "{outcome}");
            assert!(!outcome.stderr.contains(secret), "{outcome}");
        }
        // The library's dump of what it sends, in pieces that no search finds.
        assert!(!outcome.stderr.contains("ureq_proto::util"), "{outcome}");
        for entry in walkdir::WalkDir::new(scene.home.path()) {
            let path = entry.unwrap().into_path();
            let text = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            assert!(
                !secrets.iter().any(|secret| text.contains(secret)),
                "{}",
                path.display()
            );
        }
    };
    let scene = Scene::new(timm_files());
    for number in 0..all_commands(&scene).len() {
        for (level, flag) in [
            ("", "-q"),
            ("", "-vv"),
            ("trace", ""),
            ("trace,ureq_proto=trace", ""),
        ] {
            let scene = Scene::new(timm_files());
            let mut program = all_commands(&scene).swap_remove(number);
            let (endpoint, token) = (scene.hub.endpoint_of(user), "hf_secret");
            program.environment.extend([
                ("HF_ENDPOINT", endpoint.into()),
                ("HF_TOKEN", token.into()),
                ("RUST_LOG", level.into()),
            ]);
            let program = if flag.is_empty() {
                program
            } else {
                program.flag(flag)
            };
            let outcome = program.run();
            assert_eq!(outcome.code, Some(0), "{outcome}");
            keeps(outcome, &scene);
            // It is sent, though, and takes the token's place, as in Python; the storage gets neither.
            for request in scene.hub.requests() {
                let expected = match request.path.starts_with("/storage") {
                    true => None,
                    false => Some("Basic YWxpY2U6c0BjcmV0Lw=="),
                };
                assert_eq!(request.authorization.as_deref(), expected, "{request:?}");
            }
        }
    }

    for fault in [
        Fault::Refuses(401, "", "who are you"),
        Fault::Refuses(403, "GatedRepo", ""),
        Fault::Refuses(404, "", ""),
        Fault::Refuses(418, "", ""),
        Fault::Refuses(503, "", ""),
        Fault::IsNoHub,
        Fault::Circles,
        Fault::BreaksOff(1000),
        Fault::Damages,
    ] {
        let scene = Scene::new(timm_files());
        scene.hub.set_fault(fault);
        for level in ["", "trace"] {
            let mut program = scene.eval(NAME);
            let endpoint = scene.hub.endpoint_of(user);
            let variables = [("HF_ENDPOINT", endpoint.into()), ("RUST_LOG", level.into())];
            program.environment.extend(variables);
            let outcome = program.run();
            assert_eq!(outcome.code, Some(3), "{outcome}");
            keeps(outcome, &scene);
        }
    }

    // What can't be reached, and what is no URL: a password that isn't written as URLs have it, above all.
    for endpoint in [
        "http://alice:s%40cret@127.0.0.1:1",
        "http://alice:s@cret@127.0.0.1:1/hf",
        "http://alice:s@cret/@127.0.0.1:1",
        "http://alice:s@cret?#@127.0.0.1:1",
        "http://alice:s@cret@",
        "http://alice:s@cret @127.0.0.1",
        "alice:s@cret@127.0.0.1",
        "ftp://alice:s@cret@127.0.0.1",
        "https://127.0.0.1/?token=hf_secret",
    ] {
        let mut program = scene.eval(NAME);
        let variables = [
            ("HF_ENDPOINT", endpoint.into()),
            ("RUST_LOG", "trace".into()),
        ];
        program.environment.extend(variables);
        let outcome = program.run();
        assert_eq!(outcome.code, Some(3), "{outcome}");
        keeps(outcome, &scene);
    }
    // A proxy's, and one in a name that isn't how the hub's are named.
    let mut program = scene.eval(NAME);
    program.environment.extend([
        ("HTTP_PROXY", "http://alice:s%40cret@127.0.0.1:1".into()),
        ("http_proxy", "http://alice:s%40cret@127.0.0.1:1".into()),
        ("NO_PROXY", "".into()),
        ("RUST_LOG", "trace".into()),
    ]);
    let outcome = program.run();
    assert_eq!(outcome.code, Some(3), "{outcome}");
    keeps(outcome, &scene);
    let outcome = scene.eval("https://alice:s%40cret@127.0.0.1/own/vit").run();
    assert_eq!(outcome.code, Some(3), "{outcome}");
    assert_says(&outcome.stderr, &["hf-hub:own/vit is"]);
    keeps(outcome, &scene);
}

#[test]
fn a_refusal_says_what_to_do() {
    let scene = Scene::new(timm_files());
    let licence = format!("accept its licence at {}/{ID}", scene.hub.endpoint());
    for (token, fault, says) in [
        (
            "",
            Fault::Refuses(401, "", "Invalid username or password."),
            ["doesn't exist or is private", "set HF_TOKEN"],
        ),
        (
            "hf_x",
            Fault::Refuses(401, "", "Invalid credentials"),
            [
                "the token is wrong",
                "401 Unauthorized (Invalid credentials)",
            ],
        ),
        (
            "hf_x",
            Fault::Refuses(403, "", ""),
            ["may not read this repository", "403 Forbidden"],
        ),
        (
            "",
            Fault::Refuses(401, "GatedRepo", ""),
            [&licence, "set HF_TOKEN"],
        ),
        (
            "hf_x",
            Fault::Refuses(403, "GatedRepo", ""),
            [&licence, "403"],
        ),
        (
            "",
            Fault::Refuses(404, "RepoNotFound", ""),
            ["the hub has no repository timm/deit", "404"],
        ),
        (
            "",
            Fault::Refuses(404, "RevisionNotFound", ""),
            ["no revision `main`", "404"],
        ),
        (
            "",
            Fault::Refuses(404, "", ""),
            ["the repository has no model.safetensors", "resolve/main"],
        ),
        (
            "",
            Fault::Refuses(418, "", ""),
            ["418", "resolve/main/model.safetensors"],
        ),
        ("", Fault::Refuses(429, "", ""), ["429", "and the cache, "]),
        (
            "",
            Fault::Refuses(503, "", ""),
            ["503 Service Unavailable", "has no model.safetensors"],
        ),
        ("", Fault::IsNoHub, ["x-repo-commit", "check HF_ENDPOINT"]),
        (
            "",
            Fault::Circles,
            ["redirects more than 10 times", "and the cache, "],
        ),
    ] {
        scene.hub.set_fault(fault);
        let mut program = scene.eval(NAME);
        program.environment.push(("HF_TOKEN", token.into()));
        refusal(program, &[&[NAME], &says[..]].concat());
        assert!(!scene.folder().exists(), "{fault:?}");
    }
    scene.hub.set_fault(Fault::None);
    refusal(
        scene.eval("hf-hub:timm/other"),
        &["hf-hub:timm/other: ", "no repository timm/other"],
    );
    refusal(
        scene.eval(format!("{NAME}@v2")),
        &[NAME, "has no revision `v2`"],
    );
    for (endpoint, says) in [
        ("huggingface.co", "is no URL"),
        ("ftp://localhost", "is no URL"),
    ] {
        let mut program = scene.eval(NAME);
        program.environment.push(("HF_ENDPOINT", endpoint.into()));
        refusal(program, &["HF_ENDPOINT: ", endpoint, says]);
    }
}

#[test]
fn a_repository_of_other_weights_is_refused() {
    let scene = Scene::new(Files::from([("pytorch_model.bin", weights())]));
    refusal(
        scene.eval(NAME),
        &[
            "has no model.safetensors",
            "has a pytorch_model.bin",
            "only safetensors are read",
        ],
    );
}

#[test]
fn a_hub_that_fails_or_limits_leaves_the_cache() {
    let scene = Scene::new(timm_files());
    success(scene.eval(NAME));
    for fault in [
        Fault::Refuses(503, "", ""),
        Fault::Refuses(429, "", ""),
        Fault::IsNoHub,
    ] {
        scene.hub.set_fault(fault);
        let (_, said) = success(scene.eval(NAME));
        assert_says(&said, &["comes from the cache"]);
    }
    // A refusal is no failure: what the cache has may be what was withdrawn.
    scene.hub.set_fault(Fault::Refuses(404, "RepoNotFound", ""));
    refusal(scene.eval(NAME), &["the hub has no repository"]);
}

/// What the hub's storage does wrong, what is said about it, and what is left to continue from.
#[test]
fn a_transfer_that_goes_wrong_leaves_nothing_that_looks_whole() {
    let files = timm_files();
    let size = files[WEIGHTS].len();
    let cut = "broke off after 100000 bytes";
    for (fault, says, left, then) in [
        (Fault::BreaksOff(100_000), cut, Some(100_000), Fault::None),
        (
            Fault::BreaksOff(100_000),
            cut,
            Some(100_000),
            Fault::IgnoresRanges,
        ),
        (
            Fault::Announces(size + 1000),
            "broke off after",
            Some(size),
            Fault::None,
        ),
        (
            Fault::Announces(size - 1000),
            "bytes were announced, found",
            None,
            Fault::None,
        ),
        (Fault::Damages, "SHA-256", None, Fault::None),
    ] {
        let scene = Scene::new(files.clone());
        scene.hub.set_fault(fault);
        refusal(scene.eval(NAME), &[NAME, says]);
        let incomplete = scene.incomplete(&files[WEIGHTS]);
        let found = fs::metadata(&incomplete)
            .ok()
            .map(|found| found.len() as usize);
        assert_eq!(found, left, "{fault:?}");
        let commit = scene.hub.commit("main", files.clone());
        refusal(scene.offline(NAME), &["has no model.safetensors"]);

        scene.hub.requests();
        scene.hub.set_fault(then);
        success(scene.eval(NAME));
        assert!(fs::read(scene.snapshot(&commit, WEIGHTS)).unwrap() == files[WEIGHTS]);
        assert!(!incomplete.exists());
        let asked = scene.hub.requests();
        let asked = asked
            .iter()
            .find(|request| request.path.starts_with("/storage"));
        // What is whole already isn't asked for at all.
        let expected = left
            .filter(|&left| left < size)
            .map(|left| format!("bytes={left}-"));
        assert_eq!(
            asked.and_then(|request| request.range.clone()),
            expected,
            "{fault:?}"
        );
    }
}

#[test]
fn a_repository_of_transformers_is_fetched_with_its_processor() {
    let names = [WEIGHTS, "config.json", "preprocessor_config.json"];
    let folder = here("tests/data/transformers/vit");
    let files = Files::from(names.map(|name| (name, fs::read(folder.join(name)).unwrap())));
    let scene = Scene::new(files.clone());
    let (found, said) = success(scene.eval(NAME));
    assert_says(&said, &["transformers' `ViTForImageClassification`"]);
    let commit = fs::read_to_string(scene.folder().join("refs/main")).unwrap();
    for name in names {
        assert!(
            fs::read(scene.snapshot(&commit, name)).unwrap() == files[name],
            "{name}"
        );
    }
    let fetched = scene.hub.requests();
    let fetched = fetched.iter().filter(|request| request.method == "GET");
    let fetched: Vec<&str> = fetched.map(|request| request.path.as_str()).collect();
    let place = |name: &str| fetched.iter().position(|path| path.ends_with(name));
    assert!(
        place("/preprocessor_config.json") < place(WEIGHTS),
        "{fetched:?}"
    );
    let (again, _) = success(scene.offline(NAME));
    assert_eq!(again, found);
}

#[test]
fn what_an_earlier_run_left_is_checked() {
    let files = timm_files();
    let size = files[WEIGHTS].len();
    for (left, says) in [
        (vec![0; 1000], Some("SHA-256")),
        (vec![0; size], Some("SHA-256")),
        (vec![0; size + 1], None),
    ] {
        let scene = Scene::new(files.clone());
        let incomplete = scene.incomplete(&files[WEIGHTS]);
        fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
        fs::write(&incomplete, left).unwrap();
        if let Some(says) = says {
            refusal(scene.eval(NAME), &[says, "try again"]);
        }
        success(scene.eval(NAME));
    }
}

#[test]
fn many_runs_at_once_fetch_it_once() {
    let scene = Scene::new(timm_files());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| success(scene.eval(NAME)));
        }
    });
    let fetched = scene.hub.requests();
    let fetched = fetched
        .iter()
        .filter(|request| request.path.starts_with("/storage"));
    assert_eq!(fetched.count(), 1);
}

#[test]
fn a_folder_is_the_checkpoint_in_it() {
    let scene = Scene::new(timm_files());
    let folder = scene.home.path().join("deit_tiny_patch16_224");
    fs::create_dir(&folder).unwrap();
    refusal(
        scene.eval(&folder),
        &["is a folder without model.safetensors and model.safetensors.index.json"],
    );
    fs::write(folder.join(WEIGHTS), weights()).unwrap();
    success(scene.eval(&folder));
    assert!(scene.hub.requests().is_empty());
}
