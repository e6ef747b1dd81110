//! Waking a core from another thread.
//!
//! Every core has one doorbell. A thread that pushes into one of the core's SPSC links rings it;
//! the core then polls all its links. A ring makes a system call only when the core has announced
//! that it will sleep, so ringing a busy core is free.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::Write;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use futures_lite::AsyncRead;

/// The side that rings; any thread may hold one.
#[derive(Debug, Clone)]
pub struct Doorbell {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    asleep: AtomicBool,
    socket: UnixStream,
}

/// The side that sleeps, before it belongs to a core.
#[derive(Debug)]
pub struct DoorbellEar {
    shared: Arc<Shared>,
    socket: UnixStream,
}

/// The side that sleeps, on its core.
pub struct Listening {
    shared: Arc<Shared>,
    stream: RefCell<glommio::net::UnixStream>,
}

/// Makes a doorbell.
pub fn doorbell() -> std::io::Result<(Doorbell, DoorbellEar)> {
    let (near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    let shared = Arc::new(Shared { asleep: AtomicBool::new(false), socket: near });
    Ok((Doorbell { shared: Arc::clone(&shared) }, DoorbellEar { shared, socket: far }))
}

impl Doorbell {
    /// Wakes the core if it sleeps. Call it after the thing to find is in its link.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::Relaxed)
            && self.shared.asleep.swap(false, Ordering::SeqCst)
        {
            // A full socket buffer means the core has rings enough to wake up from.
            let _ = (&self.shared.socket).write(&[1]);
        }
    }
}

impl DoorbellEar {
    /// Gives the ear to the core that calls this.
    pub fn listen(self) -> Listening {
        let fd = self.socket.into_raw_fd();
        // SAFETY: `fd` is a connected socket that nothing else owns any more.
        let stream = unsafe { glommio::net::UnixStream::from_raw_fd(fd) };
        Listening { shared: self.shared, stream: RefCell::new(stream) }
    }
}

impl Listening {
    /// Sleeps until rung, unless `found` says that something came in meanwhile.
    pub async fn sleep_unless(&self, found: impl Fn() -> bool) {
        self.shared.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if found() {
            self.shared.asleep.store(false, Ordering::SeqCst);
            return;
        }
        let mut rings = [0u8; 64];
        poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut rings))
            .await
            .expect("a socket pair with both ends open can be read");
        self.shared.asleep.store(false, Ordering::SeqCst);
    }
}
