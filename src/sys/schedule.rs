//! Scheduling attributes of a core's threads, and the scheduler's statistics of them.
//!
//! A core's loop and its writer share a processor. Linux lets a thread finish its time slice, 3 to
//! 4 ms, before a woken thread runs, unless that thread has a shorter slice. From Linux 6.12 on, a
//! thread may request one: it runs sooner, not longer. If both threads are busy, each gets half of
//! the processor; so the writer is nicer. Then the loop receives more, files are written with more
//! points at a time, and when the cache is full the loop waits for the writer.
//!
//! Neither needs a privilege. Priority over other programs is left to the operator.

use std::io;
use std::time::Duration;

/// The shortest slice that Linux grants.
const SLICE: Duration = Duration::from_micros(100);

/// How much nicer the writer is: a tenth of the loop's claim.
const NICENESS: i32 = 10;

/// The weakest claim there is.
const NICENESS_MAX: i32 = 19;

/// Asks for short slices for the calling thread, and for the threads that it starts from now on.
/// An older kernel takes no notice.
pub fn ask_for_short_slices() -> io::Result<()> {
    change(|asked| {
        asked.sched_runtime = u64::try_from(SLICE.as_nanos()).expect("a slice is short");
    })
}

/// Weakens the claim of the calling thread to its processor.
pub fn give_way() -> io::Result<()> {
    change(|asked| {
        asked.sched_nice = (asked.sched_nice + NICENESS).min(NICENESS_MAX);
        // The kernel's own length.
        asked.sched_runtime = 0;
    })
}

/// Changes how the calling thread is scheduled, unless it has been given a policy of its own.
fn change(wish: impl FnOnce(&mut libc::sched_attr)) -> io::Result<()> {
    let mut asked = current()?;
    if asked.sched_policy != u32::try_from(libc::SCHED_OTHER).expect("it is 0") {
        return Ok(());
    }
    wish(&mut asked);
    // SAFETY: the pointer describes `asked`, which says its own size and outlives the call; 0 is
    // the calling thread.
    let status = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const asked, 0) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How the calling thread is scheduled.
fn current() -> io::Result<libc::sched_attr> {
    // SAFETY: the structure is plain integers.
    let mut found: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = u32::try_from(size_of_val(&found)).expect("it is small");
    // SAFETY: the pointer and the size describe `found`, which outlives the call; 0 is the calling
    // thread.
    let status = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, size, 0) };
    if status == 0 { Ok(found) } else { Err(io::Error::last_os_error()) }
}

/// How often the calling thread has given its processor away because it had to wait, for a device
/// for example.
pub fn times_waited() -> u64 {
    // SAFETY: an all-zero rusage is a valid one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is the kernel's to fill.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    u64::try_from(usage.ru_nvcsw).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a new thread has after a wish, beside what the thread that starts it has.
    fn after(wish: fn() -> io::Result<()>) -> (libc::sched_attr, libc::sched_attr) {
        let before = current().expect("every thread may ask");
        let changed = std::thread::spawn(move || {
            wish().expect("every thread may wish for that");
            current().expect("every thread may ask")
        });
        (before, changed.join().expect("the wish is granted"))
    }

    #[test]
    fn a_thread_gets_short_slices_and_keeps_all_else() {
        let (before, after) = after(ask_for_short_slices);
        // Linux before 6.12 knows no slices; it says 0.
        let is_known = before.sched_runtime > 0;
        assert_eq!(after.sched_runtime, if is_known { 100_000 } else { 0 });
        assert_eq!(
            (after.sched_policy, after.sched_nice),
            (before.sched_policy, before.sched_nice)
        );
    }

    #[test]
    fn a_thread_that_gives_way_is_nicer_as_far_as_that_goes() {
        let (before, after) = after(give_way);
        assert_eq!(after.sched_nice, (before.sched_nice + 10).min(19));
        assert_eq!(after.sched_policy, before.sched_policy);
    }

    #[test]
    fn waiting_is_counted_for_this_thread_alone() {
        let before = times_waited();
        std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_millis(1)));
        let other = times_waited() - before;
        (0..5).for_each(|_| std::thread::sleep(std::time::Duration::from_micros(50)));
        assert!((5..100).contains(&(times_waited() - before - other)));
    }
}
