//! The applications under `example/` that are more than a component, each as its
//! README says it is configured.

mod cipher;
mod events;
mod function;
mod module;
mod routes;

use crate::Case;

pub fn cases() -> Vec<Case> {
    [
        function::cases(),
        cipher::cases(),
        module::cases(),
        routes::cases(),
        events::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
