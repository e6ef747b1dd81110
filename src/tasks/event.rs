//! Waiting, on one core, for something another task of the same core does.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A place where tasks wait until a condition holds.
#[derive(Debug, Default)]
pub struct Event {
    waiting: RefCell<Vec<Waker>>,
}

impl Event {
    /// Lets every waiting task look at its condition again.
    pub fn notify(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits until `holds` is true; it is looked at now and after each [`Event::notify`].
    pub async fn until(&self, mut holds: impl FnMut() -> bool) {
        poll_fn(|context| {
            if holds() {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().rev().take(4).any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
