//! A site's blobs on their way from one real S3 endpoint to another: copied, interrupted, verified,
//! compared, mended.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Mutex,
    time::{Duration, Instant},
};

use control_types::SiteId;
use provisioner::site_storage::{CopyError, CopyProgress, CopySettings, MissingBlob, SitePrefix};
use tokio::sync::Notify;

mod parts {
    #[allow(dead_code, reason = "each test file uses its own part of it")]
    pub mod object_store;
    pub mod two_stores;
}
use parts::two_stores::{BIG, ONE_BY_ONE, Store, big, for_a_task, key, sha256, two_stores};

#[tokio::test]
async fn a_prefix_is_copied_once_and_later_only_what_came_meanwhile() {
    let (source, target, prefix) = two_stores().await;
    let neighbour = SitePrefix::of(SiteId::generate());
    // More than a page on both sides, of which the target has every third.
    let mut bytes = 0;
    for n in 0..1100_u32 {
        let content = format!("content {n}");
        bytes += content.len() as u64;
        source.put_blob(&prefix, content.as_bytes()).await;
        if n % 3 == 0 {
            target.put_blob(&prefix, content.as_bytes()).await;
        }
    }
    let empty = source.put_blob(&prefix, b"").await;
    let movie = source.put_blob(&prefix, &big(0)).await;
    // Not the site's, not a blob, and what the target has besides.
    let foreign = source.put_blob(&neighbour, b"foreign").await;
    source.put(&format!("{prefix}x/blob/{}", hex::encode(foreign)), b"foreign").await;
    source.put(&format!("{prefix}/incoming/part"), b"under way").await;
    source.put(&format!("{prefix}/blob/readme.txt"), b"not a hash").await;
    let only_there = target.put_blob(&prefix, b"only at the target").await;

    let seen = Mutex::new(Vec::<CopyProgress>::new());
    let progress = |progress| seen.lock().expect("unpoisoned").push(progress);
    let copied = source.copy(&prefix, &target, CopySettings::default(), &progress);
    let copied = copied.await.expect("copies");
    assert_eq!((copied.objects, copied.present, copied.vanished), (733 + 2, 367, 0));
    assert_eq!((copied.strange.count, copied.strange.first.len()), (1, 1));
    assert!(copied.strange.to_string().ends_with("/blob/readme.txt"));
    let last = *seen.lock().expect("unpoisoned").last().expect("told");
    assert_eq!((last.objects_done, last.objects_total), (copied.objects, copied.objects));
    assert_eq!((last.bytes_done, last.bytes_total), (copied.bytes, copied.bytes));
    let seen = seen.into_inner().expect("unpoisoned");
    assert!(
        seen.iter()
            .all(|at| at.objects_done <= at.objects_total && at.bytes_done <= at.bytes_total)
    );

    let mut sizes = target.sizes(&prefix).await;
    assert_eq!(sizes.remove(&only_there), Some(18));
    assert_eq!(sizes, source.sizes(&prefix).await);
    assert_eq!((sizes[&empty], sizes[&movie]), (0, BIG as u64));
    assert_eq!(sizes.values().sum::<u64>(), bytes + BIG as u64);
    assert!(target.verified(&prefix).await.wrong.first.is_empty());
    let strangers = ["incoming/part", "blob/readme.txt"].map(|name| format!("{prefix}/{name}"));
    for stranger in strangers.iter().chain([&key(&neighbour, &foreign)]) {
        assert!(source.has(stranger) && !target.has(stranger), "{stranger}");
    }
    assert!(!target.has(&format!("{prefix}x")));
    assert_eq!(target.endpoint.unfinished_uploads(), [""; 0]);

    // Nothing is sent again; what came meanwhile is.
    let mut requests = target.endpoint.requests();
    let again = source.copied(&prefix, &target).await;
    assert_eq!((again.objects, again.bytes, again.present), (0, 0, 1102));
    while let Ok(request) = requests.try_recv() {
        assert!(request.starts_with("GET "), "{request}");
    }
    let late = source.put_blob(&prefix, b"came meanwhile").await;
    let third = source.copied(&prefix, &target).await;
    assert_eq!((third.objects, third.bytes, third.present), (1, 14, 1102));
    assert!(target.has(&key(&prefix, &late)));
}

#[tokio::test]
async fn type_and_metadata_go_along_and_ranges_can_be_read() {
    let (source, target, prefix) = two_stores().await;
    let contents = [b"<svg/>".to_vec(), big(1)];
    for content in &contents {
        let key = key(&prefix, &sha256(content));
        let put = if content.len() < BIG {
            let put =
                source.bucket.put_object_builder(&key, content).with_content_type("image/svg+xml");
            let put = put.with_metadata("origin", "course 7").expect("a header");
            put.with_cache_control("private").expect("a header").execute().await.map(drop)
        } else {
            let mut bucket = source.bucket.clone();
            bucket.add_header("x-amz-meta-origin", "course 7");
            bucket.add_header("cache-control", "private");
            let put = bucket.put_object_with_content_type(&key, content, "image/svg+xml").await;
            put.map(drop)
        };
        put.expect("puts");
    }
    assert_eq!(source.copied(&prefix, &target).await.objects, 2);
    for content in &contents {
        let key = key(&prefix, &sha256(content));
        let (head, _) = target.bucket.head_object(&key).await.expect("is there");
        assert_eq!(head.content_type.as_deref(), Some("image/svg+xml"));
        assert_eq!(head.cache_control.as_deref(), Some("private"));
        assert_eq!(head.metadata.expect("some")["origin"], "course 7");
        let middle = content.len() / 2;
        let range = target.bucket.get_object_range(&key, middle as u64, Some(middle as u64 + 2));
        assert_eq!(range.await.expect("reads").as_slice(), &content[middle..=middle + 2]);
    }
}

#[tokio::test]
async fn what_is_wrong_at_the_target_is_found_and_mended() {
    let (source, target, prefix) = two_stores().await;
    let kept = source.put_blob(&prefix, b"kept").await;
    let cut = source.put_blob(&prefix, b"will be cut").await;
    let changed = source.put_blob(&prefix, b"will be changed").await;
    let movie = source.put_blob(&prefix, &big(2)).await;
    source.copied(&prefix, &target).await;
    let right = source.verified(&prefix).await;
    assert_eq!((right.objects, right.vanished, right.wrong.count), (4, 0, 0));
    assert_eq!(target.verified(&prefix).await, right, "both have the same");

    target.put(&key(&prefix, &cut), b"will").await;
    target.put(&key(&prefix, &changed), b"was changed now").await;
    let mut bytes = big(2);
    bytes[BIG - 1] ^= 1;
    target.put(&key(&prefix, &movie), &bytes).await;
    let found = target.verified(&prefix).await;
    assert_eq!((found.objects, found.wrong.count), (4, 3));
    assert_ne!(found.digest, right.digest, "a size differs");
    let mut wrong = found.wrong.first;
    wrong.sort();
    let mut expected = [cut, changed, movie].map(|sha256| key(&prefix, &sha256));
    expected.sort();
    assert_eq!(wrong, expected);

    // A size is seen by a copy, bytes are not.
    let copied = source.copied(&prefix, &target).await;
    assert_eq!((copied.objects, copied.present), (1, 3));
    let found = target.verified(&prefix).await;
    assert_eq!((found.digest, found.wrong.count), (right.digest, 2));
    let absent = sha256(b"nowhere");
    let named = [changed, movie, absent];
    let seen = Mutex::new(CopyProgress::default());
    let progress = |progress| *seen.lock().expect("unpoisoned") = progress;
    let (from, to) = (source.storage(), target.storage());
    let settings = CopySettings::default();
    let mended = from.recopy_blobs(&prefix, &to, &named, &settings, &progress);
    let mended = mended.await.expect("copies");
    assert_eq!((mended.objects, mended.vanished), (2, 1));
    let seen = seen.into_inner().expect("unpoisoned");
    assert_eq!((seen.objects_done, seen.objects_total, seen.bytes_done), (2, 2, seen.bytes_total));
    assert_eq!(target.verified(&prefix).await, right);
    assert!(target.has(&key(&prefix, &kept)) && !target.has(&key(&prefix, &absent)));
}

#[tokio::test]
async fn a_corrupt_source_is_named_and_everything_else_is_copied() {
    let (source, target, prefix) = two_stores().await;
    let good = source.put_blob(&prefix, b"good").await;
    let (small, movie) = (sha256(b"right"), sha256(&big(3)));
    source.put(&key(&prefix, &small), b"wrong").await;
    let mut bytes = big(3);
    bytes[9_000_000] ^= 1;
    source.put(&key(&prefix, &movie), &bytes).await;
    // What the target has of another length is better than what would be copied.
    target.put(&key(&prefix, &small), b"right, perhaps").await;

    let copied = source.copy(&prefix, &target, CopySettings::default(), &|_| ());
    let error = copied.await.expect_err("refuses");
    assert!(!error.is_retryable());
    assert_eq!(error.component(), "object store jakarta-files");
    let CopyError::Corrupt { objects, .. } = &error else { panic!("{error}") };
    assert_eq!(objects.count, 2);
    for part in ["jakarta-files", "source is corrupt", &key(&prefix, &small), &key(&prefix, &movie)]
    {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(target.has(&key(&prefix, &good)) && !target.has(&key(&prefix, &movie)));
    assert_eq!(target.sizes(&prefix).await[&small], 14);
    assert_eq!(target.endpoint.unfinished_uploads(), [""; 0]);

    source.put(&key(&prefix, &small), b"right").await;
    source.put(&key(&prefix, &movie), &big(3)).await;
    assert_eq!(source.copied(&prefix, &target).await.objects, 2);
    assert_eq!(target.verified(&prefix).await, source.verified(&prefix).await);
}

/// Blobs of which the big one is the last, and the bytes that are read before its second part.
async fn small_and_then_big(source: &Store, prefix: &SitePrefix) -> ([u8; 32], u64) {
    // The name that comes last is known when the content is.
    let (last, content) = (0..=255)
        .map(|seed| (sha256(&big(seed)), seed))
        .find(|(sha256, _)| sha256[0] >= 0xe0)
        .expect("one of some");
    let mut before = 0;
    for n in 0..40 {
        let small = format!("small {n}");
        if sha256(small.as_bytes()) < last {
            source.put_blob(prefix, small.as_bytes()).await;
            before += small.len() as u64;
        }
    }
    source.put_blob(prefix, &big(content)).await;
    (last, before)
}

#[tokio::test]
async fn a_copy_that_is_dropped_leaves_nothing_half_and_goes_on_later() {
    let (source, target, prefix) = two_stores().await;
    let (movie, before) = small_and_then_big(&source, &prefix).await;
    let in_the_middle = Notify::new();
    let progress = |progress: CopyProgress| {
        // The second part of three was read, and the first one is at the target.
        if progress.bytes_done > before + 10_000_000 {
            in_the_middle.notify_one();
        }
    };
    let mut requests = target.endpoint.requests();
    {
        let copy = source.copy(&prefix, &target, ONE_BY_ONE, &progress);
        tokio::select! {
            biased;
            () = in_the_middle.notified() => {}
            outcome = copy => panic!("ended: {outcome:?}"),
        }
    }
    // Nobody waits for the copy any more, and still its upload is ended.
    loop {
        let request = requests.recv().await.expect("the endpoint runs");
        if request.starts_with("DELETE ") && request.contains("uploadId=") {
            assert!(request.ends_with(" 204"), "{request}");
            break;
        }
    }
    assert_eq!(target.endpoint.unfinished_uploads(), [""; 0]);
    assert!(!target.has(&key(&prefix, &movie)));
    let whole = target.verified(&prefix).await;
    assert_eq!((whole.wrong.count, whole.bytes), (0, before));
    let resumed = source.copied(&prefix, &target).await;
    assert_eq!((resumed.objects, resumed.present), (1, whole.objects));
    assert_eq!(target.verified(&prefix).await, source.verified(&prefix).await);
    assert_eq!(target.endpoint.unfinished_uploads(), [""; 0]);
}

#[tokio::test]
async fn a_target_that_dies_in_the_middle_has_nothing_half_and_is_filled_later() {
    let (source, mut target, prefix) = two_stores().await;
    let (movie, before) = small_and_then_big(&source, &prefix).await;
    let in_the_middle = Notify::new();
    let progress = |progress: CopyProgress| {
        if progress.bytes_done > before + 10_000_000 {
            in_the_middle.notify_one();
        }
    };
    let (from, to) = (source.storage(), target.storage());
    let mut copy = pin!(from.copy_prefix(&prefix, &to, &ONE_BY_ONE, &progress));
    tokio::select! {
        biased;
        () = in_the_middle.notified() => target.endpoint.stop(),
        outcome = &mut copy => panic!("ended: {outcome:?}"),
    }
    let error = copy.await.expect_err("the target is down");
    assert!(error.is_retryable(), "{error}");
    assert_eq!(error.component(), "object store singapore-files");
    assert!(error.to_string().contains(&key(&prefix, &movie)), "{error}");

    target.endpoint.restart().await;
    assert!(!target.has(&key(&prefix, &movie)));
    let whole = target.verified(&prefix).await;
    assert_eq!((whole.wrong.count, whole.bytes), (0, before));
    let resumed = source.copied(&prefix, &target).await;
    assert_eq!((resumed.objects, resumed.present), (1, whole.objects));
    assert_eq!(target.verified(&prefix).await, source.verified(&prefix).await);
}

#[tokio::test]
async fn what_is_swept_between_the_listing_and_the_reading_is_counted() {
    let (source, target, prefix) = two_stores().await;
    let (movie, before) = small_and_then_big(&source, &prefix).await;
    let blobs = source.sizes(&prefix).await;
    let first = *blobs.keys().next().expect("some");
    let seen = Mutex::new(CopyProgress::default());
    let progress = |now: CopyProgress| {
        *seen.lock().expect("unpoisoned") = now;
        // Listed and not read yet; and read in part.
        if now.objects_total == 1 && now.objects_done == 0 {
            let _ = std::fs::remove_file(source.endpoint.file(&key(&prefix, &first)));
        }
        if now.bytes_done > before {
            let _ = std::fs::remove_file(source.endpoint.file(&key(&prefix, &movie)));
        }
    };
    let copied = source.copy(&prefix, &target, ONE_BY_ONE, &progress);
    let copied = copied.await.expect("copies the others");
    assert_eq!((copied.objects, copied.vanished), (blobs.len() as u64 - 2, 2));
    let seen = seen.into_inner().expect("unpoisoned");
    assert_eq!((seen.objects_done, seen.objects_total), (copied.objects, copied.objects));
    assert_eq!((seen.bytes_done, seen.bytes_total), (copied.bytes, copied.bytes));
    assert_eq!(target.verified(&prefix).await, source.verified(&prefix).await);
    assert_eq!(target.endpoint.unfinished_uploads(), [""; 0]);
}

#[tokio::test]
async fn a_store_is_compared_with_the_rows_of_a_database() {
    let (source, _, prefix) = two_stores().await;
    let mut rows = BTreeMap::new();
    for n in 0..1005 {
        let content = format!("content {n}");
        rows.insert(source.put_blob(&prefix, content.as_bytes()).await, content.len() as i64);
    }
    source.put(&format!("{prefix}/blob/readme.txt"), b"not a hash").await;
    let missing = async |rows: Vec<([u8; 32], i64)>| {
        for_a_task(source.storage().missing_blobs(&prefix, rows.into_iter())).await
    };
    let all = rows.clone().into_iter().collect::<Vec<_>>();
    assert_eq!(missing(all.clone()).await.expect("compares"), []);
    assert_eq!(missing(Vec::new()).await.expect("more than expected"), []);
    // One that is nowhere, before, among and after the others; one of another size.
    let absent = [[0; 32], sha256(b"nowhere"), [0xff; 32]];
    rows.extend(absent.map(|sha256| (sha256, 7)));
    let other = all[500].0;
    rows.insert(other, 99);
    let found = missing(rows.clone().into_iter().collect()).await.expect("compares");
    let mut expected: Vec<_> = absent
        .map(|sha256| MissingBlob { sha256, expected: 7, found: None })
        .into_iter()
        .chain([MissingBlob { sha256: other, expected: 99, found: Some(all[500].1 as u64) }])
        .collect();
    expected.sort_by_key(|blob| blob.sha256);
    assert_eq!(found, expected);
    assert!(found[0].to_string().ends_with("of 7 bytes is not there"), "{}", found[0]);

    let error = missing(all.into_iter().rev().collect()).await.expect_err("not sorted");
    assert!(matches!(error, CopyError::NotSorted { .. }) && !error.is_retryable(), "{error}");
}

#[tokio::test]
async fn reading_is_throttled() {
    let (source, target, prefix) = two_stores().await;
    for n in 0..8_u8 {
        source.put_blob(&prefix, &[n; 50_000]).await;
    }
    let settings = CopySettings { bytes_per_second: Some(1_000_000), ..CopySettings::default() };
    let begun = Instant::now();
    let copied = source.copy(&prefix, &target, settings, &|_| ());
    assert_eq!(copied.await.expect("copies").bytes, 400_000);
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let begun = Instant::now();
    let verified = target.storage().verify_prefix(&prefix, &settings, &|_| ()).await;
    assert_eq!(verified.expect("verifies").bytes, 400_000);
    assert!(begun.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_store_that_is_down_is_named() {
    let (mut source, mut target, prefix) = two_stores().await;
    source.put_blob(&prefix, b"content").await;
    let (from, to) = (source.storage(), target.storage());
    let settings = CopySettings::default();
    target.endpoint.stop();
    let error = from.copy_prefix(&prefix, &to, &settings, &|_| ()).await.expect_err("down");
    assert!(error.is_retryable(), "{error}");
    assert_eq!(error.component(), "object store singapore-files");
    source.endpoint.stop();
    for error in [
        from.copy_prefix(&prefix, &to, &settings, &|_| ()).await.map(drop).expect_err("down"),
        from.verify_prefix(&prefix, &settings, &|_| ()).await.map(drop).expect_err("down"),
        from.missing_blobs(&prefix, std::iter::empty()).await.map(drop).expect_err("down"),
    ] {
        assert!(error.is_retryable(), "{error}");
    }
}
