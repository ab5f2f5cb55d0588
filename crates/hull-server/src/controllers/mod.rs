//! Controllers keep conditions true. Each takes no input but the present state, is woken by every change and by a timer,
//! and does one round: look, decide (in `hull_core`), commit. A round that fails is tried again; a round that is not
//! needed does nothing. So a missed wake costs time, never truth, and a restart needs no memory.
//!
//! | controller | keeps true |
//! |---|---|
//! | [`scheduler`] | every VM that wants a node has one, or a reason why not |
//! | [`collector`] | what was deleted goes: VMs whose nodes are done or silent, image records and their bytes |
//! | [`gateways`] | each node that holds a router which leads out has an end of it outside, or the router says why not |
//! | [`migrations`] | a migration that cannot be done any more is given up |
//! | [`importer`] | an image with a URL is fetched; an import nobody works on is begun again or failed |
//! | [`keys`] | a key that signs tokens is followed by a new one each day; spent ones go, and so do sessions ended long ago |
//! | [`retention`] | history, migrations that are over, the audit and replays do not grow for ever; expired join tokens go |
//! | [`App::flush_audit`] | counts of refused calls are in the store soon |

pub mod bootstrap;
pub mod collector;
pub mod gateways;
pub mod importer;
pub mod keys;
pub mod migrations;
pub mod retention;
pub mod scheduler;

use std::{sync::Arc, time::Duration};

use hull_types::error::{ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use crate::app::{App, audit};

/// A round is made at least so often.
const PERIOD: Duration = Duration::from_secs(5);
/// The pause after a round that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Runs every controller until stopped.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let importer = importer::Importer::new(app.clone());
    let gateways = gateways::Gateways::default();
    tokio::join!(
        repeat(&app, &stop, "scheduler", PERIOD, true, || scheduler::round(&app)),
        repeat(&app, &stop, "collector", PERIOD, true, || collector::round(&app)),
        repeat(&app, &stop, "gateways", PERIOD, true, || gateways.round(&app)),
        repeat(&app, &stop, "migrations", PERIOD, true, || migrations::round(&app)),
        repeat(&app, &stop, "importer", PERIOD, true, || importer.round()),
        repeat(&app, &stop, "keys", keys::PERIOD, false, || keys::round(&app)),
        repeat(&app, &stop, "retention", retention::PERIOD, false, || retention::round(&app)),
        repeat(&app, &stop, "audit", audit::FLUSH, false, || flush(&app)),
    );
}

async fn flush(app: &App) -> Result<()> {
    app.flush_audit().await;
    Ok(())
}

async fn repeat<F: Future<Output = Result<()>>>(
    app: &App,
    stop: &CancellationToken,
    name: &'static str,
    period: Duration,
    on_change: bool,
    round: impl Fn() -> F,
) {
    let mut wake = app.cache().subscribe();
    loop {
        wake.borrow_and_update();
        let pause = tokio::select! {
            () = stop.cancelled() => return,
            outcome = round() => match outcome {
                Ok(()) => period,
                Err(error) => {
                    // Someone else changed the same thing at the same time: ordinary.
                    if error.kind != ErrorKind::Conflict {
                        tracing::warn!(controller = name, %error, "a round failed; it is tried again");
                    }
                    RETRY
                }
            },
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = wake.changed(), if on_change => if changed.is_err() { return },
        }
    }
}
