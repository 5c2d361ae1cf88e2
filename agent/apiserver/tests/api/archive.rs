//! Uploads of image archives.

use axum::body::Body;
use futures::stream;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::Cluster;

fn name_of(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256-{hex}")
}

fn path(name: &str) -> String {
    format!("/apis/minidc.dev/v1/images/{name}")
}

fn files(cluster: &Cluster) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.directory.path().join("images")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn archive_is_kept_and_its_object_made() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let bytes = vec![7_u8; 5 << 20];
    let name = name_of(&bytes);
    let pieces = bytes
        .chunks(100_000)
        .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
        .collect::<Vec<_>>();
    let body = Body::from_stream(stream::iter(pieces));
    let upload = format!("{}/archive?references=demo:1,demo:latest", path(&name));
    let created = admin
        .request("PUT", &upload, "application/x-tar", body)
        .await
        .expect(201);
    assert_eq!(created["spec"]["size"], 5 << 20);
    assert_eq!(created["spec"]["references"], json!(["demo:1", "demo:latest"]));
    assert_eq!(std::fs::read(cluster.server.image_archive(&name)).unwrap(), bytes);
    let more = format!("{}/archive?references=demo:2", path(&name));
    let again = admin
        .request("PUT", &more, "application/x-tar", bytes)
        .await
        .expect(200);
    assert_eq!(again["spec"]["references"], json!(["demo:1", "demo:2", "demo:latest"]));
    assert_eq!(files(&cluster).len(), 1);
    admin.delete(&path(&name)).await.expect(200);
    let removed = async {
        while !files(&cluster).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::LIMIT, removed)
        .await
        .expect("the archive goes with its object");
}

#[tokio::test]
async fn archive_that_is_not_what_its_name_says_is_refused_and_leaves_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let name = name_of(b"expected");
    let refused = admin
        .request(
            "PUT",
            &format!("{}/archive", path(&name)),
            "application/x-tar",
            "something else",
        )
        .await;
    assert!(
        refused
            .message()
            .contains("the image archive is not what its name says"),
        "{}",
        refused.message()
    );
    refused.expect(400);
    let broken = stream::iter([Ok("some".to_owned()), Err(std::io::Error::other("cut"))]);
    let body = Body::from_stream(broken);
    admin
        .request("PUT", &format!("{}/archive", path(&name)), "application/x-tar", body)
        .await
        .expect(400);
    assert_eq!(files(&cluster), Vec::<String>::new());
    admin.get(&path(&name)).await.expect(404);
    admin
        .request("PUT", &format!("{}/archive", path("latest")), "application/x-tar", "x")
        .await
        .expect(400);
}

#[tokio::test]
async fn archive_larger_than_the_disk_is_refused_before_it_is_sent() {
    let cluster = Cluster::start().await;
    let name = name_of(b"x");
    let request = http::Request::put(format!("{}/archive", path(&name)))
        .header("content-length", u64::MAX.to_string())
        .body(Body::from("x"))
        .unwrap();
    let refused = cluster.admin().send(request).await;
    assert!(
        refused.message().starts_with("not enough space for the image archive"),
        "{}",
        refused.message()
    );
    refused.expect(507);
    assert_eq!(files(&cluster), Vec::<String>::new());
}

#[tokio::test]
async fn uploads_that_a_power_cut_ended_are_cleaned_up() {
    let cluster = Cluster::start().await;
    std::fs::write(cluster.directory.path().join("images/.upload-x"), "half").unwrap();
    std::fs::write(cluster.directory.path().join("images/sha256-kept.tar"), "whole").unwrap();
    cluster.server.bootstrap().await.unwrap();
    assert_eq!(files(&cluster), ["sha256-kept.tar"]);
}
