//! What the network takes: certificates, name servers.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nxt_wasm_runtime::keyvalue::KeyvalueGrant;
use nxt_wasm_runtime::{DnsConfig, TrustError};

use super::{Files, bad};
use crate::settings::{Settings, SettingsError};

/// Bytes of a file of certificates: several times what systems have.
const CERTIFICATES: u64 = 4 << 20;

/// What outbound HTTP, servers of buckets and asking for names take: the
/// machine's configuration.
pub(super) fn open(settings: &mut Settings, files: &Files) -> Result<(), SettingsError> {
    let grants = &mut settings.grants;
    let extra = match &files.http_ca {
        Some(path) if grants.http.is_some() || grants.keyvalue.is_some() => Some(
            read_file(path, CERTIFICATES)
                .map_err(|problem| bad("UNIT_WASM_HTTP_CA", path, problem))?,
        ),
        _ => None,
    };
    if let Some(http) = &mut grants.http {
        http.load_roots(extra.as_deref())
            .map_err(|error| match (&error, &files.http_ca) {
                (TrustError::System(_), _) | (_, None) => {
                    let rules: Vec<_> = http.rules.iter().map(ToString::to_string).collect();
                    let rules = PathBuf::from(rules.join(", "));
                    let hint = "; UNIT_WASM_HTTP_CA can name a file of certificates";
                    bad("UNIT_WASM_ALLOW_HTTP", &rules, format!("{error}{hint}"))
                }
                (_, Some(path)) => bad("UNIT_WASM_HTTP_CA", path, error.to_string()),
            })?;
    }
    if let Some(keyvalue) = &mut grants.keyvalue {
        keyvalue
            .load_authorities(extra.as_deref())
            .map_err(|error| match (&error, &files.http_ca) {
                (TrustError::System(_), _) | (_, None) => {
                    let hint = "; UNIT_WASM_HTTP_CA can name a file of certificates";
                    bad(
                        "UNIT_WASM_KEYVALUE",
                        Path::new("https or rediss"),
                        format!("{error}{hint}"),
                    )
                }
                (_, Some(path)) => bad("UNIT_WASM_HTTP_CA", path, error.to_string()),
            })?;
    }
    let servers = grants
        .keyvalue
        .as_ref()
        .is_some_and(KeyvalueGrant::needs_network);
    if grants.http.is_some() || servers || !grants.sockets.names.is_empty() {
        grants.dns = DnsConfig::from_system();
        if let Some(server) = files.dns_server {
            grants.dns.servers = vec![server];
        }
    }
    Ok(())
}

/// The contents of a regular file of at most `most` bytes.
///
/// # Errors
///
/// What is wrong with the file, without its name.
pub fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let file = open_file(path)?;
    let found = file.metadata().map_err(|e| e.to_string())?;
    if !found.is_file() {
        return Err("not a regular file".to_owned());
    }
    if found.len() > most {
        return Err(format!("it has more than {most} bytes"));
    }
    let mut bytes = Vec::new();
    file.take(most)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Opens what may be no regular file.
pub(super) fn open_file(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .read(true)
        // Not waiting for a writer, should it be a pipe.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::{Application, Value};

    fn settings(environment: &[(&str, &str)]) -> Settings {
        let pair = |(key, value): &(&str, &str)| ((*key).into(), Value::String((*value).into()));
        let environment = Value::Object(environment.iter().map(pair).collect());
        let object = Value::Object(vec![
            ("component".into(), Value::String("/srv/app.wasm".into())),
            ("environment".into(), environment),
        ]);
        let application = Application {
            name: "app".into(),
            object,
            user: None,
            group: None,
            working_directory: None,
        };
        Settings::read(&application, "component").unwrap()
    }

    fn opened(environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let mut settings = settings(environment);
        let files = settings.files.clone();
        open(&mut settings, &files)?;
        Ok(settings)
    }

    #[test]
    fn files_of_certificates_that_cannot_be_used_are_named() {
        let directory = std::env::temp_dir().join(format!("nxt-ca-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let empty = directory.join("empty.pem");
        std::fs::write(&empty, "nothing\n").unwrap();
        for (path, part) in [
            (directory.join("missing.pem"), "No such file"),
            (directory.clone(), "not a regular file"),
            ("/dev/null".into(), "not a regular file"),
            (empty, "no certificate in it"),
        ] {
            let path = path.display().to_string();
            let error = opened(&[
                ("UNIT_WASM_ALLOW_HTTP", "http://a.example"),
                ("UNIT_WASM_HTTP_CA", &path),
            ])
            .unwrap_err()
            .to_string();
            let begins = format!("UNIT_WASM_HTTP_CA: bad value \"{path}\": ");
            assert!(
                error.starts_with(&begins) && error.contains(part),
                "{error}"
            );
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn name_servers_are_the_systems_or_the_one_that_is_set() {
        let plain = opened(&[("UNIT_WASM_ALLOW_HTTP", "http://a.example")]).unwrap();
        assert_eq!(plain.grants.dns, DnsConfig::from_system());
        assert!(plain.grants.http.unwrap().roots.is_empty());
        let other = [
            ("UNIT_WASM_ALLOW_DNS", "a.example"),
            ("UNIT_WASM_DNS_SERVER", "10.0.0.53"),
        ];
        let dns = opened(&other).unwrap().grants.dns;
        assert_eq!(dns.servers, ["10.0.0.53:53".parse().unwrap()]);
        assert_eq!(dns.hosts, DnsConfig::from_system().hosts);
        assert_eq!(opened(&[]).unwrap().grants.dns, DnsConfig::default());
    }
}
