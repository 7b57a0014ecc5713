use super::*;

fn one(list: &str) -> BucketGrant {
    let mut buckets = read(list).unwrap();
    assert_eq!(buckets.len(), 1, "{list}");
    buckets.remove(0)
}

#[test]
fn a_url_alone_is_the_default_bucket() {
    let bucket = one("memory:");
    assert_eq!(bucket, BucketGrant::new("default", Place::Memory));
    let bucket = one(" redis://127.0.0.1:6380/2?prefix=a%3Db%3A ");
    assert_eq!(bucket.name, "default");
    assert_eq!(
        bucket.place,
        Place::Redis(RedisPlace {
            address: RedisAddress::Tcp("127.0.0.1".into(), 6380),
            database: 2,
            prefix: "a=b:".into(),
            credentials: Credentials::None,
        })
    );
}

#[test]
fn several_buckets_have_names() {
    let list = "sessions=memory:?max-value=64KiB,files=fs:/srv/a%20b?readonly \
        cache=fs:///srv/c?readonly=false default=memory:";
    let buckets = read(list).unwrap();
    let names: Vec<&str> = buckets.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["sessions", "files", "cache", "default"]);
    assert_eq!(buckets[0].max_value, 64 << 10);
    assert_eq!(buckets[1].place, Place::Directory("/srv/a b".into()));
    assert!(buckets[1].readonly && !buckets[2].readonly);
    assert_eq!(buckets[2].place, Place::Directory("/srv/c".into()));
    assert_eq!(buckets[2].max_value, 1 << 20);
}

#[test]
fn servers_and_their_credentials() {
    let place = |list| match one(list).place {
        Place::Redis(place) => place,
        other => panic!("{other:?}"),
    };
    let given = |text| Credentials::Given(Secret::new(text));
    let url = place("redis://:p%40ss@[::1]/");
    assert_eq!(url.address, RedisAddress::Tcp("[::1]".into(), 6379));
    assert_eq!(url.credentials, given(":p@ss"));
    let url = place("rediss://user:pw@cache.example.com");
    let host = "cache.example.com".to_owned();
    assert_eq!(url.address, RedisAddress::Tls(host, 6379));
    assert_eq!(url.credentials, given("user:pw"));
    let url = place("redis://h/1?credentials=cache-password");
    assert_eq!(url.credentials, Credentials::Named("cache-password".into()));

    let s3 = |list| match one(list).place {
        Place::S3(place) => place,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        s3("s3://Bucket.1/a/b/?endpoint=http://127.0.0.1:9000/&credentials=minio"),
        S3Place {
            bucket: "Bucket.1".into(),
            prefix: "a/b".into(),
            region: "us-east-1".into(),
            endpoint: Some("http://127.0.0.1:9000".into()),
            credentials: Credentials::Named("minio".into()),
        }
    );
    let aws = s3("s3://b?region=eu-central-1");
    assert_eq!((aws.region.as_str(), aws.endpoint), ("eu-central-1", None));
    assert_eq!(aws.credentials, Credentials::None);
}

#[test]
fn errors_name_the_bucket_and_the_nearest_that_there_is() {
    for (list, expected) in [
        ("", "no bucket"),
        (
            "a=memory: a=memory:",
            "bucket \"a\": there is one of that name already",
        ),
        (
            "memory: default=memory:",
            "bucket \"default\": there is one of that name already",
        ),
        (
            "x=reds://h/0",
            "bucket \"x\": there is no scheme \"reds\": the nearest one is redis:",
        ),
        ("x=file:/srv", "no scheme \"file\""),
        ("memory", "no scheme \"memory\": the nearest one is memory:"),
        ("redis://:pass,hunter2@h", "bucket \"default\": not a URL"),
        (
            "memory: hunter2@h",
            "bucket \"default\": there is no scheme \"...\"",
        ),
        ("ä=memory:", "a name has 1 to 64 letters"),
        ("=memory:", "a name has 1 to 64 letters"),
        (
            "memory:?max_value=1",
            "no option \"max_value\": the nearest one is max-value",
        ),
        ("memory:?prefix=x", "memory: has no option \"prefix\""),
        (
            "redis://h/0?prefx=a",
            "no option \"prefx\": the nearest one is prefix",
        ),
        ("redis://h/0?prefix=a&prefix=b", "two options prefix"),
        ("memory:?max-value=17MiB", "from 1 to 16MiB"),
        ("memory:?max-value=0", "from 1 to 16MiB"),
        ("memory:?readonly=yes", "true or false"),
        ("memory:/x", "nothing after the colon"),
        ("fs:srv", "absolute path"),
        ("fs://host/srv", "absolute path"),
        ("fs:/srv#x", "%23"),
        ("redis://", "redis: takes a host"),
        ("redis://h/x", "redis: takes a host"),
        ("redis://h/-1", "redis: takes a host"),
        ("redis://h:99999/", "not a URL"),
        ("redis://user@h/", "user without a password"),
        (
            "redis://:hunter2@h/?credentials=x",
            "password and credentials",
        ),
        ("redis://h/?credentials=", "the name of a secret"),
        ("redis://h/?prefix=%ff", "prefix: not UTF-8"),
        ("s3:///x", "the name of a bucket"),
        ("s3://b/x", "region is needed"),
        ("s3://b/x?region=", "region is needed"),
        ("s3://id:hunter2@b/x?region=r", "names a secret"),
        (
            "s3://b/a/%2e%2e/x?region=r&endpoint=ftp://h",
            "endpoint takes",
        ),
        ("s3://b?endpoint=http://h/path", "endpoint takes"),
        ("s3://b?endpoint=http://u:hunter2@h", "endpoint takes"),
    ] {
        let error = read(list).unwrap_err();
        assert!(error.contains(expected), "{list}: {error}");
        assert!(!error.contains("hunter2"), "{list}: {error}");
    }
}
