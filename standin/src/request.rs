//! A request as the router hands it to application processes.

use crate::codec::{Reader, Writer};

/// A header field as the client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// 1 to 255 bytes.
    pub name: Vec<u8>,
    /// Any bytes but control characters.
    pub value: Vec<u8>,
}

impl Field {
    /// Whether this is the field of that name.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// A request; the body beyond `preread` is in a file that travels beside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// As sent.
    pub method: Vec<u8>,
    /// As sent.
    pub target: Vec<u8>,
    /// Decoded and normalised.
    pub path: Vec<u8>,
    /// As sent, without the question mark.
    pub query: Vec<u8>,
    /// `HTTP/1.x`.
    pub version: Vec<u8>,
    /// Lower-case host without port.
    pub server_name: Vec<u8>,
    /// Address of the client, without port.
    pub remote: Vec<u8>,
    /// Address of the listener, without port.
    pub local_addr: Vec<u8>,
    /// Port of the listener.
    pub local_port: Vec<u8>,
    /// In the order of arrival.
    pub fields: Vec<Field>,
    /// Of the whole body.
    pub content_length: u64,
    /// A body that is small enough to travel along.
    pub preread: Vec<u8>,
}

impl Request {
    /// The message for the shared port.
    pub fn encode(&self, number: u32) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(number);
        out.u64(self.content_length);
        for bytes in [
            &self.method,
            &self.target,
            &self.path,
            &self.query,
            &self.version,
            &self.server_name,
            &self.remote,
            &self.local_addr,
            &self.local_port,
            &self.preread,
        ] {
            out.bytes(bytes);
        }
        out.u32(self.fields.len() as u32);
        for field in &self.fields {
            out.bytes(&field.name);
            out.bytes(&field.value);
        }
        out.finish()
    }

    /// The request and its number.
    pub fn decode(message: &[u8]) -> Option<(u32, Self)> {
        let mut input = Reader::new(message);
        let number = input.u32()?;
        let content_length = input.u64()?;
        let mut next = || input.bytes().map(<[u8]>::to_vec);
        let mut request = Self {
            method: next()?,
            target: next()?,
            path: next()?,
            query: next()?,
            version: next()?,
            server_name: next()?,
            remote: next()?,
            local_addr: next()?,
            local_port: next()?,
            preread: next()?,
            fields: Vec::new(),
            content_length,
        };
        for _ in 0..input.u32()? {
            request.fields.push(Field {
                name: input.bytes()?.to_vec(),
                value: input.bytes()?.to_vec(),
            });
        }
        Some((number, request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let field = |name: &str, value: &[u8]| Field {
            name: name.into(),
            value: value.into(),
        };
        let request = Request {
            method: b"POST".into(),
            target: b"/a%20b?\xff".into(),
            path: b"/a b".into(),
            query: b"\xff".into(),
            fields: vec![field("X", b"\x80"), field("x", b"")],
            content_length: 3,
            preread: b"abc".into(),
            ..Request::default()
        };
        let message = request.encode(9);
        assert_eq!(Request::decode(&message), Some((9, request)));
        assert_eq!(Request::decode(&message[..message.len() - 1]), None);
    }
}
