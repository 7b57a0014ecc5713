use super::*;

fn s3(credentials: Credentials) -> KeyvalueGrant {
    let place = Place::S3(S3Place {
        bucket: "b".into(),
        prefix: String::new(),
        region: "r".into(),
        endpoint: Some("http://127.0.0.1:1".into()),
        credentials,
    });
    KeyvalueGrant {
        buckets: vec![BucketGrant::new("files", place)],
        ..KeyvalueGrant::default()
    }
}

#[test]
fn credentials_are_found_by_name_and_have_to_fit() {
    let named = || s3(Credentials::Named("minio".into()));
    let mut grant = named();
    let secret = |name: &str| (name == "minio").then(|| "id:hunter2:tok:en".to_owned());
    grant.resolve(secret).unwrap();
    let Place::S3(place) = &grant.buckets[0].place else {
        panic!("{grant:?}")
    };
    assert_eq!(
        place.keys("files").unwrap(),
        Some(("id".into(), "hunter2".into(), Some("tok:en".into())))
    );
    assert!(!format!("{grant:?}").contains("hunter2"), "{grant:?}");

    assert_eq!(
        named().resolve(|_| None).unwrap_err().to_string(),
        "bucket `files`: there is no secret `minio`"
    );
    for bad in ["", "id", ":secret", "id:"] {
        let error = named().resolve(|_| Some(bad.to_owned())).unwrap_err();
        assert!(matches!(error, CredentialsError::Form { .. }), "{bad}");
    }
    assert!(s3(Credentials::None).resolve(|_| None).is_ok());
}

#[test]
fn a_redis_login_is_a_password_or_a_user_with_one() {
    let login = |text: &str| {
        RedisPlace {
            address: RedisAddress::Tcp("h".into(), 1),
            database: 0,
            prefix: String::new(),
            credentials: Credentials::Given(Secret::new(text)),
        }
        .login("b")
        .unwrap()
        .unwrap()
    };
    assert_eq!(login("pw"), (None, "pw".into()));
    assert_eq!(login(":p:w"), (None, "p:w".into()));
    assert_eq!(login("user:p:w"), (Some("user".into()), "p:w".into()));
}

#[test]
fn authorities_are_needed_for_tls_only() {
    assert!(!s3(Credentials::None).needs_authorities());
    let mut grant = s3(Credentials::None);
    if let Place::S3(place) = &mut grant.buckets[0].place {
        place.endpoint = None;
    }
    assert!(grant.needs_authorities());
}
