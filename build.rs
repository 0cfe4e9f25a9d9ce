//! Compiles `proto/` without a system protoc: protox parses, tonic generates.

use std::{env, fs, path::PathBuf};

use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

const FILES: [&str; 3] =
    ["latchkey/v1/authorization.proto", "latchkey/v1/device_credentials.proto", "latchkey/v1/directory.proto"];

/// Messages that hold a password: their derived `Debug` would print it. `src/grpc/redacted.rs`
/// gives them one that doesn't.
const HOLD_PASSWORDS: [&str; 5] =
    ["AuthenticateRequest", "CreateDeviceRequest", "CreateDeviceResponse", "ChangePasswordRequest", "ChangePasswordResponse"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    accept_password_bytes(&mut descriptors);
    let mut config = prost_build::Config::new();
    // The command line finds a message's descriptor by its name, to print it as JSON.
    config.enable_type_names();
    // The one that tonic makes error details of.
    config.extern_path(".google.rpc.Status", "::tonic_types::Status");
    config.skip_debug(HOLD_PASSWORDS.map(|message| format!(".latchkey.v1.{message}")));
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// A mail program may send a password that is not UTF-8: it must reach us, to be denied. The
/// published proto says `string`, which grpcurl and JSON can write; our own decoder takes it as
/// `bytes`, the same on the wire.
fn accept_password_bytes(descriptors: &mut FileDescriptorSet) {
    let messages = descriptors.file.iter_mut().flat_map(|file| &mut file.message_type);
    for message in messages.filter(|message| message.name() == "AuthenticateRequest") {
        for field in message.field.iter_mut().filter(|field| field.name() == "password") {
            field.set_type(Type::Bytes);
        }
    }
}
