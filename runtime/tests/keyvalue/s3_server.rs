//! An S3 server in this process that keeps its objects in memory.
//!
//! `s3s` does the protocol, signatures included. Its own file-based store
//! checks conditions and writes in two steps, so that races go unnoticed by it;
//! here both happen under one lock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use sha2::{Digest, Sha256};

pub const KEY: &str = "AKIDTEST";
pub const SECRET: &str = "s3cr3t/+key";
pub const BUCKET: &str = "bucket";

/// What the server does wrong.
#[derive(Default)]
pub struct Faults {
    /// Takes no notice of conditions.
    pub no_conditions: AtomicBool,
    /// Says that it does not know conditions.
    pub refuses_conditions: AtomicBool,
    /// Fails so many requests, for the moment.
    pub failing: AtomicUsize,
    /// Says to so many conditional writes that others are under way.
    pub conflicts: AtomicUsize,
}

/// What the server has seen.
#[derive(Default)]
pub struct Seen {
    /// Connections that are open.
    pub connections: AtomicUsize,
    /// The most of them at any one time.
    pub most_connections: AtomicUsize,
}

type Objects = Arc<Mutex<BTreeMap<String, Bytes>>>;

struct Memory {
    objects: Objects,
    faults: Arc<Faults>,
}

pub struct S3Server {
    pub address: SocketAddr,
    pub faults: Arc<Faults>,
    pub seen: Arc<Seen>,
    pub objects: Objects,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl S3Server {
    /// Starts one on a port and a thread of its own.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (faults, objects) = (Arc::<Faults>::default(), Objects::default());
        let seen = Arc::<Seen>::default();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let memory = Memory {
            objects: Arc::clone(&objects),
            faults: Arc::clone(&faults),
        };
        let at_work = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let event_loop = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            event_loop.block_on(async {
                tokio::select! {
                    () = serve(listener, memory, at_work) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            faults,
            seen,
            objects,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, memory: Memory, seen: Arc<Seen>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut builder = S3ServiceBuilder::new(memory);
    builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = builder.build();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(service.clone());
        let open = seen.connections.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most_connections.fetch_max(open, Ordering::SeqCst);
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
            seen.connections.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Another one, if `left` are left.
fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        .is_ok()
}

fn tag(object: &[u8]) -> ETag {
    let digest = Sha256::digest(object);
    ETag::Strong(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Memory {
    fn check(&self, bucket: &str) -> S3Result<()> {
        if take(&self.faults.failing) {
            return Err(s3_error!(SlowDown));
        }
        if bucket != BUCKET {
            return Err(s3_error!(NoSuchBucket));
        }
        Ok(())
    }

    fn object(&self, key: &str) -> S3Result<Bytes> {
        let objects = self.objects.lock().unwrap();
        objects
            .get(key)
            .cloned()
            .ok_or_else(|| s3_error!(NoSuchKey))
    }
}

#[async_trait]
impl S3 for Memory {
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.check(&request.input.bucket)?;
        let object = self.object(&request.input.key)?;
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(object.len() as i64),
            e_tag: Some(tag(&object)),
            last_modified: Some(SystemTime::now().into()),
            body: Some(StreamingBlob::from(s3s::Body::from(object))),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.check(&request.input.bucket)?;
        let object = self.object(&request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(object.len() as i64),
            e_tag: Some(tag(&object)),
            last_modified: Some(SystemTime::now().into()),
            ..HeadObjectOutput::default()
        }))
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        self.check(&input.bucket)?;
        let mut body = Vec::new();
        if let Some(mut parts) = input.body {
            while let Some(part) = parts.next().await {
                body.extend_from_slice(&part.map_err(|_| s3_error!(IncompleteBody))?);
            }
        }
        let conditional = input.if_match.is_some() || input.if_none_match.is_some();
        if conditional && self.faults.refuses_conditions.load(Ordering::SeqCst) {
            return Err(s3_error!(NotImplemented));
        }
        if conditional && take(&self.faults.conflicts) {
            return Err(s3_error!(ConditionalRequestConflict));
        }
        let mut objects = self.objects.lock().unwrap();
        let old = objects.get(&input.key);
        if !self.faults.no_conditions.load(Ordering::SeqCst) {
            if input.if_none_match.is_some() && old.is_some() {
                return Err(s3_error!(PreconditionFailed));
            }
            if let Some(condition) = &input.if_match {
                let old = old.ok_or_else(|| s3_error!(NoSuchKey))?;
                let ETagCondition::ETag(expected) = condition else {
                    return Err(s3_error!(NotImplemented));
                };
                if tag(old) != *expected {
                    return Err(s3_error!(PreconditionFailed));
                }
            }
        }
        let e_tag = Some(tag(&body));
        objects.insert(input.key, body.into());
        Ok(S3Response::new(PutObjectOutput {
            e_tag,
            ..PutObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check(&request.input.bucket)?;
        self.objects.lock().unwrap().remove(&request.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.check(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let most = usize::try_from(input.max_keys.unwrap_or(1000))
            .unwrap()
            .min(1000);
        let after = input
            .continuation_token
            .clone()
            .or(input.start_after.clone());
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let objects = self.objects.lock().unwrap();
        let mut found: Vec<Object> = objects
            .range::<String, _>((after, Bound::Unbounded))
            .filter(|(key, _)| key.starts_with(&prefix))
            .take(most + 1)
            .map(|(key, object)| Object {
                key: Some(key.clone()),
                size: Some(object.len() as i64),
                e_tag: Some(tag(object)),
                last_modified: Some(SystemTime::now().into()),
                ..Object::default()
            })
            .collect();
        let more = found.len() > most;
        found.truncate(most);
        let next = found.last().and_then(|object| object.key.clone());
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            key_count: Some(i32::try_from(found.len()).unwrap()),
            is_truncated: Some(more),
            next_continuation_token: next.filter(|_| more),
            contents: Some(found),
            ..ListObjectsV2Output::default()
        }))
    }
}
