use proptest::prelude::*;

use super::*;

type OwnedFields = Vec<(Vec<u8>, Vec<u8>)>;

fn translate(
    method: &[u8],
    target: &[u8],
    server_name: &[u8],
    fields: &OwnedFields,
) -> Result<Request<()>, BadRequest> {
    request(Head {
        method,
        target,
        server_name,
        tls: false,
        fields: fields.iter().map(|(n, v)| (n.as_slice(), v.as_slice())),
    })
}

#[test]
fn a_usual_request() {
    let fields = vec![
        (b"Host".to_vec(), b"localhost:8080".to_vec()),
        (b"X-A".to_vec(), b"1".to_vec()),
        (b"x-a".to_vec(), b"\xff".to_vec()),
        (b"x-empty".to_vec(), Vec::new()),
    ];
    let request = translate(b"POST", b"/hello?a=b", b"localhost", &fields).unwrap();
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri().to_string(), "http://localhost/hello?a=b");
    let values: Vec<&[u8]> = request
        .headers()
        .get_all("x-a")
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    assert_eq!(values, [&b"1"[..], &b"\xff"[..]]);
    assert_eq!(request.headers()["x-empty"], "");
}

#[test]
fn what_cannot_be_a_request_is_named() {
    let none = Vec::new();
    let field = |name: &[u8], value: &[u8]| vec![(name.to_vec(), value.to_vec())];
    for (result, expected) in [
        (translate(b"G T", b"/", b"h", &none), BadRequest::Method),
        (translate(b"GET", b"/a b", b"h", &none), BadRequest::Target),
        (translate(b"GET", b"", b"h", &none), BadRequest::Target),
        (translate(b"GET", b"/", b"a b", &none), BadRequest::Host),
        (
            translate(b"GET", b"/", b"h", &field(b"a b", b"")),
            BadRequest::FieldName,
        ),
        (
            translate(b"GET", b"/", b"h", &field(b"a", b"\0")),
            BadRequest::FieldValue,
        ),
    ] {
        assert_eq!(result.unwrap_err(), expected);
    }
}

proptest! {
    /// Whatever bytes Unit lets through, there is a request or an error,
    /// never a panic; and a request has kept its bytes.
    #[test]
    fn any_bytes(
        method in prop::collection::vec(any::<u8>(), 0..12),
        target in prop::collection::vec(any::<u8>(), 0..60),
        server_name in prop::collection::vec(any::<u8>(), 0..30),
        fields in prop::collection::vec(
            (
                prop::collection::vec(any::<u8>(), 0..10),
                prop::collection::vec(any::<u8>(), 0..20),
            ),
            0..6,
        ),
    ) {
        if let Ok(request) = translate(&method, &target, &server_name, &fields) {
            prop_assert_eq!(request.method().as_str().as_bytes(), &method[..]);
            prop_assert_eq!(request.headers().len(), fields.len());
            prop_assert!(request.uri().authority().is_some());
        }
    }

    /// The same with parts that are mostly valid, so that the way to the end
    /// is taken often.
    #[test]
    fn nearly_valid_requests(
        path in "/[a-zA-Z0-9/._~%-]{0,30}(\\?[a-z=&]{0,10})?",
        host in "[a-z0-9.-]{1,20}",
        fields in prop::collection::vec(
            ("[A-Za-z0-9-]{1,12}", prop::collection::vec(0x20_u8..=0xff, 0..20)),
            0..8,
        ),
    ) {
        let owned: OwnedFields = fields
            .iter()
            .map(|(n, v)| (n.clone().into_bytes(), v.iter().map(|&b| if b == 0x7f { b'x' } else { b }).collect()))
            .collect();
        if let Ok(request) = translate(b"GET", path.as_bytes(), host.as_bytes(), &owned) {
            let path_and_query = request.uri().path_and_query().map(|p| p.as_str());
            prop_assert_eq!(path_and_query, Some(path.as_str()));
            for (name, value) in &owned {
                let name = HeaderName::from_bytes(name).unwrap();
                let found = request.headers().get_all(name).iter().any(|v| v.as_bytes() == &value[..]);
                prop_assert!(found);
            }
        }
    }

    /// Any head that a guest can build is sent with safe framing or refused.
    #[test]
    fn any_response(
        status in 100_u16..1000,
        head in any::<bool>(),
        fields in prop::collection::vec(("[a-z-]{1,300}", "[ -~]{0,20}"), 0..6),
    ) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in &fields {
            response.headers_mut().append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        if let Ok(framing) = check_response(head, &mut response) {
            prop_assert!((200..600).contains(&status));
            prop_assert!(response.headers().keys().all(|n| n.as_str().len() <= 255 && !is_dropped(n)));
            prop_assert_eq!(framing == Framing::None, head || status == 204 || status == 304);
        }
    }
}

fn response(status: u16, fields: &[(&'static str, &'static str)]) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in fields {
        response
            .headers_mut()
            .append(*name, HeaderValue::from_static(value));
    }
    response
}

#[test]
fn what_is_about_the_connection_is_taken_out() {
    let mut response = response(
        200,
        &[
            ("transfer-encoding", "chunked"),
            ("status", "404"),
            ("connection", "close"),
            ("te", "trailers"),
            ("x-kept", "1"),
            ("content-length", "5"),
        ],
    );
    assert_eq!(check_response(false, &mut response), Ok(Framing::Length(5)));
    let mut names: Vec<&str> = response.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "x-kept"]);
}

#[test]
fn framing_by_method_and_status() {
    let framing = |head, status, fields| check_response(head, &mut response(status, fields));
    assert_eq!(framing(false, 200, &[]), Ok(Framing::Stream));
    assert_eq!(
        framing(true, 200, &[("content-length", "5")]),
        Ok(Framing::None)
    );
    assert_eq!(framing(false, 204, &[]), Ok(Framing::None));
    assert_eq!(framing(false, 304, &[]), Ok(Framing::None));
    assert_eq!(framing(false, 599, &[]), Ok(Framing::Stream));
    for status in [101, 103, 199, 600, 999] {
        assert!(matches!(
            framing(false, status, &[]),
            Err(BadResponse::Status(_))
        ));
    }
}

#[test]
fn lengths_that_are_not_one_number() {
    for fields in [
        &[("content-length", "5"), ("content-length", "5")][..],
        &[("content-length", "+5")],
        &[("content-length", "5, 5")],
        &[("content-length", "")],
        &[("content-length", "99999999999999999999")],
    ] {
        assert_eq!(
            check_response(false, &mut response(200, fields)),
            Err(BadResponse::ContentLength),
            "{fields:?}"
        );
    }
}

#[test]
fn names_of_255_bytes_are_the_longest() {
    for (length, fits) in [(255, true), (256, false)] {
        let mut response = Response::new(());
        response.headers_mut().append(
            HeaderName::from_bytes("n".repeat(length).as_bytes()).unwrap(),
            HeaderValue::from_static("v"),
        );
        assert_eq!(check_response(false, &mut response).is_ok(), fits);
    }
}

#[test]
fn ids() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let id = |fields: &[(&'static str, &str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        request_id(&headers, || "made".to_owned())
    };
    let valid = format!("00-{TRACE}-00f067aa0ba902b7-01");
    assert_eq!(id(&[("traceparent", &valid)]), TRACE);
    assert_eq!(
        id(&[("traceparent", &valid), ("x-request-id", "abc")]),
        TRACE
    );
    assert_eq!(id(&[("x-request-id", "a.b_c-1")]), "a.b_c-1");
    assert_eq!(id(&[]), "made");
    for bad in [
        "",
        "00-4bf9-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
    ] {
        assert_eq!(id(&[("traceparent", bad)]), "made", "{bad}");
    }
    let long = "x".repeat(65);
    for bad in ["", "a b", "a\"b", long.as_str()] {
        assert_eq!(id(&[("x-request-id", bad)]), "made", "{bad}");
    }
}
