//! The container image, without a container engine: the Dockerfile is read, its last stage is laid out in a folder, and
//! what the image would run is run there, as the user that the image says.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use crate::static_binary::{as_nobody, binaries, is_inside, root};
use crate::support::proxy::{BINARY, is_root};
use crate::support::{Launch, Origin, free_address, is_missing, send_signal};

/// One stage: where it begins from, and its instructions in order.
#[derive(Default)]
struct Stage {
    from: String,
    instructions: Vec<(String, String)>,
}

impl Stage {
    fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let named: Vec<_> = self.instructions.iter().filter(|(other, _)| other == name).collect();
        named.into_iter().map(|(_, rest)| rest.as_str())
    }

    /// The value of an instruction that stands there once.
    fn one(&self, name: &str) -> &str {
        let all: Vec<&str> = self.all(name).collect();
        assert_eq!(all.len(), 1, "{name} in the stage from {}: {all:?}", self.from);
        all[0]
    }

    /// `["/mini-rproxy", "-config"]`: without a shell, because there is none.
    fn words(&self, name: &str) -> Vec<String> {
        let text = self.one(name);
        let list = &text[text.find('[').unwrap_or_else(|| panic!("{name} needs a shell: {text}"))..];
        serde_json::from_str(list).unwrap_or_else(|error| panic!("{name} {text}: {error}"))
    }
}

/// The stages by name, in order; the last one has no name.
fn stages() -> Vec<(String, Stage)> {
    let text = fs::read_to_string(root().join("Dockerfile")).expect("there is a Dockerfile").replace("\\\n", " ");
    let mut stages: Vec<(String, Stage)> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, rest) = line.split_once(' ').expect("an instruction");
        if name == "FROM" {
            let mut words = rest.split(" AS ");
            let from = words.next().expect("a name").to_owned();
            stages.push((words.next().unwrap_or_default().to_owned(), Stage { from, ..Stage::default() }));
        } else if let Some((_, stage)) = stages.last_mut() {
            stage.instructions.push((name.to_owned(), rest.to_owned()));
        } else {
            assert_eq!(name, "ARG", "before the first stage");
        }
    }
    stages
}

#[test]
fn the_dockerfile_fits_together() {
    let stages = stages();
    let by_name: BTreeMap<&str, &Stage> = stages.iter().map(|(name, stage)| (name.as_str(), stage)).collect();
    let (last, image) = stages.last().expect("stages");
    assert_eq!((last.as_str(), image.from.as_str()), ("", "scratch"), "what is built without --target");
    assert_eq!(image.all("RUN").count(), 0, "there is nothing to run in it");

    for stage in [image, by_name["plugins"]] {
        let user = stage.one("USER");
        assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "{user}: no names without passwd");
        assert_eq!(stage.one("EXPOSE"), "8080", "the port that is listened on by default");
        let program = stage.words("ENTRYPOINT");
        for copy in stage.all("COPY") {
            let words: Vec<&str> = copy.split(' ').collect();
            let [from, source, target] = words[..] else { panic!("COPY {copy}") };
            let from = from.strip_prefix("--from=").unwrap_or_else(|| panic!("COPY {copy}: only from a stage"));
            let makes =
                by_name[from].all("RUN").any(|run| run.ends_with(source) || run.contains(&format!("{source} ")));
            assert!(makes, "no RUN of {from} makes {source}");
            assert_eq!(source, target);
        }
        assert!(stage.all("COPY").any(|copy| copy.ends_with(&format!(" {}", program[0]))), "the program is copied");
    }
    assert!(by_name["plugins"].words("CMD").contains(&"-plugindir".to_owned()));
    assert_ne!(by_name["plugins"].from, "scratch", "dlopen needs a libc");
}

#[test]
fn everything_that_is_built_is_in_the_build_context() {
    let ignore = fs::read_to_string(root().join(".dockerignore")).expect("there is one");
    let kept: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let is_kept = |path: &str| kept.contains(&path.split('/').next().unwrap_or_default());
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("there is one");
    for path in ["Cargo.toml", "Cargo.lock", "src/main.rs", "examples/static.sh"] {
        assert!(is_kept(path) && root().join(path).exists(), "{path}");
    }
    // Cargo wants every member of the workspace and every target to be there.
    for path in manifest.split('"').filter(|text| !text.is_empty() && root().join(text).join("Cargo.toml").exists()) {
        assert!(is_kept(path), "{path}");
    }
    for folder in ["benches", "tests", "examples"] {
        assert!(is_kept(folder), "{folder}");
    }
}

/// `docker run mini-rproxy -route /=...`: the health check asks as process 1 was started, with an init before it or not.
#[test]
fn the_health_of_a_proxy_that_was_started_with_a_route_is_told() {
    let namespace = ["--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if is_missing("unshare") || is_missing("nsenter") {
        return;
    }
    if !Command::new("unshare").args(namespace).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: unshare is not allowed here");
        return;
    }
    let origin = Origin::echo();
    let route = format!("/={}", origin.address);
    let (_, image) = stages().pop().expect("stages");
    let health = image.words("HEALTHCHECK");
    for init in [&[][..], &["sh", "-c", "\"$@\"; exit $?", "init"]] {
        let launch = Launch::with("", |_| {
            let mut command = Command::new("unshare");
            command.args(namespace).args(init).arg(BINARY);
            command.args(["-verbose", "-listen", &free_address().to_string(), "-route", &route]);
            command
        });
        let proxy = launch.start();
        let pid = proxy.child_pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--user", "--preserve-credentials", "--pid", "--mount", BINARY]);
        let output = command.args(&health[1..]).output().expect("nsenter runs");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

/// Runs a command of the image in its root.
fn run(root: &Path, words: &[String]) -> ExitStatus {
    let mut command = Command::new("chroot");
    command.args(as_nobody()).arg(root).args(words);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").status().expect("chroot runs")
}

#[test]
fn what_the_image_runs_works_in_its_layout_and_its_health_is_told() {
    if !is_inside("image::what_the_image_runs_works_in_its_layout_and_its_health_is_told") {
        return;
    }
    let stages = stages();
    let (_, image) = stages.last().expect("stages");
    let origin = Origin::echo();
    // As it is by default in the image: all addresses, port 8080.
    let yaml = origin.config("listen_addr: \":8080\"");
    for binary in binaries() {
        let mut root = std::path::PathBuf::new();
        let launch = Launch::with(&yaml, |folder| {
            root = folder.join("image");
            fs::create_dir(&root).expect("a folder");
            for copy in image.all("COPY") {
                let target = copy.rsplit(' ').next().expect("a path");
                fs::copy(&binary, root.join(&target[1..])).expect("a copy");
            }
            // docker run -v ./config.yaml:/config.yaml:ro
            fs::copy(folder.join("config.yaml"), root.join("config.yaml")).expect("a copy");
            fs::set_permissions(root.join("config.yaml"), fs::Permissions::from_mode(0o444)).expect("our file");
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("our folder");
            let mut command = Command::new("unshare");
            command.args(["--pid", "--fork", "--kill-child", "chroot"]);
            if is_root() {
                let user = image.one("USER");
                command.args(as_nobody().map(|_| format!("--userspec={user}")));
            }
            command.arg(&root).args(image.words("ENTRYPOINT")).args(image.words("CMD"));
            command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            command
        });
        let health = image.words("HEALTHCHECK");
        assert_eq!(run(&root, &health).code(), Some(1), "nothing runs yet");
        let mut proxy = launch.start();
        proxy.address = ([127, 0, 0, 1], 8080).into();
        assert_eq!(proxy.connect().get("/").status(), 200);
        assert_eq!(run(&root, &health).code(), Some(0));
        send_signal(proxy.child_pid(), image.one("STOPSIGNAL").trim_start_matches("SIG"));
        assert_eq!(proxy.wait().code(), Some(0));
        assert_eq!(run(&root, &health).code(), Some(1), "it has ended");
    }
}
