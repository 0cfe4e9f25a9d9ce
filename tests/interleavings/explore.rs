//! Which interleavings are looked at: steps of any thread in any order, and long stretches of one
//! thread at a time. The latter stop a thread between two steps for as long as another one needs
//! for a whole login, which by steps of any thread hardly ever happens.

use std::sync::Arc;

use shuttle::{
    Config, Runner,
    scheduler::{RandomScheduler, Schedule, Scheduler, Task, TaskId},
};

/// A thread's, in bytes: the library's frames are deep without optimization.
const STACK_SIZE: usize = 0x4_0000;
/// A stretch's steps, on average.
const STRETCH: u64 = 8;

/// Runs a world so many times, half of them in either manner.
pub(crate) fn explore(world: impl Fn() + Send + Sync + 'static, runs: usize) {
    let mut config = Config::new();
    config.stack_size = STACK_SIZE;
    let world = Arc::new(world);
    for stretch in [1, STRETCH] {
        let world = Arc::clone(&world);
        let scheduler = Stretches { choice: RandomScheduler::new(runs / 2), stretch };
        Runner::new(scheduler, config.clone()).run(move || world());
    }
}

/// Goes on with the same thread for a while, then chooses one at random.
struct Stretches {
    choice: RandomScheduler,
    stretch: u64,
}

impl Scheduler for Stretches {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.choice.new_execution()
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        let goes_on = !is_yielding && !self.choice.next_u64().is_multiple_of(self.stretch);
        let same = current.filter(|current| goes_on && runnable.iter().any(|task| task.id() == *current));
        same.or_else(|| self.choice.next_task(runnable, current, is_yielding))
    }

    fn next_u64(&mut self) -> u64 {
        self.choice.next_u64()
    }
}
