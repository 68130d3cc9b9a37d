//! `farshore policy new` and `build`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use farshore_core::path::escape_text;
use farshore_core::size::HumanBytes;
use farshore_policies::Component;
use farshore_policies::wrap::wrap;
use serde_json::json;

use super::{failed, load, show};
use crate::exit::{Exit, Failure};
use crate::policy::project::{Places, Project};
use crate::policy::store::{COMPONENT_BYTES_MAX, read_bounded};

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// The policy's name: lower-case letters, digits and '-'; the folder made has it, too
    #[arg(value_name = "NAME")]
    name: String,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// The folder of the project
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Make a component of this core module, in whatever language it was written, and compile nothing
    #[arg(long, value_name = "FILE", conflicts_with = "folder")]
    module: Option<PathBuf>,
    /// The component's file [default: DIR/PACKAGE.wasm, or the module's name with .component.wasm]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

pub(super) fn new(args: &NewArgs) -> Result<Exit, Failure> {
    let name = args.name.as_str();
    let files = farshore_wasm_sdk::sources::project(name)
        .map_err(|why| Failure::usage(why, "as in: farshore policy new my-policy"))?;
    let folder = Path::new(name);
    fs::create_dir(folder).map_err(|e| {
        let failure = failed(folder, "making it", &e);
        match e.kind() {
            io::ErrorKind::AlreadyExists => failure.hint("take another name, or move it away"),
            _ => failure,
        }
    })?;
    for (path, text) in &files {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|e| failed(parent, "making it", &e))?;
        fs::write(&path, text).map_err(|e| failed(&path, "writing it", &e))?;
    }
    let object = json!({
        "name": name,
        "folder": name,
        "files": files.iter().map(|(path, _)| path).collect::<Vec<_>>(),
    });
    let text = format!(
        "{name}/ is the project of a policy that leaves out files by their suffix.\n\
         Next: cd {name} && cargo test, then farshore policy build; {name}/README.md says more.\n"
    );
    show(args.json, &object, &text);
    Ok(Exit::Done)
}

pub(super) fn build(args: &BuildArgs) -> Result<Exit, Failure> {
    let (package, module, out, toolchain) = match &args.module {
        Some(module) => {
            let name = module.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let out = args.out.clone().unwrap_or_else(|| module.with_extension("component.wasm"));
            (name, module.clone(), out, None)
        }
        None => {
            let project = Project::open(&args.folder, Places::here()).map_err(|e| e.failure())?;
            let built = project.build().map_err(|e| e.failure())?;
            let out = args.folder.join(format!("{}.wasm", built.package));
            let toolchain = project.toolchain().to_string();
            (built.package, built.path, args.out.clone().unwrap_or(out), Some(toolchain))
        }
    };
    let bytes = read_bounded(&module, COMPONENT_BYTES_MAX).map_err(|e| e.failure())?;
    let component = wrap(&bytes).map_err(|e| {
        let mut failure = Failure::new(Exit::Refused, &e);
        failure.message = format!("module {}: {}", module.display(), failure.message);
        failure
    })?;
    // What is built must load: better here than at a site.
    let loaded = load(&component, &out)?;
    write(&out, &component).map_err(|e| failed(&out, "writing it", &e))?;
    let (id, hooks) = (loaded.id().to_string(), hooks(&loaded));
    let shown = out.strip_prefix("./").unwrap_or(&out).display().to_string();
    let object = json!({
        "file": shown,
        "package": package,
        "bytes": component.len(),
        "id": id,
        "hooks": hooks,
        "toolchain": toolchain,
    });
    let by = toolchain.map_or_else(String::new, |by| format!(", by {by}"));
    let size = HumanBytes(component.len() as u64);
    let shown = escape_text(&shown);
    let text = format!("{shown}: {size}, decides {}{by}\nid {id}\n", hooks.join(" and "));
    show(args.json, &object, &text);
    Ok(Exit::Done)
}

/// The hooks by what they decide.
pub(super) fn hooks(component: &Component) -> Vec<&'static str> {
    let hooks = component.hooks();
    let all = [(hooks.exclude, "exclude"), (hooks.resolve, "resolve")];
    all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
}

/// Whole or not at all.
fn write(out: &Path, content: &[u8]) -> io::Result<()> {
    let mut beside = out.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = fs::File::create(&beside)?;
    file.write_all(content)?;
    fs::rename(&beside, out)
}
