//! A real Prometheus and a real Alertmanager for tests. Prometheus scrapes one target every second, and tells the Alertmanager of what a rule finds.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::server::{client, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Both, ended by their pid.
pub(crate) struct Monitoring {
    folder: tempfile::TempDir,
    ports: [u16; 2],
    prometheus: Option<Child>,
    alertmanager: Option<Child>,
}

impl Monitoring {
    /// Scrapes `target` (`HOST:PORT`); `rules` are its alerting rules, in YAML. `None` where they are not installed.
    pub(crate) fn start(target: &str, rules: &str) -> Option<Monitoring> {
        let programs = [find("prometheus")?, find("prometheus-alertmanager")?];
        let listeners: [TcpListener; 2] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = std::array::from_fn(|index: usize| listeners[index].local_addr().unwrap().port());
        drop(listeners);
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        write("rules.yml", rules.to_owned());
        write(
            "prometheus.yml",
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\nalerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{}']}}]}}]}}\nscrape_configs: [{{job_name: shop, static_configs: [{{targets: ['{target}']}}]}}]\n",
                ports[1]
            ),
        );
        write(
            "alertmanager.yml",
            "route: {receiver: nobody, group_wait: 1s, group_interval: 1s}\nreceivers: [{name: nobody}]\n"
                .to_owned(),
        );
        let mut monitoring = Monitoring { folder, ports, prometheus: None, alertmanager: None };
        let at = |name: &str| format!("--config.file={}", monitoring.folder.path().join(name).display());
        let data = |name: &str, option: &str| {
            format!("--{option}={}", monitoring.folder.path().join(name).display())
        };
        let listen = |port: u16| format!("--web.listen-address=127.0.0.1:{port}");
        let args = [
            at("alertmanager.yml"),
            data("silences", "storage.path"),
            listen(ports[1]),
            "--cluster.listen-address=".to_owned(),
        ];
        let alertmanager = monitoring.spawn(&programs[1], &args);
        let args = [at("prometheus.yml"), data("series", "storage.tsdb.path"), listen(ports[0])];
        let prometheus = monitoring.spawn(&programs[0], &args);
        (monitoring.alertmanager, monitoring.prometheus) = (Some(alertmanager), Some(prometheus));
        for url in [monitoring.prometheus_url(), monitoring.alertmanager_url()] {
            let ready =
                || client().get(format!("{url}/-/ready")).send().ok()?.status().is_success().then_some(());
            let log = || std::fs::read_to_string(monitoring.folder.path().join("log")).unwrap_or_default();
            assert!(until(PATIENCE, ready).is_some(), "{url} did not come up: {}", log());
        }
        Some(monitoring)
    }

    fn spawn(&self, program: &Path, args: &[String]) -> Child {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command.args(args).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    pub(crate) fn prometheus_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    pub(crate) fn alertmanager_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    /// Waits until a query gives this number.
    pub(crate) fn until(&self, query: &str, wanted: &str) {
        let url = format!("{}/api/v1/query?query={query}", self.prometheus_url());
        let look = || -> Option<()> {
            let body: Value = serde_json::from_str(&client().get(&url).send().ok()?.text().ok()?).ok()?;
            (body["data"]["result"][0]["value"][1].as_str()? == wanted).then_some(())
        };
        assert!(until(PATIENCE, look).is_some(), "{query} never gave {wanted}");
    }

    /// Waits until so many alerts are held by the Alertmanager.
    pub(crate) fn until_alerts(&self, count: usize) {
        let look = || -> Option<()> {
            let text = client()
                .get(format!("{}/api/v2/alerts", self.alertmanager_url()))
                .send()
                .ok()?
                .text()
                .ok()?;
            let body: Value = serde_json::from_str(&text).ok()?;
            (body.as_array()?.len() == count).then_some(())
        };
        assert!(until(PATIENCE, look).is_some(), "there never were {count} alerts");
    }

    /// SIGKILL for Prometheus.
    pub(crate) fn kill_prometheus(&mut self) {
        end(&mut self.prometheus);
    }
}

fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        child.kill().ok();
        child.wait().ok();
    }
}

impl Drop for Monitoring {
    fn drop(&mut self) {
        end(&mut self.prometheus);
        end(&mut self.alertmanager);
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).map(|path| path.join(name)).find(|path| path.is_file())
}
