//! Brings applications from a module store into a running Unit.

use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nxt_wasm_store::{
    AppSettings, Ask, Deployment, Digest, GRACE, Name, Record, Store, StoreError,
    read_component_file,
};
use serde_json::{Map, Value, json};

use crate::check;
use crate::terminal::shown;
use crate::unit::client::Address;
use crate::unit::control::{Control, ControlError};
use crate::unit::lock::{self, Lock, LockError};
use crate::unit::origin;
use crate::unit::plan::{self, Before, Change, PlanError, State};
use crate::unit::probe::{self, Answered, Probe};
use crate::unit::route;
use crate::wish::Wish;

/// Attempts at bringing back what was there, and the time between them.
const UNDO_ATTEMPTS: u32 = 4;
const UNDO_PAUSE: Duration = Duration::from_millis(500);
/// Changes of the configuration for one deployment, with those that are made again as
/// others have changed it at the same time.
const MOST_CHANGES: u32 = 32;
/// Attempts at checking a component with settings that others change.
const ATTEMPTS: u32 = 5;
/// Reasons why a component cannot be served, and lines of one, that are told.
const REASONS: usize = 20;

/// What is told of an application that was replaced.
const TAKEN_OVER: &str = "it has replaced an application that was not deployed from this store, \
                          which no rollback brings back";

/// Why something is not deployed. What is in Unit is what was there before, unless it
/// says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// What is asked for cannot be.
    #[error("{0}")]
    Settings(String),
    /// The component cannot be served.
    #[error("it cannot be served: {}", .0.join("; "))]
    Component(Vec<String>),
    /// It could not be found out whether it can.
    #[error("{0}")]
    Check(String),
    /// The component cannot be read.
    #[error("{0}")]
    Read(String),
    /// Another component than the one that was checked, or expected.
    #[error("the component has the SHA-256 {found}, and not {wanted}")]
    Digest {
        /// What it has.
        found: Digest,
        /// What was expected.
        wanted: Digest,
    },
    /// There is no such application.
    #[error("\"{0}\" is not deployed from this store")]
    Unknown(Name),
    /// There is nothing to go back to.
    #[error("\"{name}\": {problem}")]
    NoTarget {
        /// The application.
        name: Name,
        /// What is missing.
        problem: String,
    },
    /// The store fails. Unit has not been told anything yet.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The store could not write down what Unit had, so that it was taken back.
    #[error("{0}")]
    Unrecorded(StoreError),
    /// The same, but the store may have written it down.
    #[error(
        "{first}; and whether it was written all the same is not known: {second}. Unit has what \
         it had before; deploy again, or the store may bring up the other version later"
    )]
    MaybeRecorded {
        /// What went wrong first.
        first: StoreError,
        /// What went wrong when it was read.
        second: StoreError,
    },
    /// Others change the same all the time.
    #[error("{0}; try again")]
    Busy(&'static str),
    /// Somebody else is at it.
    #[error("{0}")]
    Lock(#[from] LockError),
    /// It does not fit into the configuration.
    #[error("{0}")]
    Plan(#[from] PlanError),
    /// Unit does not answer, or says no.
    #[error("{0}")]
    Control(#[from] ControlError),
    /// Unit has failed on the way, so that what was changed was taken back.
    #[error("{0}; Unit has what it had before")]
    Undone(ControlError),
    /// The application has no answer, so that it was taken back.
    #[error("it does not answer ({0}), and was taken back: Unit has what it had before")]
    Probe(String),
    /// The application has no answer, and was left there, as Unit had nothing else.
    #[error("it was brought up, and does not answer ({0})")]
    Silent(String),
    /// It cannot be asked.
    #[error("it cannot be asked whether it answers: {0}")]
    NoProbe(String),
    /// And it could not be taken back.
    #[error("{first}; and what was there before could not be brought back: {second}")]
    Stuck {
        /// What went wrong first.
        first: Box<DeployError>,
        /// What went wrong then.
        second: Box<DeployError>,
    },
}

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

/// How it went with all applications of a store.
pub struct Restored {
    /// Those that are to be there.
    pub outcomes: Vec<(Name, Outcome)>,
    /// Those that deployments from the store have put into Unit, and that it has no record
    /// of: another machine may have removed them. They are left alone.
    pub left: Vec<Name>,
}

impl Restored {
    /// What is told of one that was left.
    pub fn about(left: &Name) -> String {
        format!(
            "{left}: Unit has it from this store, which has no record of it any more: `nxt-wasm \
             remove {left}` takes it out"
        )
    }
}

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

/// What something is put into Unit for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// It has yet to show that it answers.
    New,
    /// It was deployed before.
    BringUp,
}

/// What was changed in Unit for a deployment.
struct Installed {
    changed: bool,
    answered: Option<Answered>,
    before: Before,
    notes: Vec<String>,
}

/// How Unit was brought to where it is to be.
#[derive(Default)]
struct Brought {
    changed: bool,
    /// Whether somebody else has changed `routes` at the same moment.
    disturbed: bool,
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
                let foreign = self.is_foreign(name)?;
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

    /// Whether Unit has an application of this name that neither a record of the store
    /// nor the application itself says to be deployed from here.
    fn is_foreign(&self, name: &Name) -> Result<bool, DeployError> {
        if self.store.record(name)?.is_some() {
            return Ok(false);
        }
        let config = self.control.config()?;
        plan::check_type(&config, name.as_str())?;
        let app = plan::member(&config, "applications", name.as_str());
        // One that is ours, and not recorded, is of a deployment that was killed.
        Ok(app.is_some_and(|app| !origin::is_from(app, self.local())))
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

    /// Makes one change after the other, until `next` has none. The configuration is
    /// read anew for each, as others change it, too.
    fn bring(
        &self,
        next: impl Fn(&Value) -> Result<Option<Change>, PlanError>,
    ) -> Result<Brought, DeployError> {
        let mut brought = Brought::default();
        let mut config = self.control.config()?;
        for _ in 0..MOST_CHANGES {
            let Some(change) = next(&config)? else {
                return Ok(brought);
            };
            if change.is_risky() {
                // What Unit is at, as others have asked for it, was not to be seen.
                self.control.wait_for_others()?;
                let now = self.control.config()?;
                if now != config {
                    config = now;
                    continue;
                }
            }
            let routes = change.routes(&config);
            change.apply(&self.control)?;
            brought.changed = true;
            config = self.control.config()?;
            brought.disturbed |= routes.is_some() && routes.as_ref() != config.get("routes");
        }
        Err(DeployError::Busy(
            "Unit's configuration is being changed by others all the time",
        ))
    }

    /// Changes Unit's configuration, and waits for an answer. After an error, it is
    /// what it was, but for [`DeployError::Silent`].
    fn install(
        &self,
        name: &Name,
        deployment: &Deployment,
        record: Option<&Record>,
        ask: &Ask,
        occasion: Occasion,
    ) -> Result<Installed, DeployError> {
        let config = self.control.config()?;
        plan::check_type(&config, name.as_str())?;
        let settings = &deployment.settings;
        let app = self.application(&deployment.digest, settings)?;
        let mut wanted = State::of(name.as_str(), app, settings);
        let current = record.and_then(Record::current);
        // One that is there was put there by hand then.
        wanted.leaves_step =
            wanted.step.is_none() && current.is_none_or(|c| c.settings.routes.is_empty());
        // Whether it fits, before anything is changed.
        plan::changes(&config, name.as_str(), &wanted)?;
        let before = Before::of(&config, name.as_str(), &wanted);
        let mut notes = Vec::new();
        let probe = match self.probe(&config, name, settings, ask) {
            // It did answer when it was deployed.
            Err(DeployError::NoProbe(problem)) if occasion == Occasion::BringUp => {
                notes.push(format!("it was not asked whether it answers: {problem}"));
                None
            }
            Ok(None) if *ask == Ask::Route => {
                let note = "it has no route, and was not asked whether it answers: --probe";
                notes.push(note.to_owned());
                None
            }
            probe => probe?,
        };
        let brought = match self.bring(|config| plan::next(config, name.as_str(), &wanted)) {
            Ok(brought) => brought,
            Err(error) => return Err(self.undo(name, &before, error)),
        };
        if brought.disturbed {
            notes.push(
                "somebody else has changed \"routes\" at the same moment: see whether all is there"
                    .to_owned(),
            );
        }
        let answered = match probe.map(|probe| probe.ask()).transpose() {
            Ok(answered) => answered,
            // Requests fail either way, and it may only wait for something else to start.
            Err(problem) if occasion == Occasion::BringUp && before.had_nothing() => {
                return Err(DeployError::Silent(problem));
            }
            Err(problem) => {
                return Err(self.undo(name, &before, DeployError::Probe(problem)));
            }
        };
        Ok(Installed {
            changed: brought.changed,
            answered,
            before,
            notes,
        })
    }

    /// Brings back what was there, and says why.
    fn undo(&self, name: &Name, before: &Before, why: DeployError) -> DeployError {
        for attempt in 1.. {
            match self.bring(|config| before.next(config, name.as_str())) {
                Ok(_) => {
                    return match why {
                        DeployError::Control(error) => DeployError::Undone(error),
                        other => other,
                    };
                }
                // Its router may have crashed, and is being started again.
                Err(_) if attempt < UNDO_ATTEMPTS => std::thread::sleep(UNDO_PAUSE),
                Err(second) => {
                    return DeployError::Stuck {
                        first: Box::new(why),
                        second: Box::new(second),
                    };
                }
            }
        }
        why
    }

    fn application(&self, digest: &Digest, settings: &AppSettings) -> Result<Value, DeployError> {
        let path = self.local().component_path(digest);
        let path = path.ok_or_else(|| StoreError::NoComponent(digest.clone()))?;
        Ok(application(&path, Some(digest), settings))
    }

    /// How the application is to be asked in `config`, once it is there.
    fn probe(
        &self,
        config: &Value,
        name: &Name,
        settings: &AppSettings,
        ask: &Ask,
    ) -> Result<Option<Probe>, DeployError> {
        let app = format!("applications/{name}");
        let path = match (ask, settings.routes.first()) {
            (Ask::Nothing, _) => return Ok(None),
            (Ask::Path(path), _) => path.clone(),
            (Ask::Route, Some(route)) => route::example(route),
            // Who would answer is known if a listener passes to nobody else.
            (Ask::Route, None) => {
                let address = probe::listener(config, &[&app], None).ok();
                return Ok(address.map(|(address, _)| self.question(address, "/", settings)));
            }
        };
        let mut config = config.clone();
        let wanted = settings.listener.as_deref();
        let listeners = config.get_mut("listeners").and_then(Value::as_object_mut);
        match (wanted, listeners) {
            (Some(at), Some(listeners)) if !listeners.contains_key(at) => {
                listeners.insert(at.to_owned(), json!({ "pass": "routes" }));
            }
            (Some(at), None) => {
                let listeners = Map::from_iter([(at.to_owned(), json!({ "pass": "routes" }))]);
                if let Some(config) = config.as_object_mut() {
                    config.insert("listeners".to_owned(), Value::Object(listeners));
                }
            }
            _ => {}
        }
        let address = probe::listener(&config, &["routes", &app], wanted);
        let (address, pass) = address.map_err(DeployError::NoProbe)?;
        let routes = &settings.routes;
        // By a step that was made by hand, any path may lead to it.
        let is_own = routes.is_empty() || routes.iter().any(|route| route::takes(route, &path));
        if pass == "routes" && !is_own {
            return Err(DeployError::NoProbe(format!(
                "--probe {path} is no path of its routes ({}): somebody else would answer",
                routes.join(", ")
            )));
        }
        Ok(Some(self.question(address, &path, settings)))
    }

    fn question(&self, address: Address, path: &str, settings: &AppSettings) -> Probe {
        Probe {
            address,
            path: path.to_owned(),
            host: match &settings.host {
                Some(host) => host.replace('*', "probe"),
                None => "localhost".to_owned(),
            },
            timeout: self.probe_timeout,
        }
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
        plan::check_type(&config, name.as_str())?;
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

    /// Brings up everything in the store. What Unit has as it should be is left alone, and
    /// not asked; what it has otherwise becomes what it should be. Each is asked as when it
    /// was deployed, unless `ask` says how.
    pub fn restore_all(&self, ask: Option<&Ask>) -> Result<Restored, DeployError> {
        let _lock = self.lock()?;
        // Nothing is done if Unit is not there at all.
        let config = self.control.config()?;
        let names = self.store.names()?;
        let mut left = origin::names(&config, self.local());
        left.retain(|name| !names.contains(name));
        let restore = |name: Name| {
            let result = self.restore(&name, ask);
            (name, result)
        };
        Ok(Restored {
            outcomes: names.into_iter().map(restore).collect(),
            left,
        })
    }

    fn restore(&self, name: &Name, ask: Option<&Ask>) -> Result<Done, DeployError> {
        let record = self.store.record(name)?;
        let deployment = record.as_ref().and_then(Record::current).cloned();
        let deployment = deployment.ok_or_else(|| DeployError::Unknown(name.clone()))?;
        self.bring_here(&deployment.digest)?;
        let there = self.state(&self.control.config()?, name, &deployment)? == Running::Yes;
        let ask = match there {
            true => &Ask::Nothing,
            false => ask.unwrap_or(&deployment.probe),
        };
        let occasion = Occasion::BringUp;
        let installed = self.install(name, &deployment, record.as_ref(), ask, occasion)?;
        Ok(Done {
            deployment,
            changed: installed.changed,
            answered: installed.answered,
            notes: installed.notes,
        })
    }

    /// Whether a configuration has a deployment.
    pub fn state(
        &self,
        config: &Value,
        name: &Name,
        deployment: &Deployment,
    ) -> Result<Running, DeployError> {
        let app = self.application(&deployment.digest, &deployment.settings)?;
        let wanted = State::of(name.as_str(), app, &deployment.settings);
        let now = State::now(config, name.as_str());
        let has_step = wanted.step.is_none() || wanted.step == now.step;
        Ok(match (now.app, wanted.app) {
            (None, _) => Running::No,
            (now, wanted) if now == wanted && has_step => Running::Yes,
            _ => Running::Different,
        })
    }
}

/// Whether Unit has what is deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// It does.
    Yes,
    /// It has something else of that name.
    Different,
    /// It has nothing of that name.
    No,
}

impl Running {
    /// For people and scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yes => "running",
            Self::Different => "different",
            Self::No => "absent",
        }
    }
}

/// The application object for a component.
fn application(path: &Path, digest: Option<&Digest>, settings: &AppSettings) -> Value {
    let mut environment: Map<String, Value> = Map::new();
    let settings_and_variables = settings.environment.iter().chain(&settings.limits);
    for (key, value) in settings_and_variables {
        environment.insert(key.clone(), json!(value));
    }
    if let Some(digest) = digest {
        environment.insert("UNIT_WASM_SHA256".to_owned(), json!(digest));
    }
    let mut app = settings.members.clone();
    app.insert("type".to_owned(), json!("wasm-wasi-component"));
    app.insert("component".to_owned(), json!(path));
    if let Some(processes) = settings.processes {
        app.insert("processes".to_owned(), json!(processes));
    }
    app.insert("environment".to_owned(), Value::Object(environment));
    Value::Object(app)
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

    #[test]
    fn the_application_object() {
        let wish = Wish {
            processes: Some(2),
            environment: vec![("A".to_owned(), "b".to_owned())],
            limits: vec![("UNIT_WASM_FUEL".to_owned(), "5".to_owned())],
            base: Map::from_iter([("user".to_owned(), json!("web"))]),
            ..Wish::default()
        };
        let settings = wish.settings("shop", None).unwrap();
        let digest = Digest::of(b"x");
        let app = application(Path::new("/store/x.wasm"), Some(&digest), &settings);
        let expected = json!({
            "type": "wasm-wasi-component",
            "component": "/store/x.wasm",
            "processes": 2,
            "user": "web",
            "environment": {
                "A": "b",
                "UNIT_WASM_FUEL": "5",
                "UNIT_WASM_SHA256": digest.as_str(),
            },
        });
        assert_eq!(app, expected);
    }
}
