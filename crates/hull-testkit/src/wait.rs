//! Waiting for a condition with a deadline: the one place in the tests where time passes by itself.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::bail;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Asks `probe` again and again until it says `Ok`, and returns what it said.
///
/// # Errors
/// When the deadline passes, with the last refusal: `eventually(…, || async { … }).await.unwrap()` tells what was
/// waited for and why it was not so.
pub async fn eventually<T, E, F, Fut>(what: &str, deadline: Duration, mut probe: F) -> anyhow::Result<T>
where
    E: Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let end = Instant::now() + deadline;
    let mut pause = FIRST_PAUSE;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(refusal) if Instant::now() >= end => bail!("{what}: not within {deadline:?}; last: {refusal:?}"),
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// [`eventually`] for tests without a runtime.
///
/// # Errors
/// As [`eventually`].
pub fn eventually_blocking<T, E: Debug>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    let mut pause = FIRST_PAUSE;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(refusal) if Instant::now() >= end => bail!("{what}: not within {deadline:?}; last: {refusal:?}"),
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
