//! One run, from its seed to its verdict.

use std::collections::BTreeMap;

use crate::{cloud::Cloud, steps::Focus};

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where all chance comes from.
    pub seed: u64,
    /// Hosts.
    pub nodes: usize,
    /// Steps before everything is mended.
    pub steps: usize,
    /// What most of them are about.
    pub focus: Focus,
}

/// How a run went.
#[derive(Debug)]
pub struct Verdict {
    /// Promises broken; none where all is well.
    pub broken: Vec<String>,
    /// What was done.
    pub journal: Vec<String>,
    /// How often each kind of event was written, `vm.create` and so on; rests by their state, `vm.state running`.
    pub history: BTreeMap<String, usize>,
    /// The store's last revision.
    pub revisions: u64,
}

/// Runs it, on a runtime of its own whose time is paused.
pub fn run(plan: Plan) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O can always be made");
    runtime.block_on(Box::pin(play(plan)))
}

async fn play(plan: Plan) -> Verdict {
    let mut cloud = match Box::pin(Cloud::new(plan.seed, plan.nodes)).await {
        Ok(cloud) => cloud,
        Err(error) => {
            let broken = vec![format!("the cloud could not be founded: {error}")];
            return Verdict { broken, journal: Vec::new(), history: BTreeMap::new(), revisions: 0 };
        }
    };
    cloud.pass(std::time::Duration::from_secs(10)).await;
    for _ in 0..plan.steps {
        Box::pin(cloud.step(plan.focus)).await;
        if !cloud.broken().is_empty() {
            break;
        }
    }
    if cloud.broken().is_empty() {
        cloud.comes_to_rest().await;
    }
    if cloud.broken().is_empty() {
        cloud.leaves_nothing().await;
    }
    Verdict { broken: cloud.broken(), history: count(&cloud), revisions: cloud.revision(), journal: cloud.journal }
}

fn count(cloud: &Cloud) -> BTreeMap<String, usize> {
    let mut history = BTreeMap::new();
    for event in cloud.truth.history.values().flatten() {
        let state = event.message.split(':').next().filter(|_| event.action == "vm.state");
        let kind = state.map_or_else(|| event.action.clone(), |state| format!("vm.state {state}"));
        *history.entry(kind).or_default() += 1;
    }
    history
}
