//! AwaitRevocation: how far an earlier call's change has come.

use super::Devices;
use crate::{
    manage::{
        Refusal, authorize,
        mutation::{Made, confirmed_change},
        revocation::Revocation,
        transact,
    },
    replication::confirmation::{ChangeLost, Wait},
    store::{Api, Logged, MadeBy, Transaction},
};
use latchkey_core::model::{
    Invalid,
    caller::Requester,
    change::{Revision, RevocationId},
};

/// Of which service's calls somebody may await the revocations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MayAwait {
    pub device_credentials: bool,
    pub directory: bool,
}

impl Devices {
    /// Goes on waiting for a revocation, with the same rights as the call that made it.
    pub async fn await_revocation(
        &self,
        who: &Requester,
        may: MayAwait,
        id: RevocationId,
        wait: Wait,
    ) -> Result<Revocation, Refusal> {
        let logged = transact::read(&*self.store, "await_revocation", |mut tx| async move {
            let logged = find(&mut tx, id).await?;
            permit(&mut tx, who, may, logged.made_by.as_ref()).await?;
            Ok(logged)
        })
        .await?;
        confirmed_change(&self.feed, Made::from(&logged), wait).await
    }
}

async fn find(tx: &mut Transaction, RevocationId(position): RevocationId) -> Result<Logged, Refusal> {
    match tx.logged(position.revision).await? {
        Some(logged) if logged.position == position => Ok(logged),
        // The number is another change's now.
        Some(_) => Err(ChangeLost.into()),
        // A database that has gone back has a lower head.
        None if position.revision > tx.revision().await? => Err(ChangeLost.into()),
        None if position.revision == Revision::default() => {
            Err(Invalid::new("revocation_id", "must be that of a revocation that was answered").into())
        }
        None => Err(Invalid::new("revocation_id", "must be that of a revocation of the last hour").into()),
    }
}

async fn permit(tx: &mut Transaction, who: &Requester, may: MayAwait, made_by: Option<&MadeBy>) -> Result<(), Refusal> {
    let Some(MadeBy { api, organization_id, mail_service_id }) = made_by else {
        // Nobody was answered this one. Who has all roles may know of it.
        return authorize::nobody_else(who).and(if may.device_credentials { Ok(()) } else { Err(Refusal::ActorNotPermitted) });
    };
    let has_role = match api {
        Api::DeviceCredentials => may.device_credentials,
        Api::Directory => may.directory,
    };
    if !has_role {
        return Err(Refusal::RoleMissing(*api));
    }
    match organization_id {
        Some(organization) => authorize::standing(tx, who, organization, mail_service_id.as_ref()).await,
        None => authorize::nobody_else(who),
    }
}
