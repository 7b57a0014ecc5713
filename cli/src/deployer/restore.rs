//! Brings up what is deployed, and tells whether it is there.

use nxt_wasm_store::{Ask, Deployment, Name, Record};
use serde_json::Value;

use super::install::Occasion;
use super::{DeployError, Deployer, Done, Outcome};
use crate::unit::origin;
use crate::unit::state::State;

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

impl Deployer {
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
        let restore = |name: Name| match self.restore(&name, ask) {
            // Another machine has removed it meanwhile.
            Err(DeployError::Unknown(_)) => None,
            result => Some((name, result)),
        };
        Ok(Restored {
            outcomes: names.into_iter().filter_map(restore).collect(),
            left,
        })
    }

    fn restore(&self, name: &Name, ask: Option<&Ask>) -> Result<Done, DeployError> {
        let record = self.store.record(name)?;
        let deployment = record.as_ref().and_then(Record::current).cloned();
        let deployment = deployment.ok_or_else(|| DeployError::Unknown(name.clone()))?;
        self.bring_here(&deployment.digest)?;
        let config = self.control.config()?;
        self.check_ours(&config, name, record.as_ref())?;
        let there = self.state(&config, name, &deployment)? == Running::Yes;
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
