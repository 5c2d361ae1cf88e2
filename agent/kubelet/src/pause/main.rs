//! The program inside the pause image: holds the namespaces of a pod open, reaps orphans, and ends on SIGINT or SIGTERM.
//!
//! Compiled by `build.rs` on its own, without the standard library and without libc, so that it is a static program of
//! a few kilobytes for every target. It is a separate program, so the crate's ban on `unsafe` does not cover it; all of
//! the `unsafe` is system calls made by hand and the entry point.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: usize = 2;
const SIGTERM: usize = 15;
const SIGCHLD: usize = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
/// Size of the kernel's signal set in bytes.
const SIGNAL_SET_SIZE: usize = 8;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const WAIT4: usize = 260;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const EXIT_GROUP: usize = 94;
}

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {main}", "ud2", main = sym main);

#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, xzr", "mov x30, xzr", "bl {main}", "brk #1", main = sym main);

/// One system call.
///
/// # Safety
/// The arguments must be valid for the call: pointers must point to memory of the size the kernel expects.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result;
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// One system call.
///
/// # Safety
/// The arguments must be valid for the call: pointers must point to memory of the size the kernel expects.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result;
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
            options(nostack));
    }
    result
}

extern "C" fn main() -> ! {
    let waited: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let set = &raw const waited as usize;
    // SAFETY: `set` points to a signal set of SIGNAL_SET_SIZE bytes that outlives the loop; the other pointers are null,
    // which each of these calls takes as "not wanted".
    unsafe {
        call(number::RT_SIGPROCMASK, SIG_BLOCK, set, 0, SIGNAL_SET_SIZE);
        loop {
            let signal = call(number::RT_SIGTIMEDWAIT, set, 0, 0, SIGNAL_SET_SIZE);
            if signal == SIGINT as isize || signal == SIGTERM as isize {
                call(number::EXIT_GROUP, 0, 0, 0, 0);
            }
            // Several children may have ended for one signal.
            while call(number::WAIT4, usize::MAX, 0, WNOHANG, 0) > 0 {}
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
