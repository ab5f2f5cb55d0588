//! Importing a raw image, against `cp` of the same file to the same file system, durable both.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use hull_types::image::{ImageFormat, ImageKind};

use crate::{
    Effort,
    cloud::Cloud,
    guests,
    table::{Row, Samples},
};

const MIB: usize = 1 << 20;

/// A file to import.
struct Source {
    name: &'static str,
    /// Bytes that are not zero, at the begin; the rest is a hole.
    data_mib: usize,
}

pub(crate) async fn rows(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let mib = if effort.quick { 128 } else { 512 };
    let cloud = Cloud::start().await?;
    cloud.ready().await?;
    let mut rows = Vec::new();
    for source in [Source { name: "dense", data_mib: mib }, Source { name: "sparse", data_mib: mib / 8 }] {
        let (mut imported, mut copied) = <(Samples, Samples)>::default();
        for run in 0..effort.runs(5, 3) {
            let file = cloud.data().join("source.raw");
            write(&file, &source, mib, run)?;
            let name = format!("{}-{run}", source.name);
            let begin = Instant::now();
            guests::upload(&cloud, &name, ImageKind::Disk, ImageFormat::Raw, &file).await?;
            imported.push(speed(mib, begin.elapsed()));
            cloud.client.nouns("images").delete(&name).await?;
            copied.push(speed(mib, copy(&file, &cloud.data().join("copy.raw"))?));
            std::fs::remove_file(file)?;
        }
        let what = format!("image import, raw, {mib} MiB of which {} MiB are data", source.data_mib);
        let peer = imported.ratio(&copied, "the speed of cp --sparse=never; sync", "MiB/s");
        rows.push(Row::new(what, "", imported.spread("MiB/s")).against(peer));
    }
    Ok(rows)
}

pub(crate) fn speed(mib: usize, took: Duration) -> f64 {
    mib as f64 / took.as_secs_f64()
}

/// Other bytes in every run, since images are kept by content. Not to be compressed: xorshift64 (Marsaglia, 2003).
fn write(path: &Path, source: &Source, mib: usize, run: usize) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ run as u64;
    let mut block = vec![0; MIB];
    for _ in 0..source.data_mib {
        for word in block.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        file.write_all(&block)?;
    }
    file.set_len((mib * MIB) as u64)?;
    // A boot signature: what claims to be a bootable disk may be asked to look like one.
    file.write_all_at(&[0x55, 0xaa], 510)?;
    Ok(file.sync_all()?)
}

/// By `cp`, durably; the copy goes again.
pub(crate) fn copy(from: &Path, to: &Path) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let done = Command::new("cp").arg("--sparse=never").args([from, to]).status()?;
    anyhow::ensure!(done.success(), "cp ended with {done}");
    File::open(to)?.sync_all()?;
    let took = begin.elapsed();
    std::fs::remove_file(to)?;
    Ok(took)
}
