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
    /// The container with this id; `root` is `/`, where the runtimes keep their files.
    pub(super) fn find(id: String, root: &Path) -> Container {
        // It becomes part of a path.
        let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
        let name =
            is_id.then(|| docker(root, &id).or_else(|| containerd(root, &id)).or_else(|| podman(root, &id)));
        let name = name.flatten().filter(|name| !name.is_empty());
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

fn docker(root: &Path, id: &str) -> Option<String> {
    let config = read(&root.join("var/lib/docker/containers").join(id).join("config.v2.json"))?;
    Some(config.get("Name")?.as_str()?.trim_start_matches('/').to_owned())
}

/// containerd keeps each container's OCI bundle while it runs; Kubernetes and nerdctl leave their names
/// in its annotations.
fn containerd(root: &Path, id: &str) -> Option<String> {
    let tasks = root.join("run/containerd/io.containerd.runtime.v2.task");
    let namespaces = tasks.read_dir().ok()?.flatten().take(NAMESPACES_MAX);
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
        let name = |digit| Container::find(id(digit), root.path()).name;
        let docker = |digit: &str| format!("var/lib/docker/containers/{}/config.v2.json", id(digit));
        let task = |space: &str, digit| {
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
        ];
        for (digit, expected) in expected {
            assert_eq!(name(digit).as_deref(), expected, "{digit}");
        }
        let named = Container::find(id("1"), root.path());
        assert_eq!(named.text(), format!("{} web", id("1")));
        // A name that leads elsewhere is no path.
        put(root.path(), "var/lib/docker/x/config.v2.json", r#"{"Name":"/x"}"#);
        assert_eq!(Container::find("../x".into(), root.path()), Container { id: "../x".into(), name: None });
    }
}
