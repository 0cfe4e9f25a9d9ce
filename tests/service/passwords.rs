//! Chosen and generic passwords through the whole service.

use latchkey::proto::{self, DeviceKind, Reason};
use tonic::Code;

use crate::{
    server::{StoreKind, stands_in},
    world::{ADDRESS, SERVICE, World, attempt, on_each_store, reason_of},
};

on_each_store!(
    a_generic_password_works_and_is_not_changeable,
    a_generic_password_is_kept_better_after_its_first_login,
    generic_logins_can_be_switched_off,
    a_generic_password_that_is_put_again_still_works,
    a_weak_chosen_password_is_refused_with_its_reason,
    no_password_stands_in_the_store_or_in_a_log,
);

pub(crate) const GENERIC: &str = "old-and-known";
/// `openssl passwd -6 -salt servicetests old-and-known`
pub(crate) const GENERIC_HASH: &str =
    "$6$servicetests$YEs98KVHejk/A.yKDgQWWpjPG9Mk3nt7xDdIT1VOmwYGXGVjROGujz3RNEr3oAUx9SBiHVcpJPqFjY.a3WkMI0";

async fn a_generic_password_works_and_is_not_changeable(store: StoreKind) {
    let mut world = World::new(store).await;
    world.put_mailbox(ADDRESS, GENERIC_HASH).await;
    assert_eq!(world.reason(GENERIC).await, Reason::Ok);
    assert_eq!(world.reason("guessed").await, Reason::WrongPassword);
    let generic = world.list().await.devices.remove(0);
    assert_eq!((generic.kind(), generic.can_change_password), (DeviceKind::Generic, false));
    let request =
        proto::ChangePasswordRequest { address: ADDRESS.into(), device_id: generic.device_id.clone(), ..Default::default() };
    let status = world.devices.change_password(request).await.expect_err("a generic one");
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::FailedPrecondition, "GENERIC_PASSWORD_NOT_CHANGEABLE"));
    world.disconnect(&generic).await;
    assert_eq!(world.reason(GENERIC).await, Reason::DeviceDisconnected);
}

async fn a_generic_password_is_kept_better_after_its_first_login(store: StoreKind) {
    let mut world = World::new(store).await;
    world.put_mailbox(ADDRESS, GENERIC_HASH).await;
    let before = world.login(GENERIC).await;
    assert_eq!(before.reason(), Reason::Ok);
    // The upgrade is a change like any other: the log goes on, and the login after it is judged as
    // of then.
    while world.login(GENERIC).await.revision == before.revision {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.reason(GENERIC).await, Reason::Ok);
    if world.ground.database.is_none() {
        let file = world.ground.data_dir().join("latchkey.db");
        world.server.signal(rustix::process::Signal::TERM);
        assert!(world.server.wait().success());
        let connection = rusqlite::Connection::open(file).expect("the store's file");
        let hash: String =
            connection.query_row("SELECT hash FROM device WHERE hash IS NOT NULL", [], |row| row.get(0)).expect("one hash");
        assert!(hash.starts_with("$argon2id$"), "{hash}");
    }
}

/// The memo of its former generation proves that it is the former one's, too.
async fn a_generic_password_that_is_put_again_still_works(store: StoreKind) {
    let mut world = World::new(store).await;
    for _ in 0..2 {
        world.put_mailbox(ADDRESS, GENERIC_HASH).await;
        assert_eq!(world.reason(GENERIC).await, Reason::Ok);
        assert_eq!(world.reason(GENERIC).await, Reason::Ok, "from the memo");
    }
}

async fn generic_logins_can_be_switched_off(store: StoreKind) {
    let mut world = World::new(store).await;
    world.put_mailbox(ADDRESS, GENERIC_HASH).await;
    let (_, generated) = world.add("Phone").await;
    assert_eq!(world.reason(GENERIC).await, Reason::Ok);
    use proto::set_generic_login_request::Scope;
    for scope in [Scope::Address(ADDRESS.into()), Scope::MailServiceId(SERVICE.into())] {
        let set = |enabled| proto::SetGenericLoginRequest { scope: Some(scope.clone()), enabled, ..Default::default() };
        world.devices.set_generic_login(set(false)).await.expect("off");
        assert_eq!(world.reason(GENERIC).await, Reason::GenericLoginOff, "{scope:?}");
        assert_eq!(world.reason(&generated).await, Reason::Ok, "others are left alone");
        let listed = world.list().await.devices;
        assert!(listed.iter().all(|device| device.login_enabled == (device.kind() != DeviceKind::Generic)));
        world.devices.set_generic_login(set(true)).await.expect("on");
        assert_eq!(world.reason(GENERIC).await, Reason::Ok, "{scope:?}");
    }
}

async fn a_weak_chosen_password_is_refused_with_its_reason(store: StoreKind) {
    let mut world = World::new(store).await;
    for (password, reason) in [
        ("short", "PASSWORD_TOO_SHORT"),
        (&*"x".repeat(129), "PASSWORD_TOO_LONG"),
        ("aaaaaaaaaaaaaaaaaaaa", "PASSWORD_TOO_WEAK"),
        ("alice@example.com-and-more", "PASSWORD_CONTAINS_ADDRESS"),
    ] {
        let request = proto::CreateDeviceRequest {
            address: ADDRESS.into(),
            display_name: "Scanner".into(),
            password: password.into(),
            ..Default::default()
        };
        let status = world.devices.create_device(request).await.expect_err(reason);
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::InvalidArgument, reason));
        assert!(!status.message().contains(password), "no error repeats a password");
    }
    assert!(world.names().await.is_empty());
}

async fn no_password_stands_in_the_store_or_in_a_log(store: StoreKind) {
    let mut world = World::with(store, &["--log", "trace"]).await;
    let chosen = "violet-anchor-breeze-47";
    let request = proto::CreateDeviceRequest {
        address: ADDRESS.into(),
        display_name: "Scanner".into(),
        password: chosen.into(),
        ..Default::default()
    };
    world.add_with(request).await;
    let (_, generated) = world.add("Phone").await;
    let wrong = "a-wrong-guess-of-somebody";
    for password in [chosen, &generated, wrong] {
        world.login(password).await;
    }
    let mut request = attempt("not an address", wrong);
    request.protocol = 77;
    world.logins.authenticate(request).await.expect_err("refused");
    let log = world.server.log();
    assert!(!log.is_empty());
    let compact = generated.replace('-', "");
    for password in [chosen, &generated, &compact, wrong] {
        assert!(!log.contains(password), "a password is in the log");
        for file in std::fs::read_dir(world.ground.data_dir()).expect("the data directory").flatten() {
            assert!(!stands_in(password, &file.path()), "a password is in {}", file.path().display());
        }
    }
}
