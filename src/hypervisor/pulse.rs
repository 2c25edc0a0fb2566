//! What passes between an action and who waits for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

/// A step within one action, in the order they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The domain is being defined.
    Define,
    /// Volumes are being made.
    Disks,
    /// The seed is being written.
    Seed,
    /// The domain is being started.
    Start,
    /// The guest was asked to shut down.
    ShutDown,
    /// The domain is being switched off.
    Destroy,
    /// Volumes are being deleted.
    DeleteDisks,
    /// The domain is being undefined.
    Undefine,
    /// Bytes are being sent.
    Upload,
    /// Bytes are being read back.
    Verify,
    /// The running guest is being moved to another host.
    Migrate,
}

/// News from inside an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A stage began.
    Stage(Stage),
    /// So many bytes of so many are done in this stage.
    Bytes {
        /// Done.
        done: u64,
        /// In all.
        total: u64,
    },
}

/// The thread between an action and who waits for it: news up, cancellation down, and a sign of life.
pub struct Pulse {
    born: Instant,
    beat: AtomicU64,
    cancelled: AtomicBool,
    sink: Box<dyn Fn(News) + Send + Sync>,
}

impl Pulse {
    /// A pulse whose news go to `sink`.
    pub fn new(sink: impl Fn(News) + Send + Sync + 'static) -> Self {
        Self {
            born: Instant::now(),
            beat: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            sink: Box::new(sink),
        }
    }

    /// A pulse nobody listens to.
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    /// Says that a stage begins.
    pub fn stage(&self, stage: Stage) {
        self.beat();
        (self.sink)(News::Stage(stage));
    }

    /// Says how many bytes are done.
    pub fn bytes(&self, done: u64, total: u64) {
        self.beat();
        (self.sink)(News::Bytes { done, total });
    }

    /// A sign of life: a call has just returned.
    pub fn beat(&self) {
        self.beat.store(
            u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// Time since the last sign of life.
    pub fn silence(&self) -> Duration {
        self.born
            .elapsed()
            .saturating_sub(Duration::from_millis(self.beat.load(Ordering::Relaxed)))
    }

    /// Asks the action to stop at its next safe point.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
