//! Any manifest and any model files are a bundle or an error. The digest of a changed file is made
//! to fit, so that its bytes get past it and into the readers of ONNX and of golden values.
#![no_main]

use std::fs;
use std::path::Path;

use castwatch_models::Bundle;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

const MANIFEST: &str = "bundle.toml";

fn digest(bytes: &[u8]) -> String {
    castwatch_core::event::hex(&Sha256::digest(bytes))
}

// The first bytes say which file of a sound bundle the rest replaces or is spliced into.
fuzz_target!(|input: (u8, u16, Vec<u8>)| {
    let (which, at, bytes) = input;
    let sound = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bundles/default");
    let folder = tempfile::tempdir().expect("a folder");
    let mut names: Vec<_> =
        fs::read_dir(&sound).expect("the default bundle").flatten().map(|e| e.file_name()).collect();
    names.sort();
    for name in &names {
        fs::copy(sound.join(name), folder.path().join(name)).expect("a copy");
    }
    let victim = folder.path().join(&names[usize::from(which) % names.len()]);
    let mut whole = fs::read(&victim).expect("a file");
    let from = usize::from(at) * 16 % (whole.len() + 1);
    let to = (from + bytes.len()).min(whole.len());
    whole.splice(from..to, bytes);
    fs::write(&victim, &whole).expect("a write");
    if !victim.ends_with(MANIFEST) {
        let was = digest(&fs::read(sound.join(victim.file_name().expect("a name"))).expect("a file"));
        let manifest = fs::read_to_string(sound.join(MANIFEST)).expect("the manifest");
        fs::write(folder.path().join(MANIFEST), manifest.replace(&was, &digest(&whole))).expect("a write");
    }
    let _ = Bundle::load(folder.path());
    let _ = Bundle::draft(folder.path());
});
