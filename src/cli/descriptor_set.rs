//! `latchkey descriptor-set`: the contract as a file, for tools that do not want to ask a server
//! for it.

use std::{fs, io, path::PathBuf, process::ExitCode};

use super::{failure::Failure, output};
use crate::{exit::Exit, proto};

/// Write the gRPC contract as a descriptor set, for `grpcurl -protoset` and code generators
///
/// The file is a google.protobuf.FileDescriptorSet with all imports. With it, grpcurl works against
/// servers whose reflection is off.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey descriptor-set latchkey.binpb
  grpcurl -plaintext -protoset latchkey.binpb 127.0.0.1:50051 latchkey.v1.Directory/ListOrganizations
  latchkey descriptor-set - | sha256sum")]
pub(super) struct Args {
    /// The file to write; `-` for standard output
    file: PathBuf,
}

impl Args {
    pub(super) fn run(&self) -> ExitCode {
        self.write().map_or_else(|failure| failure.report(false), |()| Exit::Done).into()
    }

    fn write(&self) -> Result<(), Failure> {
        if self.file.as_os_str() == "-" {
            return output::write_all(&mut io::stdout().lock(), proto::DESCRIPTORS);
        }
        fs::write(&self.file, proto::DESCRIPTORS)
            .map_err(|cause| Failure::refused(format!("cannot write {}: {cause}", self.file.display())))
    }
}
