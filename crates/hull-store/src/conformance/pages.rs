//! Prefixes and keyset pages.

use super::{Subject, commit};
use crate::{Page, Store, Txn};

fn names(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|e| &*e.key).collect()
}

/// All keys under a prefix, page by page; between pages, `between` runs.
async fn walk(store: &dyn Store, prefix: &str, limit: usize, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for number in 0.. {
        let page = store.list(prefix, all.last().map(String::as_str), limit).await.unwrap();
        all.extend(page.entries.iter().map(|e| e.key.to_string()));
        if !page.more {
            break;
        }
        assert_eq!(page.entries.len(), limit, "a page with more after it is full");
        between(number).await;
    }
    all
}

pub(super) async fn prefixes_are_exact(s: &Subject) {
    for key in ["vm/1", "vm/10", "vm/2", "vm", "vm0", "vn/1", "vm/é", "vm/\u{d7ff}", "vm/\u{10ffff}", "VM/1"] {
        s.commit(Txn::new().put(key, "v")).await;
    }
    let page = s.store.list("vm/", None, 100).await.unwrap();
    assert_eq!(names(&page), ["vm/1", "vm/10", "vm/2", "vm/é", "vm/\u{d7ff}", "vm/\u{10ffff}"], "in bytes' order");
    assert!(!page.more);
    assert_eq!(page.revision, s.store.revision().await.unwrap());
    assert_eq!(names(&s.store.list("vm/1", None, 100).await.unwrap()), ["vm/1", "vm/10"]);
    assert_eq!(names(&s.store.list("vm/\u{10ffff}", None, 100).await.unwrap()), ["vm/\u{10ffff}"]);
    assert_eq!(names(&s.store.list("none/", None, 100).await.unwrap()), [""; 0]);
    assert_eq!(s.store.list("", None, usize::MAX).await.unwrap().entries.len(), 10);
}

pub(super) async fn pages_join_without_gap_or_overlap(s: &Subject) {
    let expected: Vec<String> = (0..25).map(|i| format!("vm/{i:03}")).collect();
    for key in &expected {
        s.commit(Txn::new().put(key.as_str(), "v")).await;
    }
    s.commit(Txn::new().put("vn/after", "v")).await;
    for limit in [1, 5, 7, 24, 25, 26] {
        assert_eq!(walk(&*s.store, "vm/", limit, async |_| ()).await, expected, "in pages of {limit}");
    }
    let page = s.store.list("vm/", Some("vm/022x"), 10).await.unwrap();
    assert_eq!(names(&page), ["vm/023", "vm/024"], "after a key that is not there");
    assert_eq!(s.store.list("vm/", Some("a"), 1).await.unwrap().entries[0].key, "vm/000".into());
    assert_eq!(names(&s.store.list("vm/", Some("vn"), 10).await.unwrap()), [""; 0]);
    let none = s.store.list("vm/", None, 0).await.unwrap();
    assert!(none.entries.is_empty() && none.more);
}

pub(super) async fn pages_stay_whole_while_keys_come_and_go(s: &Subject) {
    let steady: Vec<String> = (0..30).map(|i| format!("vm/{i:03}")).collect();
    for key in &steady {
        s.commit(Txn::new().put(key.as_str(), "v").put(format!("{key}-gone"), "v")).await;
    }
    let found = walk(&*s.store, "vm/", 4, async |number| {
        let gone = format!("vm/{number:03}-gone");
        let come = format!("vm/{:03}-come", 29 - number);
        commit(&*s.store, Txn::new().delete(gone).put(come, "v")).await;
    })
    .await;
    assert!(found.is_sorted_by(|a, b| a < b), "no key comes twice");
    let kept: Vec<&String> = found.iter().filter(|k| !k.contains('-')).collect();
    assert_eq!(kept, steady.iter().collect::<Vec<_>>(), "what was there all the time is found");
}
