//! How long until a creation is accepted, which means durable: one commit with the VM, its ports, addresses, quota and history.

use std::{sync::Arc, time::Instant};

use hull_types::wire::VmCreate;

use crate::{
    Effort,
    cloud::Cloud,
    guests,
    table::{Row, Samples},
};

/// Clients at once, in the second row.
const CLIENTS: usize = 8;

pub(crate) async fn rows(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let cloud = Cloud::start().await?;
    cloud.ready().await?;
    guests::hold_back(&cloud).await?;
    let count = effort.runs(400, 200);
    // The first calls open files and connections.
    many(&cloud.client, "warm", 20).await?;
    let alone = many(&cloud.client, "alone", count).await?;

    let begin = Instant::now();
    let client = Arc::new(cloud.client.clone());
    let crowd = (0..CLIENTS).map(|n| {
        let client = Arc::clone(&client);
        tokio::spawn(async move { many(&client, &format!("crowd{n}"), count / CLIENTS).await })
    });
    let mut together = Samples::default();
    for member in futures::future::join_all(crowd).await {
        together.extend(member??);
    }
    let rate = together.len() as f64 / begin.elapsed().as_secs_f64();
    Ok(vec![
        Row::new("create accepted (durable), one client, with a NIC", "p50 ≤ 5 ms", alone.percentiles("ms")),
        Row::new(
            format!("create accepted (durable), {CLIENTS} clients at once"),
            "",
            format!("{}; {rate:.0}/s in all", together.percentiles("ms")),
        ),
    ])
}

/// Creates VMs one after another, stopped ones with a NIC each, and times each call.
async fn many(client: &hull_client::Client, name: &str, count: usize) -> anyhow::Result<Samples> {
    let mut times = Samples::default();
    for n in 0..count {
        let body: VmCreate = guests::stopped(&format!("{name}-{n}"), 1, None)?;
        let begin = Instant::now();
        client.vms().create(&body).await?;
        times.took(begin.elapsed());
    }
    Ok(times)
}
