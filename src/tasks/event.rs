//! Waiting, on one core, for something another task of the same core does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
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

/// Something that one task of a core does at a time, first come, first served.
#[derive(Debug, Default)]
pub struct Turns {
    /// Number of the one whose turn it is.
    first: Cell<u64>,
    /// Number of the next to come.
    next: Cell<u64>,
    /// Those behind the first, in order.
    waiting: RefCell<VecDeque<Waker>>,
}

impl Turns {
    /// Waits for the caller's turn, which lasts as long as what is returned. Not to be cancelled:
    /// others wait behind.
    pub async fn take(&self) -> Turn<'_> {
        let number = self.next.replace(self.next.get() + 1);
        let mut is_new = true;
        poll_fn(|context| {
            if self.first.get() == number {
                return Poll::Ready(());
            }
            if std::mem::take(&mut is_new) {
                self.waiting.borrow_mut().push_back(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
        Turn { turns: self }
    }
}

/// It is the holder's turn; see [`Turns`].
#[derive(Debug)]
pub struct Turn<'t> {
    turns: &'t Turns,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.first.set(self.turns.first.get() + 1);
        if let Some(waker) = self.turns.waiting.borrow_mut().pop_front() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn turns_are_given_in_order_and_one_at_a_time() {
        let turns = Turns::default();
        let context = &mut Context::from_waker(Waker::noop());
        let (mut first, mut second, mut third) =
            (pin!(turns.take()), pin!(turns.take()), pin!(turns.take()));
        let Poll::Ready(turn) = first.as_mut().poll(context) else { panic!("nobody is before it") };
        assert!(second.as_mut().poll(context).is_pending());
        assert!(third.as_mut().poll(context).is_pending());
        drop(turn);
        assert!(third.as_mut().poll(context).is_pending(), "the second came before it");
        let Poll::Ready(turn) = second.as_mut().poll(context) else { panic!("it is its turn") };
        assert!(third.as_mut().poll(context).is_pending());
        drop(turn);
        assert!(third.as_mut().poll(context).is_ready());
    }
}
