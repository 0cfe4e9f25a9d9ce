//! The transactions of use cases: those of [`crate::store::transact`], refused in their words.

pub use crate::store::transact::Finish;
use crate::{
    manage::Refusal,
    store::{Store, Transaction, transact},
};

/// See [`transact::write`].
pub async fn write<T, Running>(store: &dyn Store, name: &'static str, run: impl Fn(Transaction) -> Running) -> Result<T, Refusal>
where
    Running: Future<Output = Result<Finish<T>, Refusal>>,
{
    transact::write(store, name, run).await
}

/// See [`transact::write_once`].
pub async fn write_once<T, Running>(
    store: &dyn Store,
    name: &'static str,
    run: impl FnOnce(Transaction) -> Running,
) -> Result<T, Refusal>
where
    Running: Future<Output = Result<Finish<T>, Refusal>>,
{
    transact::write_once(store, name, run).await
}

/// See [`transact::read`].
pub async fn read<T, Running>(
    store: &dyn Store,
    name: &'static str,
    run: impl FnOnce(Transaction) -> Running,
) -> Result<T, Refusal>
where
    Running: Future<Output = Result<T, Refusal>>,
{
    transact::read(store, name, run).await
}

/// See [`transact::retried`].
pub async fn retried<T, Running>(run: impl Fn() -> Running) -> Result<T, Refusal>
where
    Running: Future<Output = Result<T, Refusal>>,
{
    transact::retried(run).await
}
