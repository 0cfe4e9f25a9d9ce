//! Answers to a stream, made by a task of their own. A panic in it ends the stream with an error,
//! because an end without one would look like success.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::error;

use super::status;

pub(super) type Answers<T> = mpsc::Sender<Result<T, Status>>;

/// Runs `task`, and hands out what it answers. At most `buffered` answers wait for a reader.
pub(super) fn answered_by<T, F>(buffered: usize, task: impl FnOnce(Answers<T>) -> F) -> ReceiverStream<Result<T, Status>>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (answers, to_send) = mpsc::channel(buffered);
    let task = AssertUnwindSafe(task(answers.clone())).catch_unwind();
    tokio::spawn(async move {
        if task.await.is_err() {
            error!("a stream's task panicked; the others go on");
            // If nobody reads the stream any more, nobody is misled.
            let _ = answers.send(Err(status::internal())).await;
        }
    });
    ReceiverStream::new(to_send)
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_ends_a_stream_with_an_error() {
        let mut answers = answered_by(1, |answers| async move {
            answers.send(Ok(1)).await.unwrap();
            panic!("as tested");
        });
        assert_eq!(answers.next().await.unwrap().unwrap(), 1);
        assert_eq!(answers.next().await.unwrap().unwrap_err().code(), tonic::Code::Internal);
        assert!(answers.next().await.is_none());
    }
}
