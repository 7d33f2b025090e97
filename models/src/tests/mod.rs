//! Bundles made on the spot, each with its outputs computed a second, naive way.

mod default_bundle;
mod histories;
mod loading;
mod manifests;
mod mutations;
mod onnx;
mod shapley;
mod tiny;
mod trees;
