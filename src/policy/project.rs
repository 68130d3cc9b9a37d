//! Building a policy's project: a core module by Cargo, a component by us.
//!
//! Guarantees: the same source gives the same component in any folder (paths are mapped to fixed ones);
//! what the process that runs us was told about Cargo and rustc does not reach the build, so a build
//! started from another one is the same. When WebAssembly cannot be compiled for here, the error has
//! the one command that changes it. Takes rustup's toolchain where it has the target, else Debian's
//! `rustc-web`, which compiles the standard library for it on the way. Refuses nothing else: what the
//! author wrote is Cargo's to judge, and the component ours, in `check`.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::exit::{Exit, Failure};

/// What policies are compiled for.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// Variables of Cargo that belong to the machine, not to the build that runs us.
const KEPT: [&str; 5] =
    ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_TARGET_DIR"];

/// Why there is no module.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No project.
    #[error("{}: it has no Cargo.toml", folder.display())]
    NoProject {
        /// The folder.
        folder: PathBuf,
    },
    /// A program cannot be run.
    #[error("running {program}")]
    Run {
        /// Its name.
        program: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nothing here compiles for the target.
    #[error("nothing on this machine compiles for {TARGET}")]
    NoTarget {
        /// What to do.
        remedy: String,
    },
    /// Cargo failed; it has said why.
    #[error("{}: cargo could not build it", folder.display())]
    Cargo {
        /// The folder.
        folder: PathBuf,
    },
    /// It has no library for the target.
    #[error("{}: the build made no WebAssembly module", folder.display())]
    NoModule {
        /// The folder.
        folder: PathBuf,
    },
}

impl BuildError {
    /// As the command line shows it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let failure = Failure::new(Exit::Refused, self);
        match self {
            Self::NoProject { .. } => failure.hint(
                "name the folder of a policy's project, or make one: 'farshore policy new NAME'",
            ),
            Self::NoTarget { remedy } => failure.hint(remedy),
            Self::Run { program: "cargo", .. } => failure.hint(NO_RUST),
            Self::Cargo { .. } => failure.hint("mend what the compiler names, and build again"),
            Self::NoModule { .. } => failure
                .hint("its Cargo.toml needs, under [lib]: crate-type = [\"cdylib\", \"rlib\"]"),
            Self::Run { .. } => failure,
        }
    }
}

const NO_RUST: &str = "install Rust (https://rustup.rs), then: rustup target add \
                       wasm32-unknown-unknown";
const RUSTUP: &str = "rustup target add wasm32-unknown-unknown";
const DEBIAN: &str = "apt-get install rustc-web cargo-web rust-web-src";

/// What compiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    /// The one on the path has the target.
    OnPath,
    /// Debian's, with the standard library compiled on the way, linked by that linker.
    Debian {
        /// The linker.
        linker: PathBuf,
    },
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OnPath => f.write_str("the toolchain on the path"),
            Self::Debian { .. } => f.write_str("Debian's rustc-web, with the standard library"),
        }
    }
}

/// Where things are looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where Debian's packages are: `/usr`.
    pub debian: PathBuf,
    /// Folders of programs, as in `PATH`.
    pub path: OsString,
}

impl Places {
    /// Those of this machine.
    #[must_use]
    pub fn here() -> Self {
        Self { debian: "/usr".into(), path: std::env::var_os("PATH").unwrap_or_default() }
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|folder| folder.join(name)).find(|p| p.is_file())
    }
}

/// What is there to compile the project in `folder` with.
///
/// # Errors
/// [`BuildError::NoTarget`] with the one command that is missing.
pub fn toolchain(folder: &Path, places: &Places) -> Result<Toolchain, BuildError> {
    let sysroot = match places.program("rustc") {
        Some(rustc) => sysroot(&rustc, folder, places)?,
        None => None,
    };
    if let Some(sysroot) = &sysroot
        && has_std(&sysroot.join("lib/rustlib").join(TARGET).join("lib"))
    {
        return Ok(Toolchain::OnPath);
    }
    let usr = &places.debian;
    let has_debian = ["bin/cargo", "bin/rustc"].iter().all(|p| usr.join(p).is_file())
        && debian_sources(usr).is_some();
    if has_debian {
        if let Some(linker) = linker(sysroot.as_deref(), places) {
            return Ok(Toolchain::Debian { linker });
        }
        let remedy = format!("Debian's rustc-web has no linker of its own: {RUSTUP}");
        let lld = "Debian's rustc-web is there and a linker is not: apt-get install lld-22";
        let remedy = if places.program("rustup").is_some() { remedy } else { lld.into() };
        return Err(BuildError::NoTarget { remedy });
    }
    let remedy = match (places.program("rustup"), places.program("apt-get")) {
        (Some(_), _) => RUSTUP,
        (None, Some(_)) => DEBIAN,
        (None, None) => NO_RUST,
    };
    Err(BuildError::NoTarget { remedy: remedy.into() })
}

/// The folder of `rustc`, as it is in the project: a file there may choose another toolchain.
fn sysroot(rustc: &Path, folder: &Path, places: &Places) -> Result<Option<PathBuf>, BuildError> {
    let mut command = Command::new(rustc);
    clean(&mut command);
    let output = command
        .args(["--print", "sysroot"])
        .env("PATH", &places.path)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BuildError::Run { program: "rustc", source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(output.status.success().then(|| PathBuf::from(text.trim())))
}

fn has_std(folder: &Path) -> bool {
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
    listed.into_iter().any(|e| e.file_name().as_encoded_bytes().starts_with(b"libstd-"))
}

/// The sources of Debian's standard library.
fn debian_sources(usr: &Path) -> Option<PathBuf> {
    let library = usr.join("lib/rustlib/src/rust/library");
    library.join("std/Cargo.toml").is_file().then_some(library)
}

/// A linker for WebAssembly: rustup's, which is always there, or LLVM's.
fn linker(sysroot: Option<&Path>, places: &Places) -> Option<PathBuf> {
    let hosts = sysroot.and_then(|s| std::fs::read_dir(s.join("lib/rustlib")).ok());
    let hosts = hosts.into_iter().flatten().flatten().map(|host| host.path());
    let rustup = hosts.map(|host| host.join("bin/rust-lld")).find(|lld| lld.is_file());
    rustup
        .or_else(|| ["rust-lld", "wasm-ld-22", "wasm-ld-21"].iter().find_map(|n| places.program(n)))
}

/// Takes out of `command` what the build that runs us was told.
fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_kept = KEPT.iter().any(|kept| text.starts_with(kept));
        let is_theirs = text.starts_with("CARGO") || text.starts_with("RUSTC");
        if (is_theirs && !is_kept)
            || ["RUSTFLAGS", "RUSTUP_TOOLCHAIN", "RUSTDOCFLAGS"].contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
}

/// A project and what compiles it.
#[derive(Debug)]
pub struct Project {
    folder: PathBuf,
    toolchain: Toolchain,
    places: Places,
}

/// What a build made.
#[derive(Debug)]
pub struct BuiltModule {
    /// The package's name.
    pub package: String,
    /// The core module.
    pub path: PathBuf,
}

impl Project {
    /// The project in `folder`, if something here compiles it.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn open(folder: &Path, places: Places) -> Result<Self, BuildError> {
        let no_project = || BuildError::NoProject { folder: folder.into() };
        if !folder.join("Cargo.toml").is_file() {
            return Err(no_project());
        }
        let folder = folder.canonicalize().map_err(|_| no_project())?;
        let toolchain = toolchain(&folder, &places)?;
        Ok(Self { folder, toolchain, places })
    }

    /// What compiles it.
    #[must_use]
    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Compiles it; the compiler speaks on standard error.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(&self) -> Result<BuiltModule, BuildError> {
        let output = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .map_err(|source| BuildError::Run { program: "cargo", source })?;
        if !output.status.success() {
            return Err(BuildError::Cargo { folder: self.folder.clone() });
        }
        let manifest = self.folder.join("Cargo.toml");
        module_of(&output.stdout, &manifest)
            .ok_or_else(|| BuildError::NoModule { folder: self.folder.clone() })
    }

    fn command(&self) -> Command {
        let cargo_home = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
        let mut flags = vec![format!("--remap-path-prefix={}=/policy", self.folder.display())];
        flags.extend(cargo_home.map(|at| format!("--remap-path-prefix={}=/cargo", at.display())));
        let mut command = match &self.toolchain {
            Toolchain::OnPath => Command::new("cargo"),
            Toolchain::Debian { .. } => Command::new(self.places.debian.join("bin/cargo")),
        };
        clean(&mut command);
        command.args(["build", "--release", "--target", TARGET]);
        command.arg("--message-format=json-render-diagnostics");
        command.current_dir(&self.folder).env("PATH", &self.places.path);
        if let Toolchain::Debian { linker } = &self.toolchain {
            let usr = &self.places.debian;
            let sources = usr.join("lib/rustlib/src/rust");
            flags.push(format!("--remap-path-prefix={}=/rust", sources.display()));
            // Its own folder: what another compiler made for the same project is of no use to it.
            command.arg("-Zbuild-std=core,alloc,std,panic_abort");
            let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
            let target = target.unwrap_or_else(|| self.folder.join("target"));
            command.arg("--target-dir").arg(target.join("rustc-web"));
            command.env("PATH", usr.join("bin")).env("RUSTC", usr.join("bin/rustc"));
            command.env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        command
    }
}

/// The module among what Cargo says it made for the package of `manifest`.
fn module_of(messages: &[u8], manifest: &Path) -> Option<BuiltModule> {
    let lines = messages.split(|b| *b == b'\n');
    let values = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut modules = values.filter_map(|value| {
        let is_ours = value["reason"] == "compiler-artifact"
            && value["manifest_path"].as_str().map(Path::new) == Some(manifest);
        let files = value["filenames"].as_array().filter(|_| is_ours)?;
        let module = files.iter().filter_map(Value::as_str).find(|f| f.ends_with(".wasm"))?;
        Some(BuiltModule {
            package: package_of(&value).unwrap_or_else(|| "policy".into()),
            path: module.into(),
        })
    });
    modules.next()
}

/// The package's name: the library's has other hyphens.
fn package_of(message: &Value) -> Option<String> {
    let library = message["target"]["name"].as_str()?;
    // "path+file:///folder#name@1.0.0", or "...folder#1.0.0" where the folder has the name.
    let id = message["package_id"].as_str()?;
    let (folder, version) = id.rsplit_once('#')?;
    let name = match version.split_once('@') {
        Some((name, _)) => name,
        None => folder.rsplit('/').next()?,
    };
    Some(if name.is_empty() { library.to_owned() } else { name.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A machine with the programs named, of which `rustc` tells a sysroot.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(programs: &[&str]) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            for name in programs {
                machine.file(&format!("path/{name}"), "#!/bin/sh\n");
            }
            let sysroot = machine.0.path().join("sysroot");
            if programs.contains(&"rustc") {
                machine.file("path/rustc", &format!("#!/bin/sh\necho {}\n", sysroot.display()));
            }
            machine
        }

        fn file(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }

        fn debian(self) -> Self {
            self.file("usr/bin/cargo", "");
            self.file("usr/bin/rustc", "");
            self.file("usr/lib/rustlib/src/rust/library/std/Cargo.toml", "");
            self
        }

        fn find(&self) -> Result<Toolchain, String> {
            let at = |name: &str| self.0.path().join(name);
            // A shell is needed to run the stand-ins.
            let places = Places { debian: at("usr"), path: at("path").into() };
            toolchain(self.0.path(), &places)
                .map_err(|e| e.failure().hint.expect("every end of this has a remedy"))
        }
    }

    #[test]
    fn what_is_missing_is_one_command() {
        let rustup = Machine::new(&["rustup", "cargo", "rustc", "apt-get"]);
        assert_eq!(rustup.find(), Err(RUSTUP.to_owned()));
        rustup.file("sysroot/lib/rustlib/wasm32-unknown-unknown/lib/libstd-1.rlib", "");
        assert_eq!(rustup.find(), Ok(Toolchain::OnPath));
        assert_eq!(Machine::new(&["apt-get"]).find(), Err(DEBIAN.to_owned()));
        assert_eq!(Machine::new(&[]).find(), Err(NO_RUST.to_owned()));
    }

    #[test]
    fn debians_compiler_needs_a_linker() {
        let machine = Machine::new(&["apt-get"]).debian();
        assert!(machine.find().unwrap_err().contains("apt-get install lld-22"));
        machine.file("path/wasm-ld-22", "");
        let Ok(Toolchain::Debian { linker }) = machine.find() else {
            panic!("{:?}", machine.find())
        };
        assert!(linker.ends_with("path/wasm-ld-22"), "{linker:?}");
        let machine = Machine::new(&["rustup", "cargo", "rustc"]).debian();
        machine.file("sysroot/lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld", "");
        let Ok(Toolchain::Debian { linker }) = machine.find() else {
            panic!("{:?}", machine.find())
        };
        assert!(linker.ends_with("bin/rust-lld"), "{linker:?}");
    }

    #[test]
    fn the_module_is_that_of_the_project() {
        let messages = br#"{"reason":"compiler-artifact","manifest_path":"/x/Cargo.toml","filenames":["/t/dep.wasm"]}
not json
{"reason":"compiler-artifact","package_id":"path+file:///p/my-policy#0.1.0","manifest_path":"/p/my-policy/Cargo.toml","target":{"name":"my_policy"},"filenames":["/t/libmy_policy.rlib","/t/my_policy.wasm"]}
{"reason":"build-finished","success":true}"#;
        let built = module_of(messages, Path::new("/p/my-policy/Cargo.toml")).unwrap();
        assert_eq!(
            (built.package.as_str(), built.path.to_str()),
            ("my-policy", Some("/t/my_policy.wasm"))
        );
        assert!(module_of(messages, Path::new("/q/Cargo.toml")).is_none());
    }
}
