//! What every store has to do. `stores` are different objects for one bucket.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use nxt_wasm_runtime::keyvalue::{MAX_KEY, PAGE, Problem, Range, Store};

/// Bytes of the longest value in these tests.
const MOST: usize = 1 << 20;

pub async fn all(stores: &[Arc<Store>]) {
    values(stores).await;
    odd_keys(stores).await;
    numbers(stores).await;
    swaps(stores).await;
    no_increment_is_lost(stores).await;
    no_swap_is_lost(stores).await;
    pages(stores).await;
}

fn first(stores: &[Arc<Store>]) -> &Store {
    stores.first().unwrap()
}

fn last(stores: &[Arc<Store>]) -> &Store {
    stores.last().unwrap()
}

/// All keys, page by page.
async fn list(store: &Store) -> Vec<String> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.list(cursor.as_deref()).await.unwrap();
        keys.extend(page.keys);
        cursor = page.next;
        if cursor.is_none() {
            return keys;
        }
    }
}

async fn list_numbered(store: &Store) -> Vec<String> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.list_numbered(cursor).await.unwrap();
        keys.extend(page.keys);
        cursor = page.next;
        if cursor.is_none() {
            return keys;
        }
    }
}

/// What is written is there at once, through whichever object.
async fn values(stores: &[Arc<Store>]) {
    let (one, other) = (first(stores), last(stores));
    assert_eq!(one.get("k", MOST).await, Ok(None));
    assert_eq!(one.exists("k").await, Ok(false));
    assert_eq!(one.delete("k").await, Ok(()));
    assert_eq!(list(one).await, Vec::<String>::new());

    let binary: Bytes = (0..=255).collect();
    let long = Bytes::from(vec![b'x'; MOST]);
    for value in [Bytes::from_static(b"1"), Bytes::new(), binary, long] {
        one.set("k", value.clone()).await.unwrap();
        for store in stores {
            assert_eq!(store.get("k", MOST).await, Ok(Some(value.clone())));
            assert_eq!(store.exists("k").await, Ok(true));
            // Exactly so long, and no longer.
            let most = value.len();
            assert_eq!(store.get("k", most).await, Ok(Some(value.clone())));
            if let Some(less) = most.checked_sub(1) {
                let refused = store.get("k", less).await;
                assert_eq!(refused, Err(Problem::TooLarge(less)));
            }
        }
        assert_eq!(list(other).await, ["k"]);
    }
    other.delete("k").await.unwrap();
    assert_eq!(one.get("k", MOST).await, Ok(None));
    assert_eq!(one.exists("k").await, Ok(false));
    assert_eq!(list(one).await, Vec::<String>::new());
}

async fn odd_keys(stores: &[Arc<Store>]) {
    let (one, other) = (first(stores), last(stores));
    let mut keys: Vec<String> = [
        "",
        ".",
        "..",
        "...",
        "/",
        "//",
        "a/",
        "/a",
        "a/b",
        "a//b",
        "../x",
        "../../../tmp/x",
        " ",
        "a b",
        "\0",
        "a\0b",
        "\r\n",
        "%",
        "%%",
        "%2F",
        "%2f",
        "+",
        "a+b",
        "key",
        "KEY",
        "Key",
        "ä",
        "a\u{308}",
        "Ä",
        "日本語",
        "\u{202e}",
        "\u{feff}",
        "\\",
        "*",
        "?",
        "[a]",
        "{a}",
        "^",
        "a:b",
        "a=b",
        "a,b",
        "a&b",
        "<a>",
        "\"",
        "'",
        "-rf",
        "~",
        ".unit-wasm",
        ".unit-wasm/tmp",
        ".unit-wasm-probe",
        "con",
        "a.",
        "a ",
    ]
    .map(str::to_owned)
    .into();
    for length in [199, 200, 201, 255, 256, MAX_KEY] {
        keys.push("l".repeat(length));
        keys.push(format!("{}m", "l".repeat(length - 1)));
    }
    keys.push("/".repeat(MAX_KEY));
    keys.push("ä".repeat(MAX_KEY / 2));
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(one.exists(key).await, Ok(false), "{key:?}");
        one.set(key, Bytes::from(n.to_string())).await.unwrap();
    }
    for (n, key) in keys.iter().enumerate() {
        let value = other.get(key, MOST).await;
        assert_eq!(value, Ok(Some(Bytes::from(n.to_string()))), "{key:?}");
        assert_eq!(other.exists(key).await, Ok(true), "{key:?}");
    }
    let expected: BTreeSet<String> = keys.iter().cloned().collect();
    for found in [list(one).await, list_numbered(other).await] {
        assert_eq!(found.len(), keys.len());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }
    // They are numbers all of them, and can be exchanged.
    for (n, key) in keys.iter().enumerate() {
        let sum = one.increment(key, 1, Range::Signed).await;
        assert_eq!(sum, Ok(n as i64 + 1), "{key:?}");
        let seen = other.observe(key, MOST).await.unwrap();
        let swapped = other.replace(key, &seen, Bytes::from_static(b"x")).await;
        assert_eq!(swapped, Ok(true), "{key:?}");
    }
    for key in &keys {
        one.delete(key).await.unwrap();
        assert_eq!(other.exists(key).await, Ok(false), "{key:?}");
    }
    assert_eq!(list(one).await, Vec::<String>::new());
}

async fn numbers(stores: &[Arc<Store>]) {
    let (one, other) = (first(stores), last(stores));
    assert_eq!(one.increment("n", 5, Range::Signed).await, Ok(5));
    assert_eq!(other.increment("n", -7, Range::Signed).await, Ok(-2));
    assert_eq!(one.get("n", MOST).await, Ok(Some("-2".into())));
    // Not a number of the other interface.
    let refused = one.increment("n", 5, Range::Unsigned).await;
    assert_eq!(refused, Err(Problem::NotANumber));
    assert_eq!(one.get("n", MOST).await, Ok(Some("-2".into())));
    one.delete("n").await.unwrap();
    assert_eq!(one.increment("n", 5, Range::Unsigned).await, Ok(5));
    assert_eq!(one.increment("n", 0, Range::Unsigned).await, Ok(5));

    let most = i64::MAX.to_string();
    one.set("n", most.clone().into()).await.unwrap();
    for range in [Range::Signed, Range::Unsigned] {
        let refused = one.increment("n", 1, range).await;
        assert_eq!(refused, Err(Problem::Overflow));
    }
    assert_eq!(one.get("n", MOST).await, Ok(Some(most.into())));
    one.set("n", i64::MIN.to_string().into()).await.unwrap();
    let refused = one.increment("n", -1, Range::Signed).await;
    assert_eq!(refused, Err(Problem::Overflow));
    let sum = one.increment("n", i64::MAX, Range::Signed).await;
    assert_eq!(sum, Ok(-1));

    let long = "1".repeat(1000);
    for bad in ["", " 1", "+1", "01", "-0", "1.0", "one", &long] {
        one.set("n", bad.to_owned().into()).await.unwrap();
        for range in [Range::Signed, Range::Unsigned] {
            let refused = one.increment("n", 1, range).await;
            assert_eq!(refused, Err(Problem::NotANumber), "{bad}");
        }
        assert_eq!(one.get("n", MOST).await, Ok(Some(bad.to_owned().into())));
    }
    one.delete("n").await.unwrap();
}

async fn swaps(stores: &[Arc<Store>]) {
    let (one, other) = (first(stores), last(stores));
    let value = |text: &'static str| Bytes::from_static(text.as_bytes());
    let seen = one.observe("s", MOST).await.unwrap();
    assert_eq!(seen.value, None);
    assert_eq!(one.replace("s", &seen, value("1")).await, Ok(true));
    // What was seen is of the past now.
    assert_eq!(other.replace("s", &seen, value("2")).await, Ok(false));
    assert_eq!(other.get("s", MOST).await, Ok(Some(value("1"))));

    let seen = other.observe("s", MOST).await.unwrap();
    assert_eq!(seen.value, Some(value("1")));
    one.set("s", value("3")).await.unwrap();
    assert_eq!(other.replace("s", &seen, value("4")).await, Ok(false));
    assert_eq!(one.get("s", MOST).await, Ok(Some(value("3"))));

    let seen = other.observe("s", MOST).await.unwrap();
    one.delete("s").await.unwrap();
    assert_eq!(other.replace("s", &seen, value("5")).await, Ok(false));
    assert_eq!(one.exists("s").await, Ok(false));

    // An empty value is not the same as none.
    one.set("s", Bytes::new()).await.unwrap();
    assert_eq!(
        other.replace("s", &Default::default(), value("6")).await,
        Ok(false)
    );
    let seen = other.observe("s", MOST).await.unwrap();
    assert_eq!(seen.value, Some(Bytes::new()));
    assert_eq!(other.replace("s", &seen, value("7")).await, Ok(true));
    one.set("s", Bytes::from(vec![0; MOST])).await.unwrap();
    assert_eq!(
        one.observe("s", MOST - 1).await,
        Err(Problem::TooLarge(MOST - 1))
    );
    let seen = one.observe("s", MOST).await.unwrap();
    assert_eq!(one.replace("s", &seen, value("8")).await, Ok(true));
    one.delete("s").await.unwrap();
}

const TASKS: usize = 8;
const ROUNDS: usize = 25;

async fn no_increment_is_lost(stores: &[Arc<Store>]) {
    let tasks = (0..TASKS).map(|task| {
        let store = Arc::clone(&stores[task % stores.len()]);
        tokio::spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..ROUNDS {
                let range = if task % 2 == 0 {
                    Range::Signed
                } else {
                    Range::Unsigned
                };
                seen.push(store.increment("counter", 1, range).await.unwrap());
            }
            seen
        })
    });
    let mut sums = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        sums.extend(task.await.unwrap());
    }
    // Each sum was somebody's, and nobody else's.
    sums.sort_unstable();
    let expected: Vec<i64> = (1..=(TASKS * ROUNDS) as i64).collect();
    assert_eq!(sums, expected);
    first(stores).delete("counter").await.unwrap();
}

/// Every task appends its letter to a list by swapping, while others do so.
async fn no_swap_is_lost(stores: &[Arc<Store>]) {
    let tasks = (0..TASKS).map(|task| {
        let store = Arc::clone(&stores[task % stores.len()]);
        tokio::spawn(async move {
            let letter = b'a' + u8::try_from(task).unwrap();
            for _ in 0..ROUNDS {
                loop {
                    let seen = store.observe("list", MOST).await.unwrap();
                    let mut letters = seen.value.clone().unwrap_or_default().to_vec();
                    letters.push(letter);
                    if store.replace("list", &seen, letters.into()).await.unwrap() {
                        break;
                    }
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let letters = first(stores).get("list", MOST).await.unwrap().unwrap();
    assert_eq!(letters.len(), TASKS * ROUNDS);
    for task in 0..TASKS {
        let letter = b'a' + u8::try_from(task).unwrap();
        assert_eq!(letters.iter().filter(|l| **l == letter).count(), ROUNDS);
    }
    first(stores).delete("list").await.unwrap();
}

async fn pages(stores: &[Arc<Store>]) {
    let (one, other) = (first(stores), last(stores));
    let keys: Vec<String> = (0..2500).map(|n| format!("page/{n:05}")).collect();
    futures::stream::iter(&keys)
        .for_each_concurrent(16, async |key| {
            one.set(key, Bytes::from_static(b"v")).await.unwrap();
        })
        .await;
    let expected: BTreeSet<String> = keys.iter().cloned().collect();
    for found in [list(other).await, list_numbered(other).await] {
        assert_eq!(found.len(), keys.len());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    // A page goes on where the last one ended, though keys come and go.
    let page = one.list(None).await.unwrap();
    assert!(!page.keys.is_empty() && page.keys.len() <= 2 * PAGE);
    let gone: BTreeSet<&String> = page.keys.iter().take(100).collect();
    for key in &gone {
        one.delete(key).await.unwrap();
    }
    one.set("zzz", Bytes::new()).await.unwrap();
    let (mut found, mut cursor) = (page.keys.clone(), page.next.clone());
    while let Some(next) = cursor {
        let page = other.list(Some(&next)).await.unwrap();
        found.extend(page.keys);
        cursor = page.next;
    }
    let found: BTreeSet<String> = found.into_iter().filter(|key| key != "zzz").collect();
    assert_eq!(found, expected);

    futures::stream::iter(&keys)
        .for_each_concurrent(16, async |key| one.delete(key).await.unwrap())
        .await;
    one.delete("zzz").await.unwrap();
    assert_eq!(list(one).await, Vec::<String>::new());
}
