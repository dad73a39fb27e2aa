//! The manifests of `examples/kubernetes`: what the API takes, and what the binary does with them. No cluster is asked.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use mini_rproxy::config::Config;
use serde::Deserialize;
use serde_yaml::Value;
use tempfile::TempDir;

use crate::network::{is_inside, root};
use crate::support::{Launch, Peer, Proxy, is_missing, wait_until};

/// The oldest version that they are for, and the newest of which the checker has the schemas.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

/// How long a balancer takes to find out that a node has a pod, or none any more: docs/scaling.md.
const BALANCER_SECONDS: u64 = 3 * 10;

const FILES: [&str; 2] = ["deployment.yaml", "daemonset.yaml"];

fn documents(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(root().join("examples/kubernetes").join(name)).expect("a manifest");
    let documents = serde_yaml::Deserializer::from_str(&text).map(Value::deserialize);
    documents.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value:?}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a number: {value:?}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_sequence().map_or(&[], Vec::as_slice)
}

/// A Deployment or DaemonSet with the configuration that its pods get.
struct Workload {
    pod: Value,
    config: String,
}

impl Workload {
    fn of(file: &str) -> Workload {
        let documents = documents(file);
        let pod =
            documents.iter().find_map(|document| document.get("spec")?.get("template")?.get("spec")).expect("a pod");
        let volumes = list(&pod["volumes"]);
        let name =
            volumes.iter().find_map(|volume| volume.get("configMap")?.get("name")).expect("a ConfigMap in a volume");
        let map =
            documents.iter().find(|document| document["kind"] == "ConfigMap" && document["metadata"]["name"] == *name);
        let map = map.unwrap_or_else(|| panic!("{file}: no ConfigMap {name:?}"));
        Workload { pod: pod.clone(), config: text(&map["data"]["config.yaml"]).to_owned() }
    }

    fn container(&self, name: &str) -> &Value {
        let mut containers = list(&self.pod["containers"]).iter();
        containers.find(|container| container["name"] == name).unwrap_or_else(|| panic!("no container {name}"))
    }

    /// Where the configuration is in the containers.
    fn mount(&self) -> &str {
        let mounts = list(&self.container("mini-rproxy")["volumeMounts"]);
        assert!(
            mounts.len() == 1 && mounts[0].get("subPath").is_none(),
            "a file with subPath never changes: {mounts:?}"
        );
        text(&mounts[0]["mountPath"])
    }

    /// Starts the proxy as the container does, with `folder` in the place of that mount.
    fn start(&self, folder: &Path) -> Proxy {
        let here = folder.to_str().expect("a path of ours");
        let args = list(&self.container("mini-rproxy")["args"]).iter();
        let args: Vec<String> = args.map(|arg| text(arg).replace(self.mount(), here)).collect();
        let launch = Launch::with("", |_| {
            let mut command = Command::new(crate::support::proxy::BINARY);
            command.args(args);
            command
        });
        launch.start()
    }
}

#[test]
fn the_manifests_are_what_kubernetes_takes() {
    let is_there = Command::new("python3").args(["-c", "import kubernetes_validate"]).output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "kubernetes-validate is missing, and CI must not skip its tests"
        );
        eprintln!("skipped: kubernetes-validate is not installed (python3 -m pip install kubernetes-validate)");
        return;
    }
    for version in VERSIONS {
        for file in FILES {
            let mut command = Command::new("python3");
            command.args(["-m", "kubernetes_validate", "--strict", "-k", version]);
            let output = command.arg(root().join("examples/kubernetes").join(file)).output().expect("python3 runs");
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let passed = said.matches(" passed for resource ").count();
            assert!(output.status.success() && passed == documents(file).len(), "{file}, {version}: {said}");
        }
    }
    let files = fs::read_dir(root().join("examples/kubernetes")).expect("a folder");
    assert_eq!(files.count(), FILES.len(), "each file is tested");
}

#[test]
fn what_the_manifests_promise_agrees() {
    for file in FILES {
        let workload = Workload::of(file);
        let config = Config::parse(&workload.config, file).unwrap_or_else(|error| panic!("{error}"));
        let proxy = workload.container("mini-rproxy");
        // SIGKILL comes so long after the deletion; 5 s are main.rs's patience with plugins.
        let sleep = proxy.get("lifecycle").map_or(0, |lifecycle| number(&lifecycle["preStop"]["sleep"]["seconds"]));
        let needed = Duration::from_secs(sleep + 5) + config.timeouts.drain;
        let grace = number(&workload.pod["terminationGracePeriodSeconds"]);
        assert!(Duration::from_secs(grace) >= needed, "{file}: {grace} s of grace, and {needed:?} are needed");
        let (_, tag) = text(&proxy["image"]).rsplit_once(':').expect("a tag");
        assert_eq!(tag, env!("CARGO_PKG_VERSION"), "{file}: the image's tag, and Cargo.toml");
        let limit =
            text(&proxy["resources"]["limits"]["memory"]).strip_suffix("Mi").and_then(|mib| mib.parse::<usize>().ok());
        let budget = config.limits.memory_budget.expect("a memory budget");
        assert!(
            limit.expect("a limit in Mi") << 20 >= budget + (8 << 20),
            "{file}: {limit:?} MiB for {budget} bytes of buffers"
        );

        let pod = &workload.pod["securityContext"];
        assert!(pod["runAsNonRoot"] == true && number(&pod["runAsUser"]) > 0, "{file}: {pod:?}");
        for container in list(&workload.pod["containers"]) {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true, "{file}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{file}");
            assert_eq!(list(&context["capabilities"]["drop"]), ["ALL"], "{file}");
        }
    }
    let [deployment, budget, service] = ["Deployment", "PodDisruptionBudget", "Service"].map(|kind| {
        let mut documents = documents("deployment.yaml").into_iter();
        documents.find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
    });
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    // A node is in the balancer when its health check was answered three times, and out when it failed three times.
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
    let container = Workload::of("deployment.yaml").container("mini-rproxy").clone();
    for (name, seconds) in [
        ("minReadySeconds", &deployment["spec"]["minReadySeconds"]),
        ("sleep", &container["lifecycle"]["preStop"]["sleep"]["seconds"]),
    ] {
        assert!(number(seconds) >= BALANCER_SECONDS, "{name}: {seconds:?}, and a balancer takes {BALANCER_SECONDS}");
    }
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &budget["spec"]["selector"]["matchLabels"],
        &service["spec"]["selector"],
    ] {
        assert_eq!(selector, labels);
    }
}

/// As a pod starts: the command line, the ports, the probes.
#[test]
fn the_probes_of_the_manifests_are_answered() {
    if !is_inside("kubernetes::the_probes_of_the_manifests_are_answered") {
        return;
    }
    for file in FILES {
        let workload = Workload::of(file);
        let folder = TempDir::new().expect("a folder");
        write_version(folder.path(), 1, &workload.config);
        let mut proxy = workload.start(folder.path());
        let container = workload.container("mini-rproxy");
        let port_of = |name: &Value| {
            let port = list(&container["ports"]).iter().find(|port| port["name"] == *name);
            number(&port.unwrap_or_else(|| panic!("no port {name:?}"))["containerPort"])
        };
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let get = &container[probe]["httpGet"];
            let port = u16::try_from(port_of(&get["port"])).expect("a port");
            let answer = Peer::connect(([127, 0, 0, 1], port).into()).get(text(&get["path"]));
            assert_eq!(answer.status(), 200, "{file}, {probe}: {answer:?}");
        }
        for name in ["http", "admin"] {
            let address = proxy.address_of(name);
            assert_eq!(u64::from(address.port()), port_of(&Value::from(name)), "{file}: {name}");
        }
        proxy.signal("TERM");
        assert_eq!(proxy.wait().code(), Some(0), "{file}");
    }
}

/// As a kubelet does it: a folder for each version, and the link `..data`, which is replaced in one step.
fn write_version(volume: &Path, version: usize, config: &str) {
    let folder = format!("..2026_11_30_12_00_00.{version}");
    fs::create_dir(volume.join(&folder)).expect("our folder");
    fs::write(volume.join(&folder).join("config.yaml"), config).expect("our file");
    symlink(&folder, volume.join("..data_tmp")).expect("a link");
    let old = fs::read_link(volume.join("..data")).ok();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).expect("a link");
    match old {
        Some(old) => fs::remove_dir_all(volume.join(old)).expect("our folder"),
        None => symlink("..data/config.yaml", volume.join("config.yaml")).expect("a link"),
    }
}

/// The second container of the DaemonSet, in namespaces in which it sees this proxy alone.
#[test]
fn a_changed_configmap_is_read_again_without_a_restart() {
    if is_missing("busybox") || !is_inside("kubernetes::a_changed_configmap_is_read_again_without_a_restart") {
        return;
    }
    let workload = Workload::of("daemonset.yaml");
    let config = |version: usize| format!("{}response_headers: {{set: {{X-Version: v{version}}}}}\n", workload.config);
    let volume = TempDir::new().expect("a folder");
    write_version(volume.path(), 1, &config(1));
    let proxy = workload.start(volume.path());
    let version = || {
        let answer = Peer::connect(([127, 0, 0, 1], 9090).into()).get("/health");
        answer.field("X-Version").expect("a field of ours").to_owned()
    };
    assert_eq!(version(), "v1");

    let reload = workload.container("reload");
    assert_eq!(list(&reload["command"]), ["sh", "-c"]);
    let script = text(&list(&reload["args"])[0]);
    assert!(script.contains("sleep 5;") && script.contains(workload.mount()), "{script}");
    let script =
        script.replace("sleep 5;", "sleep 0.1;").replace(workload.mount(), volume.path().to_str().expect("a path"));
    // The programs of the image and no others.
    let programs = TempDir::new().expect("a folder");
    let status = Command::new("busybox").args(["--install", "-s"]).arg(programs.path()).status();
    assert!(status.expect("busybox runs").success());
    let mut shell = Command::new(programs.path().join("sh"));
    shell.args(["-c", &script]).env("PATH", programs.path()).stdin(Stdio::null());
    let mut child = shell.spawn().expect("busybox runs");

    write_version(volume.path(), 2, &config(2));
    wait_until("the second version", || version() == "v2");
    write_version(volume.path(), 3, "routes: []\n");
    proxy.log.wait_for("the mistake", |line| line.contains("kept as they were"));
    assert_eq!(version(), "v2", "a mistake changes nothing");
    write_version(volume.path(), 4, &config(4));
    wait_until("the fourth version", || version() == "v4");
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
}
