//! Loop devices and real file systems on them, taken down again when dropped, also those of a killed run.

use super::kernel::{may_write, page_size};
use super::temporary::{MOUNT, temp_dir};
use super::{is_root, skip};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A loop device over a file; the kernel detaches it with its last user, even if we are killed.
pub struct LoopDevice {
    path: PathBuf,
    open: File,
}

impl LoopDevice {
    /// `None`, after saying why, where there are no loop devices.
    pub fn new(image: &Path) -> Option<Self> {
        if !is_root() {
            skip("a loop device needs root");
            return None;
        }
        Self::attach(image)
            .map_err(|error| skip(format_args!("no loop device: {error}")))
            .ok()
    }

    fn attach(image: &Path) -> io::Result<Self> {
        const GET_FREE: libc::Ioctl = 0x4c82u32 as libc::Ioctl;
        const CONFIGURE: libc::Ioctl = 0x4c0au32 as libc::Ioctl;
        const AUTOCLEAR: u32 = 4;
        let image = OpenOptions::new().read(true).write(true).open(image)?;
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        loop {
            // SAFETY: takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let open = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_CLOEXEC)
                .open(&path)?;
            // struct loop_config: fd, block size, then struct loop_info64 from byte 8, whose flags are at 52.
            let mut config = [0_u32; 76];
            config[0] = image.as_raw_fd() as u32;
            config[(8 + 52) / 4] = AUTOCLEAR;
            // SAFETY: a struct loop_config of 304 bytes, which the kernel reads.
            if unsafe { libc::ioctl(open.as_raw_fd(), CONFIGURE, config.as_ptr()) } == 0 {
                return Ok(LoopDevice { path, open });
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EBUSY) {
                return Err(error);
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A mounted file system of its own.
pub struct LoopFs {
    mount: PathBuf,
    _dir: tempfile::TempDir,
}

impl LoopFs {
    /// A new, empty file system of at least `size` bytes: "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "exfat-fuse",
    /// "ntfs-3g", "tmpfs", "hugetlbfs" (which has the size of its pool) or "overlay" (which has the size of the layer below).
    /// `None`, after saying why, where it cannot be mounted.
    pub fn new(kind: &str, size: u64) -> Option<Self> {
        Self::with_options(kind, size, &[])
    }

    /// The same, with more options for its mkfs.
    pub fn with_options(kind: &str, size: u64, more: &[&str]) -> Option<Self> {
        Self::made(kind, |dir| match kind {
            "tmpfs" => mount("tmpfs", "tmpfs", dir, 0, &format!("size={size},mode=0755")),
            "tmpfs with huge pages" => {
                let options = format!("size={size},mode=0755,huge=always");
                mount("tmpfs", "tmpfs", dir, 0, &options)
            }
            "hugetlbfs" => mount("hugetlbfs", "hugetlbfs", dir, 0, ""),
            "overlay" => Self::overlay(dir),
            "ext2" | "ext3" | "ext4" => Self::device(
                kind,
                dir,
                size.max(4 << 20),
                &[&["-q", "-F"], more].concat(),
            ),
            "vfat" => Self::device(kind, dir, size, more),
            "exfat-fuse" => {
                let device = Self::unmounted("exfat", dir, size, more)?;
                run(Command::new(tool("mount.exfat-fuse")?).args([device.path(), dir]))
            }
            "ntfs-3g" => {
                let device = Self::unmounted("ntfs", dir, size, &[&["-q", "-F"], more].concat())?;
                run(Command::new(tool("ntfs-3g")?).args([device.path(), dir]))
            }
            "xfs" => Self::device(
                kind,
                dir,
                size.max(300 << 20),
                &[&["-q", "-f"], more].concat(),
            ),
            "btrfs" => Self::device(
                kind,
                dir,
                // Its blocks have the size of a page.
                size.max(128 << 20).max(page_size() as u64 * 8192),
                &[&["-q", "-f"], more].concat(),
            ),
            _ => panic!("no recipe for a file system of type {kind}"),
        })
    }

    /// A read-only squashfs that holds these files.
    pub fn squashfs(files: &[(&str, &[u8])]) -> Option<Self> {
        Self::read_only("squashfs", files)
    }

    /// The same, or an erofs, or an iso9660.
    pub fn read_only(kind: &str, files: &[(&str, &[u8])]) -> Option<Self> {
        Self::made(kind, |dir| {
            let device = LoopDevice::attach(&Self::image(kind, dir, "image", files)?)?;
            mount_device(kind, &device, dir, libc::MS_RDONLY)
        })
    }

    fn image(kind: &str, dir: &Path, name: &str, files: &[(&str, &[u8])]) -> io::Result<PathBuf> {
        let content = dir.with_file_name("content");
        std::fs::create_dir(&content)?;
        for (name, bytes) in files {
            std::fs::write(content.join(name), bytes)?;
        }
        let image = dir.with_file_name(name);
        let (program, arguments): (_, &[&Path]) = match kind {
            "squashfs" => {
                let quiet = ["-quiet", "-no-progress"].map(Path::new);
                ("mksquashfs", &[&content, &image, quiet[0], quiet[1]])
            }
            "erofs" => ("mkfs.erofs", &[&image, &content]),
            "iso9660" => {
                let [quiet, names, to] = ["-quiet", "-R", "-o"].map(Path::new);
                ("genisoimage", &[quiet, names, to, &image, &content])
            }
            _ => panic!("no recipe for a read-only file system of type {kind}"),
        };
        run(Command::new(tool(program)?).args(arguments))?;
        Ok(image)
    }

    /// Puts a squashfs in the place of this file system: on the same device, mounted at the same path. Fails while files
    /// are open here.
    pub fn become_squashfs(&self, files: &[(&str, &[u8])]) -> io::Result<()> {
        let image = Self::image("squashfs", &self.mount, "next image", files)?;
        let number = libc::minor(std::fs::metadata(&self.mount)?.dev());
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let open = OpenOptions::new().read(true).write(true).open(&path)?;
        let device = LoopDevice { path, open };
        let dir = CString::new(self.mount.as_os_str().as_bytes()).expect("no NUL");
        // SAFETY: a C string.
        if unsafe { libc::umount2(dir.as_ptr(), 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // squashfs reads the device past its page cache.
        device.open.write_all_at(&std::fs::read(image)?, 0)?;
        device.open.sync_all()?;
        mount_device("squashfs", &device, &self.mount, libc::MS_RDONLY)
    }

    /// An ext4 of that size, served by the FUSE program `fuse2fs`.
    pub fn fuse(size: u64) -> Option<Self> {
        Self::made("fuse", |dir| {
            let (program, image) = (tool("fuse2fs")?, dir.with_file_name("image"));
            File::create(&image)?.set_len(size)?;
            run(Command::new(tool("mkfs.ext4")?)
                .args(["-q", "-F"])
                .arg(&image))?;
            // It goes on in the background, with what it inherits.
            let status = Command::new(program)
                .arg(&image)
                .arg(dir)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            if status.success() {
                Ok(())
            } else {
                Err(io::Error::other(format!("fuse2fs ended with {status}")))
            }
        })
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// From here on the device fails to read what is not in RAM: no storage is behind it any more.
    pub fn fail(&self) {
        let image = OpenOptions::new()
            .write(true)
            .open(self.mount.with_file_name("image"));
        let cut = image.and_then(|image| image.set_len(0));
        cut.expect("take the device away");
    }

    fn made(kind: &str, make: impl FnOnce(&Path) -> io::Result<()>) -> Option<Self> {
        if !is_root() {
            skip(format_args!("mounting {kind} needs root"));
            return None;
        }
        let dir = temp_dir();
        let mount = dir.path().join(MOUNT);
        std::fs::create_dir(&mount).expect("make the mount point");
        match make(&mount) {
            Ok(()) => Some(LoopFs { mount, _dir: dir }),
            Err(error) => {
                skip(format_args!("no {kind}: {error}"));
                None
            }
        }
    }

    fn device(kind: &str, dir: &Path, size: u64, options: &[&str]) -> io::Result<()> {
        let device = Self::unmounted(kind, dir, size, options)?;
        mount_device(kind, &device, dir, 0)
    }

    fn unmounted(kind: &str, dir: &Path, size: u64, options: &[&str]) -> io::Result<LoopDevice> {
        if !may_write(size) {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let mkfs = tool(&format!("mkfs.{kind}"))?;
        let image = dir.with_file_name("image");
        File::create(&image)?.set_len(size)?;
        run(Command::new(mkfs).args(options).arg(&image))?;
        LoopDevice::attach(&image)
    }

    fn overlay(dir: &Path) -> io::Result<()> {
        let mut options = Vec::new();
        for (option, name) in [
            ("lowerdir", "lower"),
            ("upperdir", "upper"),
            ("workdir", "work"),
        ] {
            let part = dir.with_file_name(name);
            std::fs::create_dir(&part)?;
            options.push(format!("{option}={}", part.display()));
        }
        mount("overlay", "overlay", dir, 0, &options.join(","))
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        unmount(&self.mount);
    }
}

/// Where to find a program of the system's administrator.
fn tool(name: &str) -> io::Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| io::Error::other(format!("{name} is not installed")))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{command:?} ended with {}: {said}",
        output.status
    )))
}

fn mount_device(
    kind: &str,
    device: &LoopDevice,
    dir: &Path,
    flags: libc::c_ulong,
) -> io::Result<()> {
    let source = device.path().to_str().expect("/dev/loopN");
    mount(kind, source, dir, flags, "")
}

fn mount(
    kind: &str,
    source: &str,
    dir: &Path,
    flags: libc::c_ulong,
    options: &str,
) -> io::Result<()> {
    let text = |s: &str| CString::new(s).expect("no NUL");
    let (kind, source, options) = (text(kind), text(source), text(options));
    let dir = CString::new(dir.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: four C strings.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            dir.as_ptr(),
            kind.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn unmount(dir: &Path) {
    let dir = CString::new(dir.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: a C string; lazily if a file is still open there.
    unsafe {
        if libc::umount2(dir.as_ptr(), 0) != 0 {
            libc::umount2(dir.as_ptr(), libc::MNT_DETACH);
        }
    }
}

/// Bytes that root may still take of a file system: `df`.
#[allow(clippy::unnecessary_cast)] // fewer bits on some platforms
pub fn free(dir: &Path) -> u64 {
    let dir = CString::new(dir.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: zero bits are a valid struct.
    let mut stat: libc::statvfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: a C string and one struct.
    assert_eq!(unsafe { libc::statvfs64(dir.as_ptr(), &mut stat) }, 0);
    stat.f_bfree * stat.f_frsize as u64
}
