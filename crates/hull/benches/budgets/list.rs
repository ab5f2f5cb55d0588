//! A page of 100 VMs, among 100 and among 100,000.

use std::time::Instant;

use anyhow::Context;
use futures::StreamExt;
use hull_types::wire::{List, VmView};

use crate::{
    Effort,
    cloud::Cloud,
    guests,
    memory::Memory,
    table::{Row, Samples},
};

/// VMs of one page, and of the small cloud.
const PAGE: u32 = 100;

/// VMs a call when the store is filled.
const BATCH: u32 = 32;

/// Clients that fill it.
const CLIENTS: u32 = 4;

pub(crate) async fn rows(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let many = if effort.quick { 10_000 } else { 100_000 };
    let calls = effort.runs(200, 50);
    let cloud = Cloud::start().await?;
    cloud.ready().await?;
    guests::hold_back(&cloud).await?;
    populate(&cloud, "first", PAGE).await?;
    let few = pages(&cloud, calls).await?;

    let begin = Instant::now();
    let calls_made = populate(&cloud, "rest", many - PAGE).await?;
    let populated = begin.elapsed().as_secs_f64();
    let among = pages(&cloud, calls).await?;
    let memory = Memory::of(cloud.pid())?;
    Ok(vec![
        Row::new("list page of 100 VMs among 100", "≤ 5 ms", few.percentiles("ms")),
        Row::new(format!("list page of 100 VMs among {many}"), "≤ 5 ms, the same", among.percentiles("ms"))
            .against(among.ratio(&few, "among 100", "ms")),
        Row::new(
            format!("creating {many} VMs, {BATCH} a call, {CLIENTS} clients"),
            "",
            format!("{:.0}/s; a call {}", f64::from(many) / populated, calls_made.percentiles("ms")),
        ),
        Row::new(
            format!("resident memory with {many} VMs"),
            "",
            format!("{:.0} MiB; PSS {:.0} MiB", memory.resident_mib(), memory.proportional_mib()),
        ),
    ])
}

/// Creates stopped VMs without NICs (a network has fewer addresses than that), and times each call.
async fn populate(cloud: &Cloud, name: &str, count: u32) -> anyhow::Result<Samples> {
    let batches = (0..count).step_by(BATCH as usize);
    let calls = futures::stream::iter(batches.map(|first| {
        let client = cloud.client.clone();
        let body = guests::stopped(&format!("{name}{first}"), BATCH.min(count - first), Some(Vec::new()));
        async move {
            let (body, begin) = (body?, Instant::now());
            client.vms().create(&body).await?;
            anyhow::Ok(begin.elapsed())
        }
    }));
    let mut times = Samples::default();
    let mut calls = std::pin::pin!(calls.buffer_unordered(CLIENTS as usize));
    while let Some(took) = calls.next().await {
        times.took(took?);
    }
    Ok(times)
}

/// Walks through the pages, from the first again at the end, and times each call. Bytes are taken as they come: what a client
/// makes of them is its own time.
async fn pages(cloud: &Cloud, calls: usize) -> anyhow::Result<Samples> {
    let mut times = Samples::default();
    let mut after: Option<String> = None;
    for call in 0..calls + 5 {
        let mut query = vec![("limit", PAGE.to_string())];
        query.extend(after.take().map(|after| ("after", after)));
        let begin = Instant::now();
        let bytes = cloud.client.bytes("v1/vms", &query).await?;
        let took = begin.elapsed();
        let page: List<VmView> = serde_json::from_slice(&bytes).context("a page could not be read")?;
        anyhow::ensure!(page.items.len() == PAGE as usize, "a page holds {} VMs", page.items.len());
        after = page.next;
        // The first ones open the connection and warm caches.
        if call >= 5 {
            times.took(took);
        }
    }
    Ok(times)
}
