//! The folder everything happens in, and the file system below it.
//!
//! Guarantees: a new folder is made inside the one given and is all that is written to; image, loop
//! device and mount are undone in every case. Refuses a place that is not there, and odd paths. With `--keep`
//! the folder stays (for a loop image: the image file, not mounted).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::janitor::{Janitor, check_plain};
use crate::bench::measure::netns::run_tool;
use crate::bench::options::WorkFs;
use crate::bench::{BenchError, Context};

/// The work folder.
#[derive(Debug)]
pub(crate) struct WorkFolder {
    /// Where trees are made.
    pub(crate) root: PathBuf,
}

impl WorkFolder {
    /// Makes the folder, and the file system asked for.
    pub(crate) fn create(
        parent: &Path,
        kind: WorkFs,
        gib: u64,
        keep: bool,
        janitor: &Janitor,
    ) -> Result<Self, BenchError> {
        // One that is not there is a slip of the pen, and the wrong disk would be measured.
        let parent = parent.canonicalize().at("find the folder to work in", parent)?;
        check_plain(&parent)?;
        let own = parent.join(format!("farshore-bench-{}", std::process::id()));
        std::fs::create_dir(&own).at("create the work folder", &own)?;
        if !keep {
            janitor.undo(&format!("rm -rf --one-file-system {}", own.display()))?;
        }
        let root = own.join("run");
        std::fs::create_dir(&root).at("create the work folder", &root)?;
        match kind {
            WorkFs::Host => {}
            WorkFs::Tmpfs => {
                let options = format!("size={gib}G,mode=755");
                let target = root.to_string_lossy();
                run_tool("mount", &["-t", "tmpfs", "-o", &options, "farshore-bench", &target])?;
                janitor.undo(&format!("umount {0} || umount -l {0}", root.display()))?;
            }
            WorkFs::Xfs => mount_image(&own, &root, "mkfs.xfs", &["-q"], gib, janitor)?,
            WorkFs::Ext4 => mount_image(&own, &root, "mkfs.ext4", &["-q"], gib, janitor)?,
        }
        Ok(Self { root })
    }
}

fn mount_image(
    own: &Path,
    root: &Path,
    mkfs: &'static str,
    options: &[&str],
    gib: u64,
    janitor: &Janitor,
) -> Result<(), BenchError> {
    let image = own.join("image");
    let file = std::fs::File::create(&image).at("create the image", &image)?;
    file.set_len(gib << 30).at("size the image", &image)?;
    let loop_tool = Path::new("losetup");
    let output = Command::new(loop_tool)
        .args(["--direct-io=on", "-f", "--show"])
        .arg(&image)
        .output()
        .at("run", loop_tool)?;
    let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !device.starts_with("/dev/loop") {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let arguments = image.display().to_string();
        return Err(BenchError::Tool { program: "losetup", arguments, said });
    }
    janitor.undo(&format!("losetup -d {device}"))?;
    run_tool(mkfs, &[options, &[&device]].concat())?;
    let target = root.to_string_lossy();
    run_tool("mount", &["-o", "noatime", &device, &target])?;
    janitor.undo(&format!("umount {0} || umount -l {0}", root.display()))
}
