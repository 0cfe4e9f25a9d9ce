//! Floor 4: the gRPC doors. They parse what comes in, call a use case, and turn its answer into a message; they hold no rules.

mod redacted;
