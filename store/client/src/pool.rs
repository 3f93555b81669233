//! A few connections, each for one operation at a time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::connect::Connect;
use crate::connection::Connection;
use crate::error::ClientError;
use crate::remote::RemoteOptions;

/// Connections that are open, and what makes new ones.
pub(crate) struct Pool {
    connect: Box<dyn Connect>,
    state: Mutex<State>,
    one_free: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    /// How many are open, in use or not.
    open: usize,
}

impl Pool {
    pub(crate) fn new(connect: Box<dyn Connect>) -> Self {
        Self {
            connect,
            state: Mutex::default(),
            one_free: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for one operation: one that is open, else a new one, else the
    /// first that becomes free.
    pub(crate) fn take(&self, options: &RemoteOptions) -> Result<Taken<'_>, ClientError> {
        let mut state = self.lock();
        loop {
            if let Some(mut connection) = state.idle.pop() {
                if connection.is_stale() {
                    state.open -= 1;
                    // Its server may take a while to end.
                    drop(state);
                    drop(connection);
                    state = self.lock();
                    continue;
                }
                return Ok(Taken {
                    pool: self,
                    connection: Some(connection),
                    is_open: false,
                });
            }
            if state.open < options.connections_max.max(1) {
                break;
            }
            state = self
                .one_free
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.open += 1;
        drop(state);
        let mut taken = Taken {
            pool: self,
            connection: None,
            is_open: false,
        };
        let streams = self.connect.connect().map_err(ClientError::Connect)?;
        taken.connection = Some(Connection::open(streams, options)?);
        Ok(taken)
    }
}

/// A connection in use. Dropped, it is closed, unless it was given back.
pub(crate) struct Taken<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
    /// Whether it is open still when this is dropped.
    is_open: bool,
}

impl Taken<'_> {
    pub(crate) fn connection(&mut self) -> &mut Connection {
        self.connection
            .as_mut()
            .expect("it is there until it is given back")
    }

    /// Keeps the connection for the next operation.
    pub(crate) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.lock().idle.push(connection);
            self.is_open = true;
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        drop(self.connection.take());
        if !self.is_open {
            self.pool.lock().open -= 1;
        }
        self.pool.one_free.notify_one();
    }
}
