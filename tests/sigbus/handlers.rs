//! The SIGBUS handlers of the program get what they would get without this crate.

use super::*;

/// A mapping that this test made by itself, of a file without bytes: touching it is a fault outside of stillmap's mappings.
struct Foreign {
    start: *mut u8,
    _file: File,
}

static FOREIGN: AtomicUsize = AtomicUsize::new(0);

impl Foreign {
    fn new(path: &Path) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .unwrap();
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping where nothing is.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                access,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        FOREIGN.store(start as usize, Ordering::Relaxed);
        Foreign {
            start: start.cast(),
            _file: file,
        }
    }

    fn touch(&self) -> u8 {
        // SAFETY: mapped; the fault is intended.
        unsafe { self.start.read_volatile() }
    }
}

static OWN_FAULTS: AtomicU32 = AtomicU32::new(0);
static CHAIN: AtomicUsize = AtomicUsize::new(0);

/// A program's own handler: repairs its own mapping, passes other faults to the previous handler, and dies if there is none.
extern "C" fn own(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives one siginfo_t, with an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let foreign = FOREIGN.load(Ordering::Relaxed);
    if address.wrapping_sub(foreign) < PAGE {
        OWN_FAULTS.fetch_add(1, Ordering::Relaxed);
        let (access, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: our own mapping, which is one page.
        unsafe { libc::mmap(foreign as *mut _, PAGE, access, flags, -1, 0) };
        return;
    }
    match CHAIN.load(Ordering::Relaxed) {
        // SAFETY: ends the process.
        0 => unsafe { libc::_exit(42) },
        // SAFETY: what sigaction gave for a handler with SA_SIGINFO.
        next => unsafe {
            std::mem::transmute::<usize, extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)>(
                next,
            )(signal, info, context)
        },
    }
}

fn install(handler: usize, flags: i32) -> libc::sigaction {
    // SAFETY: zero is a valid sigaction; the handlers of this file are async-signal-safe.
    unsafe {
        let mut new: libc::sigaction = std::mem::zeroed();
        let mut old: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = handler;
        new.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGBUS, &new, &mut old), 0);
        old
    }
}

fn installed() -> libc::sigaction {
    // SAFETY: zero is a valid sigaction; nothing is set.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        let null = std::ptr::null();
        assert_eq!(libc::sigaction(libc::SIGBUS, null, &mut old), 0);
        old
    }
}

fn own_handler() -> usize {
    own as *const () as usize
}

#[test]
fn a_handler_from_before_gets_its_own_faults() {
    for flags in [
        libc::SA_SIGINFO,
        libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK,
    ] {
        scenario!(|| {
            let dir = temp_dir();
            let foreign = Foreign::new(&dir.path().join("foreign"));
            let flags = support::child::argument("FLAGS");
            install(own_handler(), flags.to_str().unwrap().parse().unwrap());
            lose_a_file(&dir.path().join("file"));
            assert_eq!(OWN_FAULTS.load(Ordering::Relaxed), 0);
            assert_eq!(foreign.touch(), 0);
            assert_eq!(OWN_FAULTS.load(Ordering::Relaxed), 1);
            lose_a_file(&dir.path().join("file"));
            assert_eq!(OWN_FAULTS.load(Ordering::Relaxed), 1);
        })
        .argument("FLAGS", flags.to_string())
        .succeed();
    }
}

#[test]
fn a_later_handler_that_passes_on_gets_its_own_faults() {
    scenario!(|| {
        let dir = temp_dir();
        lose_a_file(&dir.path().join("file"));
        let shared = created(&dir.path().join("other"), 2);
        let foreign = Foreign::new(&dir.path().join("foreign"));
        let before = install(own_handler(), libc::SA_SIGINFO);
        CHAIN.store(before.sa_sigaction, Ordering::Relaxed);
        assert_eq!(foreign.touch(), 0);
        assert_eq!(OWN_FAULTS.load(Ordering::Relaxed), 1);
        // Ours behind it.
        set_len(&dir.path().join("other"), 0);
        assert_eq!(shared[PAGE].load(Ordering::Relaxed), 0);
        assert!(is_faulted(shared.read_at(0, &mut [0])));
        // Ours in front of it again, and behind it: no circle.
        lose_a_file(&dir.path().join("file"));
        let foreign = Foreign::new(&dir.path().join("foreign"));
        assert_eq!(foreign.touch(), 0);
        assert_eq!(OWN_FAULTS.load(Ordering::Relaxed), 2);
    })
    .succeed();
}

#[test]
fn a_later_handler_that_passes_nothing_on_is_overtaken_by_the_next_file() {
    scenario!(|| {
        let dir = temp_dir();
        lose_a_file(&dir.path().join("file"));
        install(own_handler(), libc::SA_SIGINFO);
        lose_a_file(&dir.path().join("file"));
        let foreign = Foreign::new(&dir.path().join("foreign"));
        assert_eq!(foreign.touch(), 0);
        assert_eq!(OWN_FAULTS.load(Ordering::Relaxed), 1);
    })
    .succeed();
}

#[test]
fn handlers_in_a_circle_end() {
    let outcome = scenario!(|| {
        let dir = temp_dir();
        drop(created(&dir.path().join("file"), 1));
        let before = install(own_handler(), libc::SA_SIGINFO);
        CHAIN.store(before.sa_sigaction, Ordering::Relaxed);
        // Ours is in front of one that passes on to ours.
        drop(created(&dir.path().join("file"), 1));
        let foreign = Foreign::new(&dir.path().join("foreign"));
        FOREIGN.store(0, Ordering::Relaxed);
        std::fs::remove_dir_all(dir.path()).unwrap();
        foreign.touch();
    })
    .run();
    assert_eq!(outcome.signal(), Some(libc::SIGBUS), "{}", outcome.stderr);
}

#[test]
fn a_one_shot_handler_gets_one_signal() {
    extern "C" fn note(_: i32) {
        OWN_FAULTS.fetch_add(1, Ordering::Relaxed);
    }
    let outcome = scenario!(|| {
        let dir = temp_dir();
        install(note as *const () as usize, libc::SA_RESETHAND);
        drop(created(&dir.path().join("file"), 1));
        drop(dir);
        // SAFETY: sends a signal to this thread.
        unsafe { libc::raise(libc::SIGBUS) };
        report(OWN_FAULTS.load(Ordering::Relaxed));
        // SAFETY: as above.
        unsafe { libc::raise(libc::SIGBUS) };
        report("alive");
    })
    .run();
    assert_eq!(outcome.reports(), ["1"]);
    assert_eq!(outcome.signal(), Some(libc::SIGBUS));
}

#[test]
fn a_fault_that_is_nobodys_kills_as_ever() {
    for handler in [None, Some(libc::SIG_DFL), Some(libc::SIG_IGN)] {
        let mut scenario = scenario!(|| {
            let dir = temp_dir();
            let handler = support::child::argument("HANDLER");
            if let Ok(handler) = handler.to_str().unwrap().parse() {
                install(handler, 0);
            }
            lose_a_file(&dir.path().join("file"));
            let foreign = Foreign::new(&dir.path().join("foreign"));
            std::fs::remove_dir_all(dir.path()).unwrap();
            foreign.touch();
        });
        let name = handler.map_or("Rust's".to_owned(), |handler| handler.to_string());
        let outcome = scenario.argument("HANDLER", &name).run();
        assert_eq!(outcome.signal(), Some(libc::SIGBUS), "{name}");
    }
}

#[test]
fn a_signal_that_was_sent_does_what_it_would_have_done() {
    for (handler, killed) in [(libc::SIG_DFL, true), (libc::SIG_IGN, false)] {
        let mut scenario = scenario!(|| {
            let dir = temp_dir();
            let handler = support::child::argument("HANDLER");
            install(handler.to_str().unwrap().parse().unwrap(), 0);
            let shared = created(&dir.path().join("file"), 1);
            let start = shared.as_ptr();
            drop(dir);
            // SAFETY: sends a signal to this thread.
            unsafe { libc::raise(libc::SIGBUS) };
            assert_eq!(shared.as_ptr(), start);
            shared.read_at(0, &mut [0]).unwrap();
        });
        let outcome = scenario.argument("HANDLER", handler.to_string()).run();
        assert_eq!(outcome.signal().is_some(), killed, "{}", outcome.stderr);
        assert_eq!(outcome.status.success(), !killed);
    }
}

#[test]
fn rust_still_reports_a_stack_overflow() {
    #[allow(unconditional_recursion)]
    fn deep(n: &mut [u8; 4096]) -> u8 {
        let mut more = [n[0].wrapping_add(1); 4096];
        deep(std::hint::black_box(&mut more)).wrapping_add(more[7])
    }
    let outcome = scenario!(|| {
        let dir = temp_dir();
        lose_a_file(&dir.path().join("file"));
        drop(dir);
        std::thread::spawn(|| deep(&mut [0; 4096])).join().unwrap();
    })
    .run();
    assert_eq!(outcome.signal(), Some(libc::SIGABRT));
    assert!(outcome.stderr.contains("overflowed its stack"));
}

#[test]
fn only_files_need_the_handler() {
    scenario!(|| {
        let before = installed().sa_sigaction;
        drop(Shared::<AtomicU32>::new().unwrap());
        let memfd = Shared::<AtomicU32>::memfd("test").unwrap();
        let fd = memfd.fd().unwrap().try_clone_to_owned().unwrap();
        drop(Shared::<AtomicU32>::from_fd(fd).unwrap());
        assert_eq!(installed().sa_sigaction, before);
        let dir = temp_dir();
        drop(created(&dir.path().join("file"), 1));
        let ours = installed();
        assert_ne!(ours.sa_sigaction, before);
        let wanted = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(ours.sa_flags & wanted, wanted);
    })
    .succeed();
}

/// Each file puts ours in front of a handler of the program, which passes on: sixteen handlers nest. A thread has a
/// small stack for them, sigaltstack(2).
#[test]
fn handlers_that_nest_fit_on_a_signal_stack() {
    static BEFORE: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];
    type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    extern "C" fn pass_on<const N: usize>(
        signal: i32,
        info: *mut libc::siginfo_t,
        context: *mut libc::c_void,
    ) {
        let before = BEFORE[N].load(Ordering::Relaxed);
        // SAFETY: what sigaction gave for a handler with SA_SIGINFO.
        let before = unsafe { std::mem::transmute::<usize, Handler>(before) };
        before(signal, info, context);
    }
    let handlers: [Handler; 8] = [
        pass_on::<0>,
        pass_on::<1>,
        pass_on::<2>,
        pass_on::<3>,
        pass_on::<4>,
        pass_on::<5>,
        pass_on::<6>,
        pass_on::<7>,
    ];
    scenario!(|| {
        let dir = temp_dir();
        let foreign = Foreign::new(&dir.path().join("foreign"));
        install(own_handler(), libc::SA_SIGINFO | libc::SA_ONSTACK);
        for (before, handler) in BEFORE.iter().zip(handlers) {
            lose_a_file(&dir.path().join("file"));
            let flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let old = install(handler as *const () as usize, flags);
            before.store(old.sa_sigaction, Ordering::Relaxed);
        }
        // SAFETY: takes a number.
        let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
        let size = frame.max(2 << 10) + (4 << 10);
        let stack = vec![0x55_u8; 2 * size];
        let new = libc::stack_t {
            ss_sp: stack[size..].as_ptr().cast_mut().cast(),
            ss_flags: 0,
            ss_size: size,
        };
        // SAFETY: the memory lives until the process ends.
        assert_eq!(unsafe { libc::sigaltstack(&new, std::ptr::null_mut()) }, 0);
        assert_eq!(foreign.touch(), 0);
        assert_eq!(OWN_FAULTS.load(Ordering::Relaxed), 1);
        assert!(
            stack[..size].iter().all(|&byte| byte == 0x55),
            "the stack is too small"
        );
        std::mem::forget(stack);
    })
    .succeed();
}
