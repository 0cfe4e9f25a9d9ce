//! `Debug` for the messages that hold passwords: their names and fields, never the password.

use std::fmt;

use crate::proto;

macro_rules! redacted {
    ($message:ident: $($field:ident),*) => {
        impl fmt::Debug for proto::$message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($field), &self.$field))*
                    .field("password", &format_args!("[redacted]"))
                    .finish()
            }
        }
    };
}

redacted!(AuthenticateRequest: address, protocol, client_ip, frontend);
redacted!(CreateDeviceRequest: address, display_name, user_id, allowed_protocols, allowed_networks, expire_time, request_id);
redacted!(CreateDeviceResponse: device);
redacted!(ChangePasswordRequest: address, device_id, request_id, max_wait);
redacted!(ChangePasswordResponse: device, revocation);
