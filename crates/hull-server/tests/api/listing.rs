//! Pages and watches.

use std::collections::BTreeSet;

use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cloud::{Client, Cloud, DEADLINE};

async fn flavor(client: &Client, name: &str) -> Value {
    client.post("/v1/flavors", json!({"name": name, "vcpus": 1, "memory": 1 << 28, "disk": 1 << 30})).await.created()
}

#[tokio::test]
async fn pages_show_each_item_once_while_others_are_added_and_removed() {
    let cloud = Cloud::start().await;
    for n in 0..30 {
        flavor(&cloud.client, &format!("old{n}")).await;
    }
    let mut seen = Vec::new();
    let mut path = "/v1/flavors?limit=7".to_owned();
    for round in 0.. {
        let page = cloud.client.get(&path).await.ok();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 7);
        seen.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        if round < 3 {
            flavor(&cloud.client, &format!("new{round}")).await;
            cloud.client.delete(&format!("/v1/flavors/{}", seen[round])).await.gone();
        }
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/flavors?limit=7&after={next}"),
            None => break,
        }
    }
    let unique: BTreeSet<_> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "nothing twice");
    for n in 0..30 {
        assert!(unique.contains(&format!("old{n}")), "old{n} was there all the time");
    }
}

#[tokio::test]
async fn filters_choose() {
    let cloud = Cloud::start().await;
    cloud.image("debian").await;
    let body = json!({"name": "w", "count": 3, "image": "debian", "flavor": "micro"});
    let made = cloud.client.post("/v1/vms", body).await.created();
    let count =
        async |query: &str| cloud.client.get(&format!("/v1/vms?{query}")).await.ok()["items"].as_array().unwrap().len();
    assert_eq!(count("name=w-2").await, 1);
    assert_eq!(count("state=scheduling").await, 3);
    assert_eq!(count("state=running").await, 0);
    assert_eq!(count("image=debian").await, 3);
    assert_eq!(count("all-projects=true&consistent=true").await, 3);
    let id = made["items"][1]["id"].as_str().unwrap();
    assert_eq!(count(&format!("id={id}")).await, 1);
    cloud.client.get("/v1/vms?image=nope").await.refused("not-found");
}

pub(crate) struct Lines {
    stream: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    pending: Vec<u8>,
}

impl Lines {
    pub(crate) async fn open(client: &Client, path: &str) -> Self {
        let response = client.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Self { stream: response.bytes_stream().boxed(), pending: Vec::new() }
    }

    pub(crate) async fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.pending.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let chunk = tokio::time::timeout(DEADLINE, self.stream.next()).await.unwrap();
            self.pending.extend_from_slice(&chunk.expect("the watch goes on").unwrap());
        }
    }
}

#[tokio::test]
async fn a_watch_shows_what_is_then_what_changes() {
    let cloud = Cloud::start().await;
    let mut lines = Lines::open(&cloud.client, "/v1/keypairs?watch=true").await;
    assert_eq!(lines.next().await["type"], "bookmark", "there is none yet");
    let key = json!({"name": "k", "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"});
    let made = cloud.client.post("/v1/keypairs", key).await.created();
    let put = lines.next().await;
    assert_eq!((put["type"].as_str(), &put["object"]), (Some("put"), &made));
    cloud.client.delete("/v1/keypairs/k").await.gone();
    let delete = lines.next().await;
    assert_eq!((delete["type"].as_str(), &delete["id"]), (Some("delete"), &made["id"]));
}

#[tokio::test]
async fn a_watch_ends_when_what_it_shows_is_no_longer_its_callers() {
    let cloud = Cloud::start().await;
    cloud.client.post("/v1/projects", json!({"name": "acme"})).await.created();
    let ann = crate::identity::user(&cloud, "ann", Some("acme"), "member").await;
    let mut lines = Lines::open(&ann, "/v1/keypairs?watch=true").await;
    assert_eq!(lines.next().await["type"], "bookmark", "there is none yet");
    let given = cloud.client.get("/v1/role-assignments?project=acme").await.ok();
    let given = given["items"][0]["id"].as_str().unwrap();
    cloud.client.delete(&format!("/v1/role-assignments/{given}")).await.gone();
    let end = lines.next().await;
    assert!(end["detail"].as_str().unwrap().contains("no longer yours"), "{end}");
    assert!(tokio::time::timeout(DEADLINE, lines.stream.next()).await.unwrap().is_none(), "nothing comes after");
}

#[tokio::test]
async fn a_watch_is_taken_up_where_it_broke_without_gap_or_repeat() {
    let cloud = Cloud::start().await;
    let listed = cloud.client.get("/v1/flavors?limit=1000").await.ok();
    let mut since = listed["revision"].as_u64().unwrap();
    let mut seen = Vec::new();
    let writer = {
        let client = cloud.client.clone();
        tokio::spawn(async move {
            for n in 0..60 {
                flavor(&client, &format!("f{n:02}")).await;
            }
        })
    };
    while seen.len() < 60 {
        // Each watch is dropped after a few lines, as a broken connection would.
        let mut lines = Lines::open(&cloud.client, &format!("/v1/flavors?watch=true&since={since}")).await;
        for _ in 0..7.min(60 - seen.len()) {
            let line = lines.next().await;
            since = line["revision"].as_u64().unwrap();
            if line["type"] == "put" {
                seen.push(line["object"]["name"].as_str().unwrap().to_owned());
            }
        }
    }
    writer.await.unwrap();
    assert_eq!(seen, (0..60).map(|n| format!("f{n:02}")).collect::<Vec<_>>());
}
