//! A browser, driven as WebDriver describes it (<https://www.w3.org/TR/webdriver2/>), through Chromium's `chromedriver`.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use ureq::Agent;

/// The key of an element's reference, as the standard has it.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// What a browser does in more time than this, it never does.
const HANGS: Duration = Duration::from_secs(1800);

/// A Chromium without a window, with a profile and a folder of downloads of its own.
pub struct Browser {
    driver: Child,
    agent: Agent,
    /// The address of the driver and, once there is one, of the session.
    session: String,
    downloads: TempDir,
}

/// Tells whether there is a browser, and one that drives it.
pub fn is_installed() -> bool {
    let version = Command::new("chromedriver").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

impl Browser {
    /// Starts one with these flags besides those that any test needs.
    pub fn start(flags: &[&str]) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .map(|line| line.expect("chromedriver says its port"))
            .find_map(|line| {
                let (_, port) = line.split_once("started successfully on port ")?;
                Some(port.trim_end_matches('.').to_owned())
            });
        let downloads = TempDir::new().unwrap();
        let config = Agent::config_builder().http_status_as_error(false);
        let mut browser = Self {
            driver,
            agent: config.build().into(),
            session: format!(
                "http://127.0.0.1:{}",
                port.expect("chromedriver has a port")
            ),
            downloads,
        };
        let always = [
            "--headless=new",
            // Root, as in containers, has no sandbox.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            // No address but this machine's is known.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ];
        let arguments = [&always, flags].concat();
        let options = json!({
            "args": arguments,
            "prefs": { "download.default_directory": browser.downloads.path() },
        });
        let capabilities = json!({
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let found = browser.command(
            "/session",
            Some(&json!({ "capabilities": { "alwaysMatch": capabilities } })),
        );
        let session = found["sessionId"].as_str().expect("a session");
        browser.session += &format!("/session/{session}");
        browser
    }

    /// Sends a command with its parameters, or without any what asks only.
    fn command(&self, path: &str, parameters: Option<&Value>) -> Value {
        let url = format!("{}{path}", self.session);
        let response = match parameters {
            Some(parameters) => self.agent.post(&url).send(parameters.to_string()),
            None => self.agent.get(&url).call(),
        };
        let mut response = response.unwrap_or_else(|error| panic!("{path}: {error}"));
        let text = response.body_mut().read_to_string().expect("a text");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        assert!(response.status().is_success(), "{path}: {answer}");
        answer["value"].clone()
    }

    pub fn open(&self, url: &str) {
        self.command("/url", Some(&json!({ "url": url })));
    }

    /// The value of an expression in the page; a promise's, once it has one.
    pub fn value(&self, expression: &str) -> Value {
        let script = format!("return ({expression})");
        self.command(
            "/execute/sync",
            Some(&json!({ "script": script, "args": [] })),
        )
    }

    /// Waits until an expression in the page holds.
    #[track_caller]
    pub fn wait_for(&self, expression: &str) {
        let start = Instant::now();
        while self.value(expression) != true {
            let text = || self.value("document.body.innerText");
            assert!(start.elapsed() < HANGS, "{expression}: {}", text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn element(&self, css: &str) -> String {
        let query = json!({ "using": "css selector", "value": css });
        let found = self.command("/element", Some(&query));
        found[ELEMENT].as_str().expect("an element").to_owned()
    }

    pub fn click(&self, css: &str) {
        let path = format!("/element/{}/click", self.element(css));
        self.command(&path, Some(&json!({})));
    }

    /// Types a text where an element is.
    pub fn type_into(&self, css: &str, text: &str) {
        let path = format!("/element/{}/value", self.element(css));
        self.command(&path, Some(&json!({ "text": text })));
    }

    /// Chooses files in an `<input type="file">`.
    pub fn choose(&self, css: &str, files: &[PathBuf]) {
        let names: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
        self.type_into(css, &names.join("\n"));
    }

    /// The text of an element, as it is shown.
    pub fn text(&self, css: &str) -> String {
        let text = self.command(&format!("/element/{}/text", self.element(css)), None);
        text.as_str().expect("a text").to_owned()
    }

    /// The folder that files are saved to.
    pub fn downloads(&self) -> &Path {
        self.downloads.path()
    }

    /// Clicks on a link that saves a file, and waits for the file.
    pub fn save(&self, css: &str) -> PathBuf {
        let name = self.value(&format!("document.querySelector('{css}').download"));
        self.click(css);
        let path = self.downloads.path().join(name.as_str().expect("a name"));
        let start = Instant::now();
        while !path.exists() {
            assert!(start.elapsed() < HANGS, "{name} isn't saved");
            std::thread::sleep(Duration::from_millis(50));
        }
        path
    }

    /// What the page and the browser complained of since this was last asked.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.command("/se/log", Some(&json!({ "type": "browser" })));
        let entries = log.as_array().expect("a list").iter();
        let errors = entries.filter(|entry| entry["level"] == "SEVERE");
        errors.map(|entry| entry["message"].to_string()).collect()
    }

    /// Makes the window so many pixels wide.
    pub fn resize(&self, width: u32) {
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        let command = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": size });
        self.command("/goog/cdp/execute", Some(&command));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser goes with its session; what it is asked after a failure may fail, too.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
