//! Passwords come from a prompt that does not echo, or from standard input; never from the command line, which everyone on the host can
//! read while the command runs.

use std::io::{BufRead, IsTerminal};

use hull_types::{
    error::{Error, Result},
    sensitive::Sensitive,
};

/// A line from standard input.
pub(crate) fn from_stdin() -> Result<Sensitive> {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    match read.map_err(|e| Error::invalid(format!("standard input cannot be read: {e}")))? {
        0 => Err(Error::invalid("a password was expected on standard input, a line of its own")),
        _ => Ok(Sensitive::new(line.trim_end_matches(['\n', '\r']))),
    }
}

/// Asks a person.
pub(crate) fn ask(prompt: &str) -> Result<Sensitive> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::invalid("there is no terminal to ask for a password; give it with --password-stdin"));
    }
    let typed = rpassword::prompt_password(format!("{prompt}: "));
    typed.map(Sensitive::new).map_err(|e| Error::invalid(format!("the password cannot be read: {e}")))
}

/// Asks a person for a new password, twice.
pub(crate) fn ask_new(prompt: &str) -> Result<Sensitive> {
    let first = ask(prompt)?;
    if ask("The same again")? != first {
        return Err(Error::invalid("the two are not the same; try again"));
    }
    Ok(first)
}
