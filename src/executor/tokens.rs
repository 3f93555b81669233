//! A counted permission, handed out first come, first served.

use std::sync::{Condvar, Mutex, PoisonError};

/// How many may work at once.
#[derive(Debug)]
pub struct Tokens {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    next_ticket: u64,
    serving: u64,
}

/// One token; it is given back when dropped.
#[derive(Debug)]
pub struct Token<'a>(&'a Tokens);

impl Tokens {
    /// `count` of them, at least one.
    pub fn new(count: usize) -> Self {
        Self {
            state: Mutex::new(State {
                free: count.max(1),
                next_ticket: 0,
                serving: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits for a token.
    pub fn take(&self) -> Token<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        while state.free == 0 || state.serving != ticket {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.free -= 1;
        state.serving += 1;
        drop(state);
        // The next in line may find a free token, too.
        self.changed.notify_all();
        Token(self)
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        self.0
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .free += 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn never_more_than_the_count_work_at_once_and_all_get_their_turn() {
        let tokens = Tokens::new(2);
        let (working, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let _token = tokens.take();
                    assert!(working.fetch_add(1, Ordering::SeqCst) < 2);
                    std::thread::yield_now();
                    working.fetch_sub(1, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(done.into_inner(), 16);
    }
}
