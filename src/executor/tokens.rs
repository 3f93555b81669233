//! A counted permission.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often one who waits asks whether it is still worth it.
const POLL: Duration = Duration::from_millis(100);

/// How many may work at once.
#[derive(Debug)]
pub struct Tokens {
    free: Mutex<usize>,
    freed: Condvar,
}

/// One token; it is given back when dropped.
#[derive(Debug)]
pub struct Token<'a>(&'a Tokens);

impl Tokens {
    /// `count` of them, at least one.
    pub fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count.max(1)),
            freed: Condvar::new(),
        }
    }

    /// Waits for a token; `None` if `is_given_up` said so meanwhile.
    pub fn take(&self, is_given_up: impl Fn() -> bool) -> Option<Token<'_>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            (free, _) = self
                .freed
                .wait_timeout(free, POLL)
                .unwrap_or_else(PoisonError::into_inner);
            if *free == 0 && is_given_up() {
                return None;
            }
        }
        *free -= 1;
        Some(Token(self))
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
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
                    let _token = tokens.take(|| false).expect("nobody gives up");
                    assert!(working.fetch_add(1, Ordering::SeqCst) < 2);
                    std::thread::yield_now();
                    working.fetch_sub(1, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(done.into_inner(), 16);
    }

    #[test]
    fn who_gives_up_gets_no_token_and_takes_none_away() {
        let tokens = Tokens::new(1);
        let held = tokens.take(|| false);
        assert!(tokens.take(|| true).is_none());
        drop(held);
        assert!(tokens.take(|| true).is_some());
    }
}
