//! Work beside the caller: questions to hosts and servers, each on a thread that may be left behind.
//!
//! A thread that has nothing to do waits a while for more: the controller asks every host several things each second, and a
//! thread costs more than most of the questions. A pool with a fixed number of threads would not do, for a thread that is stuck in
//! a dead connection stays so, and the others must not wait for it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::supervise::caught;

/// What a thread does.
type Work = Box<dyn FnOnce() + Send>;

/// Threads that have nothing to do, the latest last: the fewer are kept awake, the more of them end.
static IDLE: Mutex<Vec<(u64, SyncSender<Work>)>> = Mutex::new(Vec::new());

/// How long a thread waits for more.
const PATIENCE: Duration = Duration::from_secs(5);

fn idle() -> MutexGuard<'static, Vec<(u64, SyncSender<Work>)>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` beside the caller, at once. A panic in it ends nothing else.
///
/// # Errors
/// There is no thread for it, and none can be started.
pub fn begin(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut work: Work = Box::new(work);
    loop {
        // The list is not held while the work is handed over.
        let Some((_, waiting)) = idle().pop() else { break };
        match waiting.send(work) {
            Ok(()) => return Ok(()),
            Err(mpsc::SendError(back)) => work = back,
        }
    }
    let thread = thread::Builder::new().name("vmss-aside".to_owned());
    thread.spawn(move || serve(work)).map(drop)
}

/// One thread: its first work, and whatever it is given while it waits.
fn serve(first: Work) {
    let (give, take) = mpsc::sync_channel(1);
    let mut work = first;
    loop {
        // Whoever asked has made an error of it where there is one to tell.
        let _ = caught(work);
        let Some(more) = next(&give, &take, PATIENCE) else {
            return;
        };
        work = more;
    }
}

/// Waits for more; `None` if nothing came for so long.
fn next(give: &SyncSender<Work>, take: &Receiver<Work>, patience: Duration) -> Option<Work> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    idle().push((number, give.clone()));
    match take.recv_timeout(patience) {
        Ok(work) => return Some(work),
        Err(RecvTimeoutError::Disconnected) => return None,
        Err(RecvTimeoutError::Timeout) => {}
    }
    give_up(number, take)
}

/// Ends the wait of the thread of that number, unless somebody has just chosen it: then what it is to do is on its way.
fn give_up(number: u64, take: &Receiver<Work>) -> Option<Work> {
    let mut waiting = idle();
    if let Some(at) = waiting.iter().position(|(other, _)| *other == number) {
        waiting.remove(at);
        return None;
    }
    drop(waiting);
    take.recv().ok()
}

/// What each of `questions` comes to, all asked at once, in their order; `None` for those that have no answer within
/// `patience` of real time, whatever a world's clock says, whose threads are left behind. A panic in `ask` is an error: what it said.
pub fn all_at_once<Q, T>(
    questions: impl IntoIterator<Item = Q>,
    patience: Duration,
    ask: impl Fn(Q) -> T + Clone + Send + 'static,
) -> Vec<Option<Result<T, String>>>
where
    Q: Send + 'static,
    T: Send + 'static,
{
    let (tx, rx) = mpsc::channel();
    let mut answers: Vec<Option<Result<T, String>>> = Vec::new();
    let mut open = 0_usize;
    for (at, question) in questions.into_iter().enumerate() {
        let (tx, ask) = (tx.clone(), ask.clone());
        let begun = begin(move || {
            // The receiver may have given up: then nobody wants the answer.
            let _ = tx.send((at, caught(|| ask(question))));
        });
        answers.push(begun.err().map(|e| Err(format!("starting a thread: {e}"))));
        open += usize::from(answers[at].is_none());
    }
    drop(tx);
    let end = Instant::now() + patience;
    while open > 0 {
        let Ok((at, answer)) = rx.recv_timeout(end.saturating_duration_since(Instant::now())) else {
            break;
        };
        answers[at] = Some(answer);
        open -= 1;
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Longer than any of these tests.
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn answers_come_in_the_order_of_the_questions_and_all_are_asked_at_once() {
        let all = Arc::new(std::sync::Barrier::new(20));
        let answers = all_at_once(0..20, LONG, move |n| {
            all.wait();
            n * n
        });
        let answers: Vec<i32> = answers.into_iter().map(|a| a.unwrap().unwrap()).collect();
        assert_eq!(answers, (0..20).map(|n| n * n).collect::<Vec<_>>());
    }

    #[test]
    fn a_fault_is_the_answer_to_its_own_question_alone() {
        let answers = all_at_once(["fine", "wrong", "fine"], LONG, |what| {
            assert_eq!(what, "fine");
        });
        let is_fault =
            |a: &Option<Result<(), String>>| matches!(a, Some(Err(why)) if why.contains("fault of vmss"));
        assert_eq!(
            answers.iter().map(is_fault).collect::<Vec<_>>(),
            [false, true, false]
        );
    }

    #[test]
    fn whoever_is_stuck_holds_nobody_up() {
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for round in 0..10 {
            let stuck = Arc::clone(&held);
            begin(move || _ = stuck.lock().unwrap().recv()).unwrap();
            let answers = all_at_once([round], LONG, |n| n);
            assert!(matches!(answers[..], [Some(Ok(n))] if n == round));
        }
        let late = all_at_once([Arc::clone(&held)], Duration::ZERO, |held| {
            _ = held.lock().unwrap().recv();
        });
        assert!(late[0].is_none());
        drop(release);
    }

    #[test]
    fn work_is_done_once_whether_a_thread_waits_for_it_or_has_just_given_up() {
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..2_000 {
            let done = Arc::clone(&done);
            let answers = all_at_once(0..3, LONG, move |_| done.fetch_add(1, Ordering::SeqCst));
            assert!(answers.iter().all(Option::is_some));
        }
        assert_eq!(done.load(Ordering::SeqCst), 6_000);
    }

    #[test]
    fn a_thread_ends_that_waited_in_vain_and_one_that_was_chosen_waits_for_its_work() {
        let (give, take) = mpsc::sync_channel(1);
        idle().insert(0, (u64::MAX, give.clone()));
        assert!(give_up(u64::MAX, &take).is_none());
        assert!(
            idle().iter().all(|(number, _)| *number != u64::MAX),
            "nobody chooses it any more"
        );
        // Whoever has taken it from the list hands the work over only now.
        let chosen = thread::spawn(move || give_up(u64::MAX, &take).is_some());
        give.send(Box::new(|| ())).unwrap();
        assert!(chosen.join().unwrap());
    }
}
