//! The settings of the application that a component is for, and what they name.

use std::fs;
use std::path::{Path, PathBuf};

use nxt_wasm_runtime::{AuditLog, AuditTarget, Redactor};
use nxt_wasm_settings::files::{self, Audit};
use nxt_wasm_settings::{Settings, SettingsError};
use rustix::fs::{Access, access};

use super::imports::bad_value;
use crate::configuration::Configured;

/// Opens the files that `settings` name, as the module does, but changes nothing:
/// an audit log that is not there yet is not made.
pub fn open_files(settings: &mut Settings, name: &str) -> Result<(), SettingsError> {
    let audit = settings.files.audit.take();
    files::open(settings, name)?;
    if let Some(audit) = audit {
        if let Audit::File(path) = &audit {
            check_audit(path).map_err(|problem| {
                bad_value("UNIT_WASM_AUDIT_LOG", path.display().to_string(), problem)
            })?;
        }
        let log = AuditLog::new(AuditTarget::Stderr, name, Redactor::default());
        settings.grants.audit = Some(log.into());
        settings.files.audit = Some(audit);
    }
    Ok(())
}

/// Whether records can be appended to the file at `path`.
fn check_audit(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err("not a regular file".to_owned()),
        Ok(_) => access(path, Access::WRITE_OK).map_err(|e| e.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path);
            access(folder, Access::WRITE_OK)
                .map_err(|e| format!("cannot make it in {}: {e}", folder.display()))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Tries the directories and buckets that are granted, unless they are in a root
/// directory of the application's own, of which little is known here.
pub fn verify_grants(settings: &Settings, application: &Configured) -> Result<(), String> {
    if settings.rootfs.is_some() {
        return Ok(());
    }
    let mut grants = settings.grants.clone();
    let folder = application.working_directory().unwrap_or(Path::new("."));
    for directory in &mut grants.directories {
        let host: &mut PathBuf = &mut directory.host;
        *host = folder.join(&host);
    }
    grants.verify().map_err(|e| e.to_string())
}
