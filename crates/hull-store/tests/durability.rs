//! Nothing acknowledged is lost, nothing half done is seen: under `kill -9`, under a power cut, on a full disk.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use hull_store::{
    Entry, Outcome, Revision, Store, StoreError, Txn,
    embedded::{EmbeddedStore, Options},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Tells the re-executed test binary where to write.
const CHILD_DIR: &str = "HULL_STORE_CHILD_DIR";
const WRITERS: usize = 8;

fn open(dir: &Path) -> Result<Arc<EmbeddedStore>, StoreError> {
    EmbeddedStore::open(dir, Options { backup_every: None, keep_revisions: 500, ..Options::default() })
}

async fn all(store: &dyn Store) -> Vec<Entry> {
    store.list("", None, usize::MAX).await.unwrap().entries
}

/// This test binary again, running only the test `name`, which is ignored otherwise.
fn this_binary(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", name, "--nocapture"]).env(CHILD_DIR, dir);
    command
}

fn child_dir() -> PathBuf {
    std::env::var_os(CHILD_DIR).expect("this runs as the child of another test").into()
}

mod killed {
    use super::*;

    /// Writers commit as fast as they can, and say so: `<writer> <turn> <revision>`. Each commit of turn `n` puts
    /// `w<writer>/<n>`, its twin, and the writer's counter, and deletes the pair before the last.
    #[tokio::test]
    #[ignore = "the child of kill_9_loses_nothing_acknowledged"]
    async fn child() {
        let store = open(&child_dir()).unwrap();
        let writers = (0..WRITERS).map(|w| tokio::spawn(write_for_ever(Arc::clone(&store), w)));
        futures::future::join_all(writers).await;
    }

    async fn write_for_ever(store: Arc<EmbeddedStore>, writer: usize) {
        let turns = store.get(&format!("counter/{writer}")).await.unwrap();
        let first = turns.map_or(0, |e| number(&e) + 1);
        for turn in first.. {
            let mut txn = Txn::new().put(format!("counter/{writer}"), turn.to_string());
            for twin in ["left", "right"] {
                txn = txn.put(format!("w{writer}/{turn}/{twin}"), vec![b'x'; 500]);
                if let Some(old) = turn.checked_sub(2) {
                    txn = txn.delete(format!("w{writer}/{old}/{twin}"));
                }
            }
            let Outcome::Committed(revision) = store.txn(txn).await.unwrap() else { unreachable!("no condition") };
            // One write a line, so that the parent reads whole lines up to the last.
            std::io::stdout().write_all(format!("{writer} {turn} {}\n", revision.0).as_bytes()).unwrap();
        }
    }

    fn number(entry: &Entry) -> u64 {
        std::str::from_utf8(&entry.value).unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn kill_9_loses_nothing_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let mut random = StdRng::seed_from_u64(20);
        let mut newest = Revision(0);
        for round in 0..20 {
            let child = this_binary("killed::child", dir.path()).stdout(Stdio::piped()).spawn().unwrap();
            let acknowledged = run_and_kill(child, random.random_range(1..150));
            let store = open(dir.path()).unwrap();
            let revision = store.revision().await.unwrap();
            assert!(revision >= newest, "round {round}: history went back");
            for (writer, (turn, acked)) in acknowledged {
                assert!(revision.0 >= acked, "round {round}: revision {acked} was acknowledged");
                let counter = store.get(&format!("counter/{writer}")).await.unwrap().unwrap();
                assert!(number(&counter) >= turn, "round {round}: writer {writer}'s turn {turn} was acknowledged");
            }
            for writer in 0..WRITERS {
                check_whole(&*store, writer).await;
            }
            newest = revision;
        }
        assert!(newest.0 > 500, "the children did something: {newest:?}");
    }

    /// Reads `lines` acknowledgements, kills the child wherever it is by then, and reads what it still managed to say.
    /// The last turn and revision acknowledged to each writer.
    fn run_and_kill(mut child: Child, lines: usize) -> HashMap<usize, (u64, u64)> {
        let mut acknowledged = HashMap::new();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let parse = |line: String| -> Option<(usize, (u64, u64))> {
            let mut words = line.split(' ').map(str::parse::<u64>);
            let mut next = || words.next()?.ok();
            Some((usize::try_from(next()?).ok()?, (next()?, next()?)))
        };
        // The test harness speaks on the same pipe.
        acknowledged.extend(output.by_ref().filter_map(parse).take(lines));
        assert!(!acknowledged.is_empty(), "the child commits");
        child.kill().unwrap();
        acknowledged.extend(output.filter_map(parse));
        child.wait().unwrap();
        acknowledged
    }

    /// A writer's keys are those of whole transactions, to the last one.
    async fn check_whole(store: &dyn Store, writer: usize) {
        let Some(counter) = store.get(&format!("counter/{writer}")).await.unwrap() else { return };
        let turn = number(&counter);
        let found = store.list(&format!("w{writer}/"), None, usize::MAX).await.unwrap().entries;
        let mut expected: Vec<String> = (turn.saturating_sub(1)..=turn)
            .flat_map(|turn| ["left", "right"].map(|twin| format!("w{writer}/{turn}/{twin}")))
            .collect();
        expected.sort();
        assert_eq!(found.iter().map(|e| e.key.to_string()).collect::<Vec<_>>(), expected);
        let last = found.iter().filter(|e| e.key.starts_with(&format!("w{writer}/{turn}/")));
        assert!(last.into_iter().all(|e| e.modified == counter.modified), "one transaction, one revision");
    }
}

mod power_cut {
    use super::*;

    /// A store's files as a power cut would leave them, and every state the store went through.
    struct Recording {
        dir: tempfile::TempDir,
        /// The entries at each revision.
        states: HashMap<Revision, Vec<Entry>>,
        newest: Revision,
    }

    async fn record() -> Recording {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let mut states = HashMap::from([(Revision(0), Vec::new())]);
        let mut newest = Revision(0);
        for i in 0..40_usize {
            let mut txn = Txn::new().put(format!("k/{}", i % 7), vec![i as u8; 1 + i * 97]).put("twin", i.to_string());
            if i % 3 == 2 {
                txn = txn.delete(format!("k/{}", (i + 3) % 7));
            }
            let Outcome::Committed(revision) = store.txn(txn).await.unwrap() else { unreachable!("no condition") };
            states.insert(revision, all(&*store).await);
            newest = revision;
        }
        let copy = tempfile::tempdir().unwrap();
        for name in ["hull.db", "hull.db-wal"] {
            fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
        }
        Recording { dir: copy, states, newest }
    }

    impl Recording {
        fn wal(&self) -> Vec<u8> {
            fs::read(self.dir.path().join("hull.db-wal")).unwrap()
        }

        /// Opens the store with this log in place of the recorded one. It must be in a state that it was in.
        async fn reopen_with(&self, wal: &[u8], how: &str) -> Revision {
            let dir = tempfile::tempdir().unwrap();
            fs::copy(self.dir.path().join("hull.db"), dir.path().join("hull.db")).unwrap();
            fs::write(dir.path().join("hull.db-wal"), wal).unwrap();
            let store = open(dir.path()).unwrap_or_else(|e| panic!("{how}: {e}"));
            let revision = store.revision().await.unwrap();
            assert_eq!(&all(&*store).await, &self.states[&revision], "{how}: not the state at {revision:?}");
            let next = store.txn(Txn::new().put("next", "v")).await.unwrap();
            assert_eq!(next, Outcome::Committed(Revision(revision.0 + 1)), "{how}: it goes on from there");
            revision
        }
    }

    #[tokio::test]
    async fn a_log_cut_anywhere_leaves_a_prefix_of_history() {
        let recording = record().await;
        let wal = recording.wal();
        let mut random = StdRng::seed_from_u64(7);
        let mut cuts: Vec<usize> = (0..80).map(|_| random.random_range(0..wal.len())).collect();
        cuts.extend([0, 1, 31, 32, 33, wal.len() - 1]);
        cuts.sort_unstable();
        let mut reached = Revision(0);
        for cut in cuts {
            let revision = recording.reopen_with(&wal[..cut], &format!("cut at {cut}")).await;
            assert!(revision >= reached, "a longer log holds no less");
            reached = revision;
        }
        assert!(reached > Revision(20), "cuts late in the log lose little");
        assert_eq!(recording.reopen_with(&wal, "whole").await, recording.newest);
    }

    #[tokio::test]
    async fn a_log_torn_or_zeroed_anywhere_leaves_a_prefix_of_history() {
        let recording = record().await;
        let wal = recording.wal();
        let mut random = StdRng::seed_from_u64(8);
        for _ in 0..40 {
            let at = random.random_range(0..wal.len());
            let mut zeroed = wal.clone();
            zeroed[at..].fill(0);
            recording.reopen_with(&zeroed, &format!("zeros from {at}")).await;
            let mut torn = wal.clone();
            let end = wal.len().min(at + 512);
            torn[at..end].fill(0xa5);
            let revision = recording.reopen_with(&torn, &format!("sector at {at}")).await;
            assert!(revision < recording.newest, "the torn commit does not count");
        }
    }

    /// As when the power goes while the log is copied into the database and makes it longer.
    #[tokio::test]
    async fn a_database_cut_while_its_log_is_whole_is_mended() {
        let recording = record().await;
        let (dir, wal) = (tempfile::tempdir().unwrap(), recording.wal());
        for name in ["hull.db", "hull.db-wal"] {
            fs::copy(recording.dir.path().join(name), dir.path().join(name)).unwrap();
        }
        // Closing copies the log into the database.
        drop(open(dir.path()).unwrap());
        let longer = fs::read(dir.path().join("hull.db")).unwrap();
        let before = fs::read(recording.dir.path().join("hull.db")).unwrap();
        assert!(longer.len() > before.len() + 4096);
        for cut in [before.len() + 1, before.len() + 4096, longer.len() - 4097, longer.len() - 1] {
            fs::write(recording.dir.path().join("hull.db"), &longer[..cut]).unwrap();
            let revision = recording.reopen_with(&wal, &format!("database cut at {cut}")).await;
            assert_eq!(revision, recording.newest);
        }
    }

    #[tokio::test]
    async fn a_database_cut_anywhere_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        for i in 0..50 {
            store.txn(Txn::new().put(format!("k/{i}"), vec![1; 2000])).await.unwrap();
        }
        drop(store);
        let path = dir.path().join("hull.db");
        assert!(!dir.path().join("hull.db-wal").exists(), "all is in the database");
        let whole = fs::read(&path).unwrap();
        let mut random = StdRng::seed_from_u64(9);
        let cuts = (0..40).map(|_| random.random_range(0..whole.len())).chain([0, 1, 100, 4096, whole.len() - 1]);
        for cut in cuts {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = open(dir.path()).err().unwrap_or_else(|| panic!("cut at {cut} is not noticed"));
            assert!(matches!(error, StoreError::Corrupt { .. }), "cut at {cut}: {error}");
        }
    }
}

mod full_disk {
    use super::*;

    /// Runs in a mount namespace of its own, with a tiny disk at the directory.
    #[tokio::test]
    #[ignore = "the child of a_full_disk_refuses_and_recovers"]
    async fn child() {
        let dir = child_dir();
        let store = open(&dir).unwrap();
        let ballast = dir.join("ballast");
        fill(&ballast);
        let mut kept: Vec<String> = Vec::new();
        let error = loop {
            let key = format!("k/{}", kept.len());
            match store.txn(Txn::new().put(key.as_str(), vec![7; 20_000])).await {
                Ok(_) => kept.push(key),
                Err(e) => break e,
            }
        };
        assert!(matches!(error, StoreError::Full(_)), "{error}");
        let found = |entries: Vec<Entry>| entries.into_iter().map(|e| e.key.to_string()).collect::<Vec<_>>();
        kept.sort();
        assert_eq!(found(all(&*store).await), kept, "reads go on");

        fs::remove_file(&ballast).unwrap();
        store.txn(Txn::new().put("with/room", vec![7; 20_000])).await.unwrap();
        kept.push("with/room".to_owned());
        drop(store);
        assert_eq!(found(all(&*open(&dir).unwrap()).await), kept);
        println!("recovered");
    }

    /// Takes all but a little of the room.
    fn fill(ballast: &Path) {
        let mut file = OpenOptions::new().create(true).append(true).open(ballast).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length - 200_000).unwrap();
    }

    #[test]
    fn a_full_disk_refuses_and_recovers() {
        let dir = tempfile::tempdir().unwrap();
        let child = this_binary("full_disk::child", dir.path());
        // A mount namespace goes with its process. Without root it needs a user namespace around it.
        let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
        let script = r#"mount -t tmpfs -o size=4m tmpfs "$1" && shift && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(user).args(["--mount", "sh", "-c", script, "sh"]).arg(dir.path());
        command.arg(child.get_program()).args(child.get_args()).env(CHILD_DIR, dir.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("recovered"), "the child ran: {said}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the tiny disk was the child's alone");
    }
}
