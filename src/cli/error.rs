//! How a command fails: an error with its causes, perhaps a hint, and the exit code.

use std::error::Error;
use std::io::Write;

use super::exit_code;

/// Any error that ends a command.
#[derive(Debug)]
pub struct CommandError {
    /// `None` if everything has been told already.
    error: Option<Box<dyn Error + Send + Sync>>,
    hint: Option<String>,
    code: u8,
}

// It is no `Error` itself, so that every error becomes one by `?`.
impl<E: Error + Send + Sync + 'static> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self {
            error: Some(Box::new(error)),
            hint: None,
            code: exit_code::FAILURE,
        }
    }
}

impl CommandError {
    /// A failure that the user has been told of.
    pub fn told(code: u8) -> Self {
        Self {
            error: None,
            hint: None,
            code,
        }
    }

    /// The exit code it calls for.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Adds what the user could do about it.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Tells the user.
    pub fn print(&self) {
        let Some(error) = &self.error else {
            return;
        };
        if is_broken_pipe(&**error) {
            // Who read our output has gone on purpose.
            return;
        }
        let mut text = describe(&**error);
        if let Some(hint) = &self.hint {
            text.push_str("hint: ");
            text.push_str(hint);
            text.push('\n');
        }
        // Where there is no standard error, there is nobody to tell.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// An error and its causes, one a line.
pub fn describe(error: &dyn Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("       because: {error}\n"));
        cause = error.source();
    }
    text
}

/// An error and its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Adds hints to results.
pub trait Hint<T> {
    /// Adds what the user could do about the error.
    fn hint<H: Into<String>>(self, hint: impl FnOnce() -> H) -> Result<T, CommandError>;
}

impl<T, E: Into<CommandError>> Hint<T> for Result<T, E> {
    fn hint<H: Into<String>>(self, hint: impl FnOnce() -> H) -> Result<T, CommandError> {
        self.map_err(|error| error.into().with_hint(hint()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the box")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = Outer(std::io::Error::other("the key is lost"));
        assert_eq!(
            describe(&error),
            "error: cannot open the box\n       because: the key is lost\n"
        );
    }

    #[test]
    fn a_reader_who_has_gone_is_recognised_below_other_errors() {
        let error = |kind| Outer(std::io::Error::from(kind));
        assert!(is_broken_pipe(&error(std::io::ErrorKind::BrokenPipe)));
        assert!(!is_broken_pipe(&error(std::io::ErrorKind::NotFound)));
    }
}
