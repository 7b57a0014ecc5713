//! Routes that speak to databases, with as much of their protocols as it takes.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use crate::request::Request;
use crate::tcp::failed;

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

/// `/redis?addr=HOST:PORT&cmd=WORD&cmd=WORD`: the command's answer, as text.
pub fn redis(request: &Request) -> String {
    let words = request.query().iter().filter(|(name, _)| name == b"cmd");
    let words: Vec<&[u8]> = words.map(|(_, word)| word.as_slice()).collect();
    let answer = TcpStream::connect(request.text("addr")).and_then(|stream| {
        let mut stream = BufReader::new(stream);
        redis_command(&mut stream, &words)
    });
    answer.unwrap_or_else(|error| format!("{}{error}\n", failed("redis", &error)))
}

fn redis_command(stream: &mut BufReader<TcpStream>, words: &[&[u8]]) -> io::Result<String> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    stream.get_mut().write_all(&command)?;
    redis_answer(stream)
}

fn redis_answer(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.trim_end();
    let kind = line.chars().next().ok_or_else(|| wrong("no answer"))?;
    let rest = &line[1..];
    match kind {
        '+' | '-' | ':' => Ok(format!("{rest}\n")),
        '$' if rest == "-1" => Ok("none\n".into()),
        '$' => {
            let length: usize = rest.parse().map_err(|_| wrong("a length"))?;
            let mut value = vec![0; length + 2];
            stream.read_exact(&mut value)?;
            value.truncate(length);
            Ok(String::from_utf8_lossy(&value).into_owned() + "\n")
        }
        _ => Err(wrong(format!("an answer of kind {kind}"))),
    }
}

/// `/postgres?addr=HOST:PORT&user=U&db=D&query=SQL`: the first column of the
/// rows, one per line. The server has to let U in without a password.
pub fn postgres(request: &Request) -> String {
    let rows = TcpStream::connect(request.text("addr")).and_then(|mut stream| {
        postgres_startup(&mut stream, &request.text("user"), &request.text("db"))?;
        postgres_query(&mut stream, &request.text("query"))
    });
    rows.unwrap_or_else(|error| format!("{}{error}\n", failed("postgres", &error)))
}

/// Speaks protocol version 3 until the server is ready for a query.
fn postgres_startup(stream: &mut TcpStream, user: &str, database: &str) -> io::Result<()> {
    let parameters = format!("user\0{user}\0database\0{database}\0\0");
    let mut message = 196_608_u32.to_be_bytes().to_vec();
    message.extend_from_slice(parameters.as_bytes());
    stream.write_all(&with_length(&message))?;
    loop {
        let (kind, content) = postgres_message(stream)?;
        match kind {
            b'Z' => return Ok(()),
            b'R' if content != [0, 0, 0, 0] => return Err(wrong("it wants a password")),
            _ => {}
        }
    }
}

fn postgres_query(stream: &mut TcpStream, query: &str) -> io::Result<String> {
    stream.write_all(b"Q")?;
    stream.write_all(&with_length(format!("{query}\0").as_bytes()))?;
    let mut rows = String::new();
    loop {
        let (kind, content) = postgres_message(stream)?;
        match kind {
            b'D' => {
                // The number of columns, then length and value of each.
                let length = content.get(2..6).and_then(|bytes| bytes.try_into().ok());
                let length = u32::from_be_bytes(length.ok_or_else(|| wrong("a row"))?) as usize;
                let value = content
                    .get(6..6 + length)
                    .ok_or_else(|| wrong("a column"))?;
                rows += &format!("{}\n", String::from_utf8_lossy(value));
            }
            b'Z' => {
                stream.write_all(b"X\0\0\0\x04")?;
                return Ok(rows);
            }
            _ => {}
        }
    }
}

fn with_length(content: &[u8]) -> Vec<u8> {
    let length = (content.len() + 4) as u32;
    [&length.to_be_bytes()[..], content].concat()
}

fn postgres_message(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let mut content = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut content)?;
    match kind {
        b'E' => {
            let text = String::from_utf8_lossy(&content).replace('\0', " ");
            Err(wrong(text))
        }
        _ => Ok((kind, content)),
    }
}
