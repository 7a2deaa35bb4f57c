//! The name of a container, from files in which its runtime keeps it. No daemon is asked.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::maps::open_regular;

/// Longest file that is read, in bytes.
const FILE_MAX: u64 = 16 << 20;
/// Most folders of namespaces of containerd that are looked into.
const NAMESPACES_MAX: usize = 64;
/// Longest name that is told, in characters.
const NAME_MAX: usize = 256;

/// A container that a process runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// As the cgroup's path has it: 64 hexadecimal digits, or the name for LXC and systemd-nspawn.
    pub id: String,
    /// Its name, if the runtime tells it: of a pod's, `NAMESPACE/POD/CONTAINER`.
    pub name: Option<String>,
}

impl Container {
    /// The container with this id. `roots`: root folders in which runtimes may keep their files.
    pub(super) fn find(id: String, roots: &[&Path]) -> Container {
        // It becomes part of a path.
        let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
        let in_root =
            |root| docker(root, &id).or_else(|| containerd(root, &id)).or_else(|| podman(root, &id));
        let name = roots.iter().filter(|_| is_id).find_map(|root| in_root(root));
        let name = name.filter(|name| !name.is_empty());
        Container { id, name: name.map(|name| name.chars().take(NAME_MAX).collect()) }
    }

    /// As it stands in comments: the id, then a space and the name if it is known.
    pub fn text(&self) -> String {
        match &self.name {
            Some(name) => format!("{} {name}", self.id),
            None => self.id.clone(),
        }
    }
}

/// Where Docker keeps its containers: its own packages, and snap's.
const DOCKER: [&str; 2] = ["var/lib/docker", "var/snap/docker/common/var-lib-docker"];
/// Where Docker is told of another place.
const DOCKER_CONFIGS: [&str; 2] = ["etc/docker/daemon.json", "var/snap/docker/current/config/daemon.json"];
/// Where containerd keeps its state: its own packages, k3s and RKE2, k0s, MicroK8s.
const CONTAINERD: [&str; 4] =
    ["run/containerd", "run/k3s/containerd", "run/k0s/containerd", "var/snap/microk8s/common/run/containerd"];

fn docker(root: &Path, id: &str) -> Option<String> {
    let told = DOCKER_CONFIGS.iter().filter_map(|config| {
        let config = read(&root.join(config))?;
        Some(config.get("data-root")?.as_str()?.trim_start_matches('/').to_owned())
    });
    DOCKER.iter().map(|folder| (*folder).to_owned()).chain(told).find_map(|folder| {
        let config = read(&root.join(folder).join("containers").join(id).join("config.v2.json"))?;
        Some(config.get("Name")?.as_str()?.trim_start_matches('/').to_owned())
    })
}

/// containerd keeps each container's OCI bundle while it runs; Kubernetes and nerdctl leave their names
/// in its annotations.
fn containerd(root: &Path, id: &str) -> Option<String> {
    let tasks = CONTAINERD.iter().map(|folder| root.join(folder).join("io.containerd.runtime.v2.task"));
    let namespaces = tasks.filter_map(|tasks| tasks.read_dir().ok()).flatten().flatten().take(NAMESPACES_MAX);
    namespaces.into_iter().find_map(|namespace| {
        let config = read(&namespace.path().join(id).join("config.json"))?;
        let annotation = |name: &str| config.get("annotations")?.get(name)?.as_str();
        if let Some(name) = annotation("nerdctl/name") {
            return Some(name.to_owned());
        }
        let cri = |name: &str| annotation(&format!("io.kubernetes.cri.{name}"));
        let parts = [cri("sandbox-namespace"), cri("sandbox-name"), cri("container-name")];
        let parts: Vec<&str> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("/"))
    })
}

/// Podman and CRI-O, as root.
fn podman(root: &Path, id: &str) -> Option<String> {
    let all = read(&root.join("var/lib/containers/storage/overlay-containers/containers.json"))?;
    let container = all.as_array()?.iter().find(|c| c.get("id").and_then(Value::as_str) == Some(id))?;
    Some(container.get("names")?.get(0)?.as_str()?.to_owned())
}

fn read(path: &Path) -> Option<Value> {
    let mut text = Vec::new();
    open_regular(path).ok()?.take(FILE_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn names_that_runtimes_tell() {
        let root = tempfile::tempdir().unwrap();
        let id = |digit: &str| digit.repeat(64);
        let host = tempfile::tempdir().unwrap();
        let missing = host.path().join("missing");
        let name = |digit| Container::find(id(digit), &[&missing, host.path(), root.path()]).name;
        let docker = |digit: &str| format!("var/lib/docker/containers/{}/config.v2.json", id(digit));
        let task = |space: &str, digit: &str| {
            format!("run/containerd/io.containerd.runtime.v2.task/{space}/{}/config.json", id(digit))
        };
        put(root.path(), &docker("1"), r#"{"ID":"x","Name":"/web"}"#);
        put(root.path(), &docker("2"), "not JSON");
        put(root.path(), &docker("3"), r#"{"Name":7}"#);
        put(root.path(), &task("moby", "1"), r#"{"ociVersion":"1"}"#);
        put(
            root.path(),
            &task("k8s.io", "4"),
            r#"{"annotations":{"io.kubernetes.cri.container-name":"app","io.kubernetes.cri.sandbox-name":"pod-1","io.kubernetes.cri.sandbox-namespace":"shop"}}"#,
        );
        put(root.path(), &task("default", "5"), r#"{"annotations":{"nerdctl/name":"db"}}"#);
        put(
            root.path(),
            "var/lib/containers/storage/overlay-containers/containers.json",
            &format!(r#"[{{"id":"{}","names":["pod man"]}},{{"id":"{}"}}]"#, id("6"), id("7")),
        );
        put(root.path(), &docker("8"), &"[".repeat(100_000));
        put(host.path(), "etc/docker/daemon.json", r#"{"data-root":"/data/docker"}"#);
        put(host.path(), &docker("a").replace("var/lib/docker", "data/docker"), r#"{"Name":"/moved"}"#);
        put(host.path(), &docker("b").replace("var/lib/docker", DOCKER[1]), r#"{"Name":"/snap"}"#);
        for (digit, folder) in ["c", "d", "e"].iter().zip(&CONTAINERD[1..]) {
            let annotations = format!(r#"{{"annotations":{{"nerdctl/name":"{digit}"}}}}"#);
            put(host.path(), &task("k8s.io", digit).replace(CONTAINERD[0], folder), &annotations);
        }
        put(host.path(), &docker("1"), r#"{"Name":"/web"}"#);
        let expected = [
            ("1", Some("web")),
            ("2", None),
            ("3", None),
            ("4", Some("shop/pod-1/app")),
            ("5", Some("db")),
            ("6", Some("pod man")),
            ("7", None),
            ("8", None),
            ("9", None),
            ("a", Some("moved")),
            ("b", Some("snap")),
            ("c", Some("c")),
            ("d", Some("d")),
            ("e", Some("e")),
        ];
        for (digit, expected) in expected {
            assert_eq!(name(digit).as_deref(), expected, "{digit}");
        }
        let named = Container::find(id("1"), &[root.path()]);
        assert_eq!(named.text(), format!("{} web", id("1")));
        // A name that leads elsewhere is no path.
        put(root.path(), "var/lib/docker/x/config.v2.json", r#"{"Name":"/x"}"#);
        assert_eq!(
            Container::find("../x".into(), &[root.path()]),
            Container { id: "../x".into(), name: None }
        );
    }
}
