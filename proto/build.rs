//! Compiles the protobuf files in Rust alone: no protoc to install.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

const FILES: [&str; 4] = [
    "tollgate/v1/resources.proto",
    "tollgate/admin/v1/admin.proto",
    "tollgate/peer/v1/peer.proto",
    "tollgate/state/v1/state.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=tollgate");
    let descriptors = protox::Compiler::new(["."])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(FILES)?
        .file_descriptor_set();
    let bytes = prost::Message::encode_to_vec(&descriptors);
    fs::write(out.join("descriptors.bin"), &bytes)?;
    tonic_prost_build::configure()
        .bytes(".tollgate.peer.v1")
        // What is passed on as it came. Hashes and amounts are short: a vector is cheaper to encode.
        .bytes(".tollgate.state.v1.Command")
        .bytes(".tollgate.state.v1.Hold")
        .bytes(".tollgate.state.v1.Settle")
        // One order of map entries everywhere: what is replicated must encode to the same bytes on every node.
        .btree_map(".")
        .boxed(".tollgate.state.v1.Hold.attribution")
        .boxed(".tollgate.state.v1.Settle.attribution")
        .boxed(".tollgate.state.v1.Orphan.attribution")
        .boxed(".tollgate.state.v1.JournalAdmit.attribution")
        .boxed(".tollgate.state.v1.HoldRow.attribution")
        .compile_fds(descriptors)?;
    share(&out.join("tollgate.state.v1.rs"), "Attribution", 5)?;
    pbjson_build::Builder::new()
        .register_descriptors(&bytes)?
        .btree_map(["."])
        .build(&[".tollgate.v1", ".tollgate.admin.v1"])?;
    Ok(())
}

/// Boxed fields of a message, of which there are so many, are shared instead: prost knows of boxes alone. On the wire all are the same.
fn share(generated: &Path, message: &str, fields: usize) -> Result<(), Box<dyn Error>> {
    let code = fs::read_to_string(generated)?;
    let boxed = format!("::prost::alloc::boxed::Box<{message}>");
    if code.matches(&boxed).count() != fields {
        return Err(format!("{message} is boxed in {} fields, not in {fields}", code.matches(&boxed).count()).into());
    }
    fs::write(generated, code.replace(&boxed, &format!("crate::Shared<{message}>")))?;
    Ok(())
}
