//! Servers that are reached over TLS.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use bytes::Bytes;
use nxt_wasm_runtime::DnsConfig;
use nxt_wasm_runtime::keyvalue::{
    BucketGrant, Common, Credentials, KeyvalueGrant, Place, Problem, Range, RedisAddress,
    RedisPlace, S3Place, Secret, Store,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::redis_server::RedisServer;
use crate::s3_server::{BUCKET, KEY, S3Server, SECRET};

/// Something that does TLS for a server that does none, under the names
/// `localhost` and 127.0.0.1.
struct Front {
    address: SocketAddr,
    /// Who vouches for it: itself.
    certificate: Vec<u8>,
}

impl Front {
    fn start(server: SocketAddr) -> Self {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let front = Self {
            address: listener.local_addr().unwrap(),
            certificate: certificate.der().to_vec(),
        };
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Clients that trust somebody else hang up.
                    let Ok(mut client) = acceptor.accept(client).await else {
                        return;
                    };
                    let mut server = TcpStream::connect(server).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        front
    }

    fn open(&self, place: Place, authority: &[u8]) -> Store {
        let grant = KeyvalueGrant {
            authorities: vec![authority.to_vec()],
            ..KeyvalueGrant::default()
        };
        let common = Common::new(&grant, DnsConfig::default()).unwrap();
        Store::open(&BucketGrant::new("test", place), &common).unwrap()
    }
}

async fn assert_works(store: &Store) {
    store.set("k", "v".into()).await.unwrap();
    assert_eq!(store.get("k", 10).await, Ok(Some("v".into())));
    assert_eq!(store.increment("n", 1, Range::Signed).await, Ok(1));
}

async fn assert_not_trusted(store: &Store) {
    let problem = store.set("k", Bytes::new()).await.unwrap_err();
    assert!(matches!(problem, Problem::Failed(_)), "{problem}");
    assert!(problem.to_string().contains("certificate"), "{problem}");
}

#[tokio::test]
async fn redis_over_tls() {
    let Some(server) = RedisServer::start(Some("pw")) else {
        return;
    };
    let front = Front::start(server.address);
    let other = Front::start(server.address);
    for host in ["localhost", "127.0.0.1"] {
        let place = || {
            Place::Redis(RedisPlace {
                address: RedisAddress::Tls(host.into(), front.address.port()),
                database: 0,
                prefix: host.to_owned(),
                credentials: Credentials::Given(Secret::new("pw")),
            })
        };
        assert_works(&front.open(place(), &front.certificate)).await;
        assert_not_trusted(&front.open(place(), &other.certificate)).await;
    }
}

#[tokio::test]
async fn s3_over_tls() {
    let server = S3Server::start();
    let front = Front::start(server.address);
    let other = Front::start(server.address);
    let place = || {
        Place::S3(S3Place {
            bucket: BUCKET.to_owned(),
            prefix: String::new(),
            region: "us-east-1".to_owned(),
            endpoint: Some(format!("https://localhost:{}", front.address.port())),
            credentials: Credentials::Given(Secret::new(format!("{KEY}:{SECRET}"))),
        })
    };
    assert_works(&front.open(place(), &front.certificate)).await;
    assert_not_trusted(&front.open(place(), &other.certificate)).await;
}
