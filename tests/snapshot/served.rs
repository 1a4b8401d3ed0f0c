//! Files of 9p and NFS servers, and files that a server in this kernel exports. `.ci/kernels` runs the servers.

use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{fork, report, scenario};
use crate::support::namespace::{mount, own_mounts};
use crate::support::{file_with, skip, temp_dir, truncate};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use stillmap::{Backing, Error, Exclusive, Live, Private, Reason, Snapshot};

const LEN: usize = (3 << 20) + 99;

/// The directory where a share is mounted, and the directory that its server exports, which is on a disk here.
struct Share {
    client: PathBuf,
    server: PathBuf,
}

/// What `.ci/kernels` says of its servers; `None`, after saying why, where there are none.
fn setting(name: &str) -> Option<String> {
    let value = std::env::var(format!("STILLMAP_TEST_{name}")).ok();
    if value.is_none() {
        skip(format_args!("no {name}; .ci/kernels has one"));
    }
    value
}

fn nfs() -> Option<Share> {
    let (client, server) = (setting("NFS")?.into(), setting("NFS_SERVER")?.into());
    Some(Share { client, server })
}

/// Overwrites the file in place from the beginning, and cuts it.
fn overwrite_and_cut(path: &Path) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.write_all(&vec![7; LEN]).unwrap();
    file.set_len(10).unwrap();
}

/// `name` is that of its file: all servers may export one directory.
fn assert_not_protected(share: &Share, name: &str) {
    let bytes = pattern(10, LEN);
    let on_server = file_with(&share.server, name, &bytes);
    let path = share.client.join(name);
    let snapshot = Snapshot::open(&path).unwrap();
    assert_eq!(snapshot.backing(), Backing::Memory);
    assert_eq!(snapshot.reason(), Some(Reason::FileSystem));
    let private = Private::open(&path).unwrap();
    assert_eq!(private.backing(), Backing::Memory);
    let live = Live::open(&path).unwrap();
    let mut start = [0; 100];
    assert_eq!(live.read_at(5, &mut start).unwrap(), 100);
    assert_eq!(start, bytes[5..105]);
    let error = Exclusive::open(&path).unwrap_err();
    assert!(matches!(error, Error::Unprotectable { .. }), "{error:?}");
    overwrite_and_cut(&on_server);
    assert_same(&snapshot, &bytes, "snapshot");
    assert_same(&private, &bytes, "private");
    fs::remove_file(on_server).unwrap();
}

/// Forwards the messages of 9p, size\[4\] type\[1\] tag\[2\], and puts the magic number of ext4 into the answers to statfs,
/// where the type follows: QEMU answers with that of its host's file system.
fn forward(mut from: &TcpStream, mut to: &TcpStream) -> std::io::Result<()> {
    const RSTATFS: u8 = 9;
    loop {
        let mut size = [0; 4];
        from.read_exact(&mut size)?;
        let mut message = vec![0; u32::from_le_bytes(size) as usize - 4];
        from.read_exact(&mut message)?;
        if message[0] == RSTATFS {
            message[3..7].copy_from_slice(&(libc::EXT4_SUPER_MAGIC as u32).to_le_bytes());
        }
        to.write_all(&[&size, &message[..]].concat())?;
    }
}

/// Until one of the two ends the connection; then both see that.
fn forward_until_end(from: TcpStream, to: TcpStream) {
    if let Err(error) = forward(&from, &to) {
        println!("9p connection: {error}");
    }
    for end in [from, to] {
        let _ = end.shutdown(Shutdown::Both);
    }
}

/// For each connection to `door`.
fn forward_all(door: &TcpListener, server: &str) {
    for client in door.incoming().flatten() {
        let server = TcpStream::connect(server).unwrap();
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || forward_until_end(from, to));
        std::thread::spawn(move || forward_until_end(server, client));
    }
}

/// Case: a 9p share shows the magic number of its server's file system, and grants leases that hold back no process of the
/// server.
#[test]
fn a_9p_share_is_not_leased() {
    let seen = scenario!(|| {
        let (Some(address), Some(server)) = (setting("9P"), setting("9P_SERVER")) else {
            return;
        };
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = door.local_addr().unwrap().port();
        // Not in this process, nor with its mounts: when the last process with them ends, the kernel waits for answers.
        let forwarding = fork(|| {
            // It has the pipes of this process: if that fails, its parent would wait for them.
            // SAFETY: takes numbers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            forward_all(&door, &address);
        });
        if !own_mounts() {
            return;
        }
        let dir = temp_dir();
        let options =
            format!("trans=tcp,port={port},version=9p2000.L,aname={server},uname=root,access=any");
        mount("127.0.0.1", dir.path(), Some("9p"), 0, &options);
        let path = file_with(Path::new(&server), "probe", b"probe");
        let probe = File::open(dir.path().join("probe")).unwrap();
        // SAFETY: takes numbers.
        let lease = unsafe { libc::fcntl(probe.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
        let magic = crate::support::kernel::file_system(&probe);
        report(format_args!(
            "type {magic:#x}, lease granted: {}",
            lease == 0
        ));
        drop(probe);
        fs::remove_file(path).unwrap();
        let share = Share {
            client: dir.path().to_path_buf(),
            server: server.into(),
        };
        assert_not_protected(&share, "served by 9p");
        // First, so that the kernel does not wait for answers: umount(2) of Linux 5.10 and 6.1 was seen to block for ever.
        forwarding.kill();
        forwarding.wait();
        // SAFETY: a C string.
        let unmounted = unsafe { libc::umount(crate::support::c_path(dir.path()).as_ptr()) };
        assert_eq!(unmounted, 0, "{}", std::io::Error::last_os_error());
    })
    .succeed();
    println!("{}", seen.reports().join("\n"));
}

#[test]
fn an_nfs_share_is_not_leased() {
    if let Some(share) = nfs() {
        assert_not_protected(&share, "served by NFS");
    }
}

/// The row of docs/leases.md: a leased file whose server is in this kernel. A client that writes waits for the copy. One
/// that truncates does not; bytes are zero or gone then, and `is_consistent` says so.
#[test]
fn a_file_that_this_kernel_exports_by_nfs() {
    let seen = scenario!(|| {
        let Some(share) = nfs() else {
            return;
        };
        let bytes = pattern(11, LEN);
        let path = file_with(&share.server, "exported", &bytes);
        let by_client = share.client.join("exported");
        let written = Snapshot::open(&path).unwrap();
        assert_eq!(written.backing(), Backing::Leased);
        let mut client = File::options().write(true).open(&by_client).unwrap();
        client.write_all(&vec![7; LEN]).unwrap();
        client.sync_all().unwrap();
        drop(client);
        assert!(fs::read(&path).unwrap() == vec![7; LEN]);
        assert_same(&written, &bytes, "written to by a client");
        assert!(written.is_consistent());
        let cut = Snapshot::options().copy_limit(0);
        let cut = crate::support::leased::leased(|| cut.open(&path));
        truncate(&by_client, 10).unwrap();
        report(format_args!(
            "cut by a client: {:?}, consistent: {}",
            cut.backing(),
            cut.is_consistent()
        ));
        assert!(!cut.is_consistent() || cut[..] == vec![7; LEN]);
    })
    .succeed();
    println!("{}", seen.reports().join("\n"));
}

/// Serves a directory with one file, `file`, that has these bytes and reports another size, as the files of lxcfs may: FUSE,
/// linux/fuse.h. Each read goes to this server (`FOPEN_DIRECT_IO`).
#[cfg(target_endian = "little")]
fn serve_file(dir: &Path, bytes: &'static [u8], size: u64) -> bool {
    let Ok(device) = File::options().read(true).write(true).open("/dev/fuse") else {
        skip("no FUSE");
        return false;
    };
    let fd = device.as_raw_fd();
    mount(
        "test",
        dir,
        Some("fuse"),
        0,
        &format!("fd={fd},rootmode=40000,user_id=0,group_id=0"),
    );
    let attributes = move |node: u64| {
        let (mode, size) = if node == 1 {
            (0o40755, 0)
        } else {
            (0o100644, size)
        };
        // ino, size, blocks, three times and their nanoseconds; mode, nlink, uid, gid, rdev, blksize, flags.
        let mut words = vec![node as u32, 0, size as u32, 0];
        words.extend([0; 11]);
        words.extend([mode, 1, 0, 0, 0, 4096, 0]);
        words
    };
    std::thread::spawn(move || {
        let mut request = vec![0; 1 << 20];
        while let Ok(len) = (&device).read(&mut request) {
            let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
            let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
            let (operation, node) = (word(4), long(16));
            let words = |words: &[u32]| words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            let (error, answer): (i32, Vec<u8>) = match operation {
                // FORGET, INTERRUPT and BATCH_FORGET have no answer.
                2 | 36 | 42 => continue,
                // LOOKUP
                1 if request[40..len].starts_with(b"file\0") => (
                    0,
                    words(&[&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &attributes(2)].concat()),
                ),
                1 => (libc::ENOENT, Vec::new()),
                // GETATTR
                3 => (0, words(&[&[0; 4][..], &attributes(node)].concat())),
                // OPEN, OPENDIR
                14 | 27 => (0, words(&[0, 0, 1, 0])),
                // READ
                15 => {
                    let rest = bytes.get(long(48) as usize..).unwrap_or_default();
                    (0, rest[..rest.len().min(word(56) as usize)].to_vec())
                }
                // STATFS
                17 => (0, words(&[0; 20])),
                // RELEASE, FLUSH, RELEASEDIR
                18 | 25 | 29 => (0, Vec::new()),
                // INIT, version 7.31
                26 => (
                    0,
                    words(&[7, 31, 65536, 0, 0, 65536, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                ),
                _ => (libc::ENOSYS, Vec::new()),
            };
            let head = [
                &(16 + answer.len() as u32).to_ne_bytes()[..],
                &(-error).to_ne_bytes(),
            ];
            let answer = [&head.concat()[..], &request[8..16], &answer].concat();
            let _ = (&device).write(&answer);
        }
    });
    true
}

/// Before: the bytes behind the size that was reported were missing.
#[test]
#[cfg(target_endian = "little")]
fn a_file_of_a_server_has_all_bytes_that_can_be_read() {
    scenario!(|| {
        if !own_mounts() {
            return;
        }
        for (bytes, size) in [(&b"0123456789abcdef"[..], 10), (b"0123", 10), (b"0123", 4)] {
            let dir = temp_dir();
            if !serve_file(dir.path(), bytes, size) {
                return;
            }
            let path = dir.path().join("file");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            let file = File::open(&path).unwrap();
            assert_eq!(Snapshot::open(&path).unwrap()[..], *bytes, "{size}");
            assert_eq!(Snapshot::from_file(&file).unwrap()[..], *bytes, "{size}");
            assert_eq!(Snapshot::from_fd(&file).unwrap()[..], *bytes, "{size}");
            let window = Snapshot::options().offset(2).open(&path).unwrap();
            assert_eq!(window[..], bytes[2..], "{size}");
            crate::support::disk::unmount(dir.path());
        }
    })
    .succeed();
}
