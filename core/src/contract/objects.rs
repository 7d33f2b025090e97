use bytes::Bytes;

use crate::ports::{Objects, PortError};

const PNG: &str = "image/png";

/// [`Objects`]: bytes by key, whole or not at all.
pub async fn objects<O: Objects>(objects: &O) {
    keeps_bytes(objects).await;
    refuses_keys_that_are_none(objects).await;
    keeps_one_of_many_whole(objects).await;
}

async fn put<O: Objects>(objects: &O, key: &str, bytes: impl Into<Bytes>) {
    objects.put(key, PNG, bytes.into()).await.unwrap_or_else(|e| panic!("put of {key:?}: {e:?}"));
}

async fn get<O: Objects>(objects: &O, key: &str) -> Option<Bytes> {
    objects.get(key).await.unwrap_or_else(|e| panic!("get of {key:?}: {e:?}"))
}

async fn keeps_bytes<O: Objects>(objects: &O) {
    let large: Bytes = (0..1_048_576_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let cases: [(&str, Bytes); 6] = [
        ("chart.png", Bytes::from_static(b"\x89PNG\r\n\x1a\n\0")),
        ("contract/2026/01/15/chart.png", Bytes::from_static(b"below")),
        ("contract/주조기%203~금형~20260115T074506Z~258.svg", Bytes::from_static("차트".as_bytes())),
        ("contract/with space, = & +.png", Bytes::from_static(b"odd")),
        ("contract/empty", Bytes::new()),
        ("contract/large", large),
    ];
    assert_eq!(get(objects, "contract/missing.png").await, None, "what was never stored is not there");
    assert_eq!(get(objects, "contract").await, None, "the beginning of a key is no object");
    for (key, bytes) in &cases {
        put(objects, key, bytes.clone()).await;
    }
    for (key, bytes) in &cases {
        let kept = get(objects, key).await;
        assert!(kept.as_ref() == Some(bytes), "{} bytes of {key:?} must survive", bytes.len());
    }
    assert_eq!(get(objects, "contract/2026/01").await, None, "the beginning of a key is no object");
    put(objects, "chart.png", "another, longer than the first one was").await;
    put(objects, "chart.png", "shorter").await;
    assert_eq!(
        get(objects, "chart.png").await,
        Some("shorter".into()),
        "the same key again replaces the bytes"
    );
}

async fn refuses_keys_that_are_none<O: Objects>(objects: &O) {
    let long = "k".repeat(1025);
    let keys = [
        "",
        "/",
        "/absolute",
        "..",
        "../outside",
        "a/../b",
        "a/..",
        "a/./b",
        ".",
        "a//b",
        "a/",
        "nul\0",
        "line\nbreak",
        &long,
    ];
    for key in keys {
        match objects.put(key, PNG, Bytes::from_static(b"x")).await {
            Err(PortError::Refused { .. }) => {}
            other => panic!("put to the key {key:?} must be refused, not {other:?}"),
        }
        match objects.get(key).await {
            Err(PortError::Refused { .. }) => {}
            other => panic!("get of the key {key:?} must be refused, not {other:?}"),
        }
    }
}

async fn keeps_one_of_many_whole<O: Objects>(objects: &O) {
    let key = "contract/race/one.png";
    let value = |n: u8| Bytes::from(vec![n; 200_000 + 1000 * usize::from(n)]);
    let (whole, write) =
        (|bytes: &Bytes| bytes.first().is_some_and(|n| *bytes == value(*n)), |n| put(objects, key, value(n)));
    write(0).await;
    for _ in 0..5 {
        let read = async {
            for _ in 0..10 {
                let seen = get(objects, key).await.expect("a key that is replaced is always there");
                assert!(whole(&seen), "a reader sees one whole value, not {} bytes of several", seen.len());
            }
        };
        tokio::join!(write(1), write(2), write(3), write(4), read);
    }
    let last = get(objects, key).await.expect("the key");
    assert!(whole(&last) && last[0] > 0, "one whole value is left, not {} bytes of several", last.len());
}
