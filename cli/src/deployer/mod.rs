//! Brings applications from a module store into a running Unit.

mod error;
mod install;
mod restore;

use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nxt_wasm_store::{
    AppSettings, Ask, Deployment, Digest, GRACE, Name, Record, Store, StoreError,
    read_component_file,
};

pub use error::DeployError;
pub use restore::Restored;

use crate::check;
use crate::terminal::shown;
use crate::unit::control::Control;
use crate::unit::lock::{self, Lock};
use crate::unit::origin;
use crate::unit::plan::{self, PlanError};
use crate::unit::probe::Answered;
use crate::unit::state::{Before, State};
use crate::wish::Wish;
use install::{Occasion, application};

/// Attempts at checking a component with settings that others change.
const ATTEMPTS: u32 = 5;
/// Reasons why a component cannot be served, and lines of one, that are told.
const REASONS: usize = 20;

/// What is told of an application that was replaced.
const TAKEN_OVER: &str = "it has replaced an application that was not deployed from this store, \
                          which no rollback brings back";

/// A component that is to be deployed.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// The name of the application.
    pub name: &'a Name,
    /// The component's file.
    pub file: &'a Path,
    /// What it is known to have.
    pub sha256: Option<Digest>,
    /// Its settings.
    pub wish: &'a Wish,
    /// Whether it has to answer, and how, if that is said.
    pub ask: Option<Ask>,
    /// Whether it may replace an application that others have made.
    pub take_over: bool,
}

/// What has been done.
#[derive(Clone, Debug)]
pub struct Done {
    /// What is deployed now.
    pub deployment: Deployment,
    /// Whether anything had to be changed in Unit.
    pub changed: bool,
    /// What the application answered, if it was asked.
    pub answered: Option<Answered>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// How a deployment went.
pub type Outcome = Result<Done, DeployError>;

/// Deploys from one store into one Unit.
pub struct Deployer {
    /// Unit.
    pub control: Control,
    /// Where components and records are kept.
    pub store: Store,
    /// Where Unit reads components, if the store is not on this machine.
    pub local: Option<Store>,
    /// The file that only one deployment may have locked.
    pub lock: PathBuf,
    /// For an application to answer.
    pub probe_timeout: Duration,
}

impl Deployer {
    fn local(&self) -> &Store {
        self.local.as_ref().unwrap_or(&self.store)
    }

    fn lock(&self) -> Result<Lock, DeployError> {
        Ok(lock::take(&self.lock, &self.control.address)?)
    }

    /// A folder for files that are on their way into the store.
    pub fn writing_folder(&self) -> PathBuf {
        let directory = self.local().directory();
        directory.map_or_else(std::env::temp_dir, |directory| directory.join("tmp"))
    }

    /// Checks a component, keeps it, and has Unit serve it.
    pub fn deploy(&self, order: &Order<'_>) -> Result<Done, DeployError> {
        let name = order.name;
        let mut kept = None;
        for _ in 0..ATTEMPTS {
            let (settings, probe) = self.settings(order)?;
            let checked = check_component(order.file, name, &settings)?;
            if let Some(wanted) = order.sha256.as_ref().filter(|wanted| **wanted != checked) {
                return Err(DeployError::Digest {
                    found: checked,
                    wanted: wanted.clone(),
                });
            }
            let (found, size) = match kept.take() {
                Some(kept) => kept,
                None => self.keep(order.file)?,
            };
            if found != checked {
                return Err(DeployError::Digest {
                    found,
                    wanted: checked,
                });
            }
            let _lock = self.lock()?;
            // What is to be kept may have changed until we had the lock.
            let is_as_checked = |now: &(AppSettings, Ask)| now.0 == settings && now.1 == probe;
            if !order.wish.keep || is_as_checked(&self.settings(order)?) {
                let deployment = Deployment {
                    probe,
                    ..Deployment::new(found, size, settings)
                };
                let record = self.store.record(name)?;
                let foreign = self.is_foreign(&self.control.config()?, name, record.as_ref())?;
                if foreign && !order.take_over {
                    return Err(PlanError::NotOurs(name.to_string()).into());
                }
                let mut done = self.go_to(name, deployment)?;
                if foreign {
                    done.notes.push(TAKEN_OVER.to_owned());
                }
                return Ok(done);
            }
            kept = Some((found, size));
        }
        Err(DeployError::Busy(
            "the settings that are to be kept are being changed by others",
        ))
    }

    /// Whether Unit has an application of this name that was not deployed from this
    /// store: its component is none of the store's, nor of those in its `record`. Another
    /// machine may have made that.
    fn is_foreign(
        &self,
        config: &serde_json::Value,
        name: &Name,
        record: Option<&Record>,
    ) -> Result<bool, DeployError> {
        plan::check_type(config, name.as_str())?;
        let Some(app) = plan::member(config, "applications", name.as_str()) else {
            return Ok(false);
        };
        // One that is ours, and not recorded, is of a deployment that was killed.
        let digest = origin::pinned(app).filter(|digest| !digest.is_empty());
        let is_recorded = record
            .zip(digest)
            .is_some_and(|(record, digest)| record.of_digest(digest).is_some());
        Ok(!is_recorded && !origin::is_from(app, self.local()))
    }

    /// Refuses what [`Deployer::is_foreign`] finds.
    fn check_ours(
        &self,
        config: &serde_json::Value,
        name: &Name,
        record: Option<&Record>,
    ) -> Result<(), DeployError> {
        match self.is_foreign(config, name, record)? {
            true => Err(PlanError::NotOurs(name.to_string()).into()),
            false => Ok(()),
        }
    }

    /// The settings that are asked for, with those that are deployed now, and how it is
    /// asked.
    fn settings(&self, order: &Order<'_>) -> Result<(AppSettings, Ask), DeployError> {
        let record = self.store.record(order.name)?;
        let current = record.as_ref().and_then(Record::current);
        let settings = current.map(|current| &current.settings);
        let settings = order.wish.settings(order.name.as_str(), settings);
        let kept = current.filter(|_| order.wish.keep);
        let kept = kept.map(|current| current.probe.clone());
        let ask = order.ask.clone().or(kept).unwrap_or_default();
        Ok((settings.map_err(DeployError::Settings)?, ask))
    }

    /// Puts a file into the store, and where Unit reads it.
    fn keep(&self, file: &Path) -> Result<(Digest, u64), DeployError> {
        let read = |path: &Path| {
            let file = read_component_file(path);
            file.map_err(|e| DeployError::Read(format!("cannot read {}: {e}", path.display())))
        };
        let (digest, size) = self.local().put(&mut read(file)?)?;
        if let Some(path) = self.local.as_ref().and_then(|l| l.component_path(&digest)) {
            self.store.put(&mut read(&path)?)?;
        }
        Ok((digest, size))
    }

    /// Brings back what was deployed before, or the newest deployment of a component. It
    /// is asked as it was then, unless `ask` says how.
    pub fn rollback(
        &self,
        name: &Name,
        to: Option<&str>,
        ask: Option<&Ask>,
    ) -> Result<Done, DeployError> {
        let _lock = self.lock()?;
        let record = self.store.record(name)?;
        let record = record.ok_or_else(|| DeployError::Unknown(name.clone()))?;
        let problem = |problem: String| DeployError::NoTarget {
            name: name.clone(),
            problem,
        };
        let target = match to {
            None => record
                .previous()
                .ok_or_else(|| problem("nothing is remembered from before".to_owned()))?,
            Some(digest) if digest.len() < 8 => {
                return Err(problem(
                    "at least 8 digits of a digest are needed".to_owned(),
                ));
            }
            Some(digest) => record
                .of_digest(digest)
                .ok_or_else(|| problem(format!("no deployment of {digest} is remembered")))?,
        };
        self.check_ours(&self.control.config()?, name, Some(&record))?;
        self.bring_here(&target.digest)?;
        let mut deployment = target.again();
        if let Some(ask) = ask {
            deployment.probe = ask.clone();
        }
        self.go_to(name, deployment)
    }

    /// Has Unit serve a deployment whose component is here, and writes that down.
    fn go_to(&self, name: &Name, deployment: Deployment) -> Result<Done, DeployError> {
        let record = self.store.record(name)?;
        let ask = &deployment.probe;
        let mut installed = self.install(name, &deployment, record.as_ref(), ask, Occasion::New)?;
        let current = record.as_ref().and_then(Record::current);
        let same = |current: &&Deployment| {
            current.digest == deployment.digest
                && current.settings == deployment.settings
                && current.probe == deployment.probe
        };
        let deployment = match current.filter(same) {
            Some(current) if deployment.restores.is_none() => current.clone(),
            _ => match self.write(name, &deployment) {
                Ok(deployment) => deployment,
                Err(error) => return Err(self.undo(name, &installed.before, error)),
            },
        };
        if let Err(error) = self.keep_still(&deployment.digest) {
            let note = format!("the store may have lost the component: {error}");
            installed.notes.push(note);
        }
        installed.notes.extend(self.collect());
        Ok(Done {
            deployment,
            changed: installed.changed,
            answered: installed.answered,
            notes: installed.notes,
        })
    }

    /// Writes a deployment down. That it is there, although the store has failed, is
    /// no failure.
    fn write(&self, name: &Name, deployment: &Deployment) -> Result<Deployment, DeployError> {
        let push = |record: Option<Record>| match record {
            None => Record::first(name.clone(), deployment.clone()),
            Some(mut record) => {
                record.push(deployment.clone());
                record
            }
        };
        let (record, failure) = match self.store.update(name, push) {
            Ok(record) => (Some(record), None),
            Err(first) => match self.store.record(name) {
                Ok(record) => (record, Some(first)),
                Err(second) => return Err(DeployError::MaybeRecorded { first, second }),
            },
        };
        let is_it = |current: &&Deployment| {
            let number = current.number;
            **current
                == Deployment {
                    number,
                    ..deployment.clone()
                }
        };
        let current = record.as_ref().and_then(Record::current).filter(is_it);
        match (current, failure) {
            (None, Some(failure)) => Err(DeployError::Unrecorded(failure)),
            (current, _) => Ok(current.unwrap_or(deployment).clone()),
        }
    }

    /// Puts a component back that somebody has collected before the record named it.
    fn keep_still(&self, digest: &Digest) -> Result<(), DeployError> {
        match self.store.contains(digest)? {
            true => Ok(()),
            false => self.copy(digest, self.local(), &self.store),
        }
    }

    /// Copies a component from one store to another.
    fn copy(&self, digest: &Digest, from: &Store, to: &Store) -> Result<(), DeployError> {
        let failed = |e: io::Error| DeployError::Read(format!("cannot keep {digest}: {e}"));
        let mut file = tempfile::tempfile_in(self.writing_folder()).map_err(failed)?;
        from.get(digest, &mut file)?;
        file.rewind().map_err(failed)?;
        to.put(&mut file)?;
        Ok(())
    }

    /// Removes what is not needed any more. That this fails is told, and no failure of
    /// what was done before.
    fn collect(&self) -> Option<String> {
        let collect = || -> Result<(), DeployError> {
            self.local.as_ref().map_or(Ok(()), Store::sweep)?;
            // Records do not name all that Unit may use: what others have put into its
            // configuration, and what is there while its record is gone.
            let in_use = origin::digests(&self.control.config()?);
            self.store.collect(GRACE, in_use)?;
            Ok(())
        };
        let error = collect().err()?;
        Some(format!("old components are still there: {error}"))
    }

    /// Sees to it that a component is where Unit reads it, as it should be.
    fn bring_here(&self, digest: &Digest) -> Result<(), DeployError> {
        match (self.local().get(digest, &mut io::sink()), &self.local) {
            (Ok(_), _) => return Ok(()),
            (Err(StoreError::NoComponent(_) | StoreError::Damaged(_)), Some(_)) => {}
            (Err(error), _) => return Err(error.into()),
        }
        self.copy(digest, &self.store, self.local())
    }

    /// Takes an application out of Unit and out of the store. What the operator should
    /// know.
    pub fn remove(&self, name: &Name) -> Result<Option<String>, DeployError> {
        let _lock = self.lock()?;
        let record = self.store.record(name)?;
        let config = self.control.config()?;
        // Without a record, another machine with this store has removed it.
        let is_left = || origin::names(&config, self.local()).contains(name);
        if record.is_none() && !is_left() {
            return Err(DeployError::Unknown(name.clone()));
        }
        self.check_ours(&config, name, record.as_ref())?;
        plan::check_unused(&config, name.as_str())?;
        let wanted = State::none();
        let before = Before::of(&config, name.as_str(), &wanted);
        if let Err(error) = self.bring(|config| plan::next(config, name.as_str(), &wanted)) {
            return Err(self.undo(name, &before, error));
        }
        if let Some(record) = record
            && let Err(error) = self.store.remove(name, &record)
        {
            // It may be gone all the same.
            if !matches!(self.store.record(name), Ok(None)) {
                return Err(self.undo(name, &before, DeployError::Unrecorded(error)));
            }
        }
        Ok(self.collect())
    }
}

/// Whether the component in a file can be served with these settings. Its digest.
fn check_component(
    file: &Path,
    name: &Name,
    settings: &AppSettings,
) -> Result<Digest, DeployError> {
    let app = application(file, None, settings);
    let checked = check::verdict(file, name.as_str(), app);
    let (sha256, problems) = checked.map_err(|error| DeployError::Check(error.to_string()))?;
    if !problems.is_empty() {
        return Err(DeployError::Component(readable(&problems)));
    }
    sha256.parse().map_err(DeployError::Check)
}

/// What is wrong with a component, which may have a say in it, for logs and terminals.
fn readable(problems: &[String]) -> Vec<String> {
    let lines = |problem: &String| -> String {
        let lines: Vec<String> = problem.lines().take(REASONS).map(shown).collect();
        lines.join("\n")
    };
    problems.iter().take(REASONS).map(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_component_says_reaches_no_terminal_as_it_is() {
        let problems = ["it exports \u{1b}[2J\u{202e}\nline\u{7}".to_owned()];
        let expected = "it exports \\u{1b}[2J\\u{202e}\nline\\u{7}";
        assert_eq!(readable(&problems), [expected]);
        let many = vec![format!("{}\n", "x".repeat(9_999)).repeat(99); 99];
        assert!(readable(&many).concat().len() < 20 * 20 * 310);
    }
}
