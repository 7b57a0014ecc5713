//! Where things are deployed, from the command line.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nxt_wasm_settings::{files, units};
use nxt_wasm_store::{Access, Store};
use serde_json::{Map, Value};

use crate::deployer::Deployer;
use crate::unit::control::Control;
use crate::unit::lock;

/// Bytes of a file of certificates, or of a base.
const LONGEST: u64 = 4 << 20;

/// The module store.
#[derive(Debug, clap::Args)]
pub struct StoreArgs {
    /// Module store: a directory, fs:/directory or s3://bucket/prefix?endpoint=..&credentials=NAME
    #[arg(long, value_name = "STORE", default_value = "/var/lib/nxt-wasm")]
    pub store: String,
    /// File of secrets (as of UNIT_WASM_SECRETS) with the credentials that an s3: URL names
    #[arg(long, value_name = "FILE")]
    pub secrets: Option<PathBuf>,
    /// PEM file of certificate authorities to trust beside those of this machine
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Take an s3: endpoint that is http: on another machine: anybody on the way could change
    /// what comes from there
    #[arg(long)]
    pub allow_plain_http: bool,
}

/// Unit, and how deployments to it are done.
#[derive(Debug, clap::Args)]
pub struct UnitArgs {
    /// Unit's control socket: a path, or http://127.0.0.1:PORT
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/var/run/control.unit.sock"
    )]
    pub control: Control,
    /// Directory where Unit reads components, if the store is not on this machine: each store
    /// has a folder of its own in there
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nxt-wasm")]
    components: PathBuf,
    /// File that only one deployment at a time has locked [default: beside the control socket]
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// How long an application may take until it answers
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    probe_timeout: Duration,
}

/// A duration, as settings have them.
pub fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).ok_or_else(|| "a duration is needed: 500ms, 10s, 2m".to_owned())
}

impl StoreArgs {
    /// Opens the store.
    pub fn open(&self, create: bool) -> Result<Store, Box<dyn Error>> {
        self.open_at(&self.store, create)
    }

    fn open_at(&self, url: &str, create: bool) -> Result<Store, Box<dyn Error>> {
        let credentials = match Store::credentials(url) {
            None => None,
            Some(name) => Some(self.secret(&name)?),
        };
        let authorities = self.authorities()?;
        let access = Access {
            create,
            credentials: credentials.as_deref(),
            authorities: authorities.as_deref(),
            allow_plain_http: self.allow_plain_http,
            ..Access::default()
        };
        Ok(Store::open(url, &access)?)
    }

    /// The certificate authorities to trust.
    pub fn authorities(&self) -> Result<Option<Vec<u8>>, Box<dyn Error>> {
        self.ca.as_deref().map(read).transpose()
    }

    /// The secret of this name.
    pub fn secret(&self, name: &str) -> Result<String, Box<dyn Error>> {
        let path = self.secrets.as_ref();
        let path = path.ok_or_else(|| format!("credentials={name} takes --secrets FILE"))?;
        let failed = |problem| format!("--secrets {}: {problem}", path.display());
        let mut all = files::read_secrets(path).map_err(failed)?;
        let missing = || failed(format!("there is no secret \"{name}\""));
        Ok(all.remove(name).ok_or_else(missing)?)
    }
}

impl UnitArgs {
    /// What deploys from `store`. Directories are made if they are to be.
    pub fn deployer(&self, store: &StoreArgs, create: bool) -> Result<Deployer, Box<dyn Error>> {
        self.deployer_at(store, &store.store, create)
    }

    /// The same from the store at `url`.
    pub fn deployer_at(
        &self,
        store: &StoreArgs,
        url: &str,
        create: bool,
    ) -> Result<Deployer, Box<dyn Error>> {
        let opened = store.open_at(url, create)?;
        let local = match opened.folder_name() {
            None => None,
            Some(name) => {
                let access = Access {
                    create: true,
                    ..Access::default()
                };
                // A path, in which nothing stands for anything else.
                let path = std::path::absolute(&self.components)?.join(name);
                let path = path.to_str().ok_or("--components: the path is not UTF-8")?;
                Some(Store::open(path, &access)?)
            }
        };
        let lock = self.lock.clone();
        Ok(Deployer {
            control: self.control.clone(),
            store: opened,
            local,
            lock: lock.unwrap_or_else(|| lock::default_path(&self.control.address)),
            probe_timeout: self.probe_timeout,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let failed = |problem: String| format!("cannot read {}: {problem}", path.display());
    let found = fs::metadata(path).map_err(|e| failed(e.to_string()))?;
    if !found.is_file() || found.len() > LONGEST {
        return Err(failed(format!("a file of at most {LONGEST} bytes is needed")).into());
    }
    Ok(fs::read(path).map_err(|e| failed(e.to_string()))?)
}

/// The application object in a file that deployments begin with.
pub fn base(path: Option<&Path>) -> Result<Map<String, Value>, Box<dyn Error>> {
    let Some(path) = path else {
        return Ok(Map::new());
    };
    let wrong = |problem: String| format!("--base {}: {problem}", path.display());
    match serde_json::from_slice(&read(path)?) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(wrong("a JSON object is needed".to_owned()).into()),
        Err(error) => Err(wrong(error.to_string()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        unit: UnitArgs,
    }

    fn deployer(arguments: &[&str]) -> Result<Deployer, Box<dyn Error>> {
        let command = Command::parse_from([&["x"], arguments].concat());
        command.unit.deployer(&command.store, true)
    }

    #[test]
    fn the_folder_of_components_is_a_path_and_no_url() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("a%41?b#c:/d");
        let store = "s3://b/p?region=r";
        let text = path.to_str().unwrap();
        let folder = |store: &str| {
            let deployer = deployer(&["--store", store, "--components", text]).unwrap();
            deployer.writing_folder().parent().unwrap().to_owned()
        };
        let one = folder(store);
        assert_eq!(one.parent(), Some(path.as_path()));
        // Each store has its own, whichever way it is reached.
        assert_eq!(folder("s3://b/p?endpoint=http://127.0.0.1:9000"), one);
        assert_ne!(folder("s3://b/q?region=r"), one);
    }

    #[test]
    fn a_store_that_others_could_change_has_to_be_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let components = ["--components", dir.path().to_str().unwrap()];
        let open = |endpoint: &str, more: &[&str]| {
            let store = format!("s3://b/p?endpoint={endpoint}");
            deployer(&[&["--store", &store], &components[..], more].concat()).map(drop)
        };
        let exposed = "http://192.0.2.1:9000";
        let error = open(exposed, &[]).unwrap_err().to_string();
        assert!(error.contains("use https:"), "{error}");
        open(exposed, &["--allow-plain-http"]).unwrap();
        open("http://127.0.0.1:9000", &[]).unwrap();
        open("https://192.0.2.1:9000", &[]).unwrap();
    }
}
