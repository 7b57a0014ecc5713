//! Paths of requests, and what they say of a file's type.

/// The path of a file, relative and decoded, if the request's target is one below
/// `prefix`. It has no empty parts and none that begins with a dot, so there is no
/// way up, and files that hide are not found.
pub fn below(prefix: &str, target: &str) -> Option<String> {
    let path = target.split('?').next()?.strip_prefix(prefix)?;
    let parts: Option<Vec<String>> = path.split('/').map(decode).collect();
    let parts = parts?;
    let good =
        |part: &String| !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\0']);
    parts.iter().all(good).then(|| parts.join("/"))
}

/// `%XX` decoded, once; none if that is not UTF-8 or an escape is cut off.
fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// By the name's ending.
pub fn content_type(path: &str) -> &'static str {
    let ending = path.rsplit_once('.').map_or("", |(_, ending)| ending);
    match ending.to_ascii_lowercase().as_str() {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "txt" | "md" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "json" => "application/json",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "svg" => "image/svg+xml",
        _ => "application/octet-stream",
    }
}
