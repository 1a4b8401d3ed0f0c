//! The SIGBUS handler: one for the process, put in front of whatever handler is there.
//!
//! ```text
//!   fault --> our layer 1 --not ours--> the program's later handler --chains--> our layer 0 --> the first handler
//! ```
//! A layer knows the one handler it was put in front of, and never any other, so a program that chains to this handler
//! cannot cause an endless loop.

use super::{object, retry_eintr};
use crate::once::OnceBox;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Returns whether the fault at an address was handled, so that the access can be tried again.
/// Runs in a signal handler, with all signals blocked: it may not allocate, lock or panic.
pub(crate) type FaultHandler = fn(address: usize, cause: FaultCause) -> bool;

/// The cause of a SIGBUS, sigaction(2) on `si_code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultCause {
    /// No page is available at the address: the file was truncated, its device failed, or its disk is full.
    MissingPage,
    /// The machine reported a memory error.
    HardwareError,
}

/// One installation of the handler.
struct HandlerLayer {
    /// The handler that it was put in front of.
    before: OnceBox<libc::sigaction>,
    /// A handler with `SA_RESETHAND` gets one signal.
    spent: AtomicBool,
}

impl HandlerLayer {
    const fn new() -> Self {
        HandlerLayer {
            before: OnceBox::new(),
            spent: AtomicBool::new(false),
        }
    }

    /// Makes an unused layer pass other signals on to `front`. True if this layer does, from now on or already.
    fn put_before(&self, front: &libc::sigaction) -> bool {
        self.before.get().is_none() && self.before.set(*front)
            || !self.spent.load(Ordering::Relaxed)
                && self
                    .before
                    .get()
                    .is_some_and(|before| is_same(before, front))
    }
}

fn is_same(one: &libc::sigaction, other: &libc::sigaction) -> bool {
    let blocks = |action: &libc::sigaction, signal| {
        // SAFETY: sigismember(3) reads the word that has the signal.
        unsafe { libc::sigismember(&action.sa_mask, signal) }
    };
    one.sa_sigaction == other.sa_sigaction
        && one.sa_flags == other.sa_flags
        && (1..=64).all(|signal| blocks(one, signal) == blocks(other, signal))
}

static LAYERS: [HandlerLayer; 8] = [const { HandlerLayer::new() }; 8];
static FAULT_HANDLER: OnceBox<FaultHandler> = OnceBox::new();

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

const HANDLERS: [Handler; 8] = [
    handle::<0>,
    handle::<1>,
    handle::<2>,
    handle::<3>,
    handle::<4>,
    handle::<5>,
    handle::<6>,
    handle::<7>,
];

/// Installs the handler in front of the current one, unless it is the current one. After eight installations in front of
/// different handlers the program's handler stays.
///
/// It takes no lock, which a forked child could find held: two threads that install at once use the same layer.
pub(crate) fn install_sigbus_handler(handler: FaultHandler) -> io::Result<()> {
    FAULT_HANDLER.get_or_init(|| handler);
    let front = action(None)?;
    if HANDLERS.iter().any(|&h| address(h) == front.sa_sigaction) {
        return Ok(());
    }
    object::keep_loaded(address(HANDLERS[0]));
    for (layer, &handler) in LAYERS.iter().zip(&HANDLERS) {
        // Stored before the handler can run, which needs it.
        if layer.put_before(&front) {
            let mut ours = default();
            ours.sa_sigaction = address(handler);
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            // Nothing interrupts us, so a mapping that is half replaced is never seen by our own thread.
            // SAFETY: sigfillset(3) writes one sigset_t.
            unsafe { libc::sigfillset(&mut ours.sa_mask) };
            return action(Some(&ours)).map(drop);
        }
    }
    Ok(())
}

fn address(handler: Handler) -> usize {
    handler as *const () as usize
}

/// No handler: `SIG_DFL`, no flags, nothing blocked.
fn default() -> libc::sigaction {
    // SAFETY: zero bits are a valid `struct sigaction`: SIG_DFL is 0, and so are no flags and an empty set.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// sigaction(2) for SIGBUS: sets, if there is something to set, and gives what was there.
fn action(new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let new = new.map_or(ptr::null(), ptr::from_ref);
    let mut old = default();
    // SAFETY: both pointers are null or one `struct sigaction`; a handler set here is one of `HANDLERS` or SIG_DFL.
    retry_eintr(|| unsafe { libc::sigaction(libc::SIGBUS, new, &mut old) })?;
    Ok(old)
}

/// The handler itself. Everything it does is async-signal-safe (signal-safety(7)).
extern "C" fn handle<const LAYER: usize>(
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives every thread its errno, and __errno_location(3) its address.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { errno.read() };
    // SAFETY: with SA_SIGINFO the kernel gives one siginfo_t.
    let code = unsafe { (*info).si_code };
    let cause = match code {
        libc::BUS_ADRERR | libc::BUS_OBJERR => Some(FaultCause::MissingPage),
        libc::BUS_MCEERR_AR | libc::BUS_MCEERR_AO => Some(FaultCause::HardwareError),
        // Sent by a process, where the address means nothing, or a misaligned access.
        _ => None,
    };
    let is_handled = cause.is_some_and(|cause| {
        // SAFETY: as above.
        let info = unsafe { &*info };
        // SAFETY: these codes come with an address.
        let at = unsafe { info.si_addr() };
        FAULT_HANDLER
            .get()
            .is_some_and(|handle| handle(at.addr(), cause))
    });
    if !is_handled {
        // SAFETY: what the kernel gave us is passed on as it is.
        unsafe { chain(&LAYERS[LAYER], signal, code, info, context) };
    }
    // SAFETY: as above.
    unsafe { errno.write(saved) };
}

/// Does what would have happened without this handler.
///
/// Layers nest: each takes only a few words of the stack that the program has for signals, sigaltstack(2).
///
/// # Safety
/// Called from the handler, with its arguments.
unsafe fn chain(
    layer: &HandlerLayer,
    signal: i32,
    code: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: passed on.
    match unsafe { next(layer, code, context) } {
        Next::Nothing => {}
        Next::WithInfo(handler) => handler(signal, info, context),
        Next::Plain(handler) => handler(signal),
    }
}

/// The handler to be called.
enum Next {
    Nothing,
    WithInfo(Handler),
    Plain(extern "C" fn(i32)),
}

/// What a layer passes a signal on to, with the mask set for it. Not inlined: see [`chain`].
///
/// # Safety
/// As for [`chain`].
#[inline(never)]
unsafe fn next(layer: &HandlerLayer, code: i32, context: *mut libc::c_void) -> Next {
    // The kernel's own signals have positive codes. It does not let a fault be ignored.
    let fault = code > 0;
    let before = layer.before.get().copied().unwrap_or_else(default);
    let once = before.sa_flags & libc::SA_RESETHAND != 0;
    match before.sa_sigaction {
        libc::SIG_IGN if !fault => return Next::Nothing,
        libc::SIG_DFL | libc::SIG_IGN => {
            default_action(fault);
            return Next::Nothing;
        }
        _ if once && layer.spent.swap(true, Ordering::Relaxed) => {
            default_action(fault);
            return Next::Nothing;
        }
        _ => {}
    }
    if let Some(interrupted) = interrupted_mask(context) {
        // SAFETY: `context` is the ucontext_t of this signal, see below.
        unsafe { apply_mask_of(&before, interrupted) };
    }
    let handler = before.sa_sigaction;
    if before.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: a handler that was installed with SA_SIGINFO has this type.
        Next::WithInfo(unsafe { std::mem::transmute::<usize, Handler>(handler) })
    } else {
        // SAFETY: a handler that was installed without it has this one.
        Next::Plain(unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(handler) })
    }
}

/// The default action. A fault repeats when the handler returns; a signal that was sent must be sent again.
fn default_action(fault: bool) {
    let _ = action(Some(&default()));
    if !fault {
        // SAFETY: raise(3) touches no memory. SIGBUS is blocked in here and comes as the handler returns.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}

/// The mask of the thread that a signal interrupted, in the ucontext_t of the handler. `None` where libc does not define
/// ucontext_t: a handler that was there before this one runs with all signals blocked.
#[allow(
    unreachable_code,
    unused_variables,
    reason = "the last line is for other processors"
)]
fn interrupted_mask(context: *mut libc::c_void) -> Option<*const libc::sigset_t> {
    #[cfg(any(
        target_arch = "x86",
        target_arch = "x86_64",
        target_arch = "arm",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "s390x",
        target_arch = "loongarch64",
        all(target_arch = "powerpc64", target_env = "gnu")
    ))]
    {
        // Only the kernel's 64 signals are in it, so no reference to the whole.
        let offset = std::mem::offset_of!(libc::ucontext_t, uc_sigmask);
        return Some(context.wrapping_byte_add(offset).cast());
    }
    None
}

/// Blocks what the kernel would have blocked for that handler; it may leave by siglongjmp(3) and count on it.
///
/// # Safety
/// `interrupted` has at least the word with the kernel's 64 signals.
unsafe fn apply_mask_of(before: &libc::sigaction, interrupted: *const libc::sigset_t) {
    let mut blocked = before.sa_mask;
    for signal in 1..=64 {
        // SAFETY: sigismember(3) reads the word that has the signal.
        if unsafe { libc::sigismember(interrupted, signal) } == 1 {
            // SAFETY: sigaddset(3) changes the set.
            unsafe { libc::sigaddset(&mut blocked, signal) };
        }
    }
    if before.sa_flags & libc::SA_NODEFER == 0 {
        // SAFETY: as above.
        unsafe { libc::sigaddset(&mut blocked, libc::SIGBUS) };
    }
    // SAFETY: pthread_sigmask(3) reads one set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &blocked, ptr::null_mut()) };
}

/// sched_yield(2).
pub(crate) fn yield_now() {
    // SAFETY: touches no memory.
    unsafe { libc::sched_yield() };
}
