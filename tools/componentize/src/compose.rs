//! Makes one component of two, as `wac plug` does: what the one exports becomes
//! what the other imports.

use anyhow::{Context, Result};
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, PackageId, plug};

/// The component `socket`, with its imports satisfied by `plug` as far as that
/// exports them. What both import is imported once.
pub fn compose(plug_bytes: &[u8], socket_bytes: &[u8]) -> Result<Vec<u8>> {
    let mut graph = CompositionGraph::new();
    let plugged = register(&mut graph, "plug", plug_bytes)?;
    let socket = register(&mut graph, "socket", socket_bytes)?;
    plug(&mut graph, vec![plugged], socket)?;
    Ok(graph.encode(EncodeOptions::default())?)
}

// The names are those of the parts within the graph, and tell what an error is about.
fn register(graph: &mut CompositionGraph, name: &str, bytes: &[u8]) -> Result<PackageId> {
    let package = Package::from_bytes(name, None, bytes.to_vec(), graph.types_mut())
        .with_context(|| format!("the {name} is no component that can be composed"))?;
    Ok(graph.register_package(package)?)
}
