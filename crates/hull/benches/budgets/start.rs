//! `hull up` on an empty directory, and what it takes when nothing happens.

use std::time::{Duration, Instant};

use crate::{
    Effort,
    cloud::Cloud,
    memory::Memory,
    table::{Row, Samples},
};

/// Nothing happens for so long before idle memory is read.
const SETTLE: Duration = Duration::from_secs(5);

pub(crate) async fn rows(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let runs = effort.runs(7, 5);
    let (mut answered, mut node_ready, mut resident, mut shared) = <(Samples, Samples, Samples, Samples)>::default();
    for run in 0..runs {
        let begin = Instant::now();
        let cloud = Cloud::start().await?;
        answered.took(cloud.answered);
        cloud.ready().await?;
        node_ready.took(begin.elapsed());
        if run < 3 {
            tokio::time::sleep(SETTLE).await;
            let memory = Memory::of(cloud.pid())?;
            resident.push(memory.resident_mib());
            shared.push(memory.proportional_mib());
        }
    }
    let idle = format!("{}; PSS {}", resident.spread("MiB"), shared.spread("MiB"));
    Ok(vec![
        Row::new("hull up → API answers, empty store", "≤ 200 ms", answered.spread("ms")),
        Row::new("hull up → node takes VMs (with the KVM probe)", "", node_ready.spread("ms")),
        Row::new("idle resident memory, all in one", "≤ 64 MiB", idle),
    ])
}
