use jiff::Timestamp;

use super::*;
use crate::store::memory::Memory;

/// A clock that goes by what is waited, and is ahead of the holder's. The holder renews its lease while it lives.
struct Watched<'s> {
    store: &'s Memory,
    lease: Lease,
    /// How far the clock of who waits is ahead of the holder's, in seconds.
    ahead: i64,
    /// Until when the holder renews its lease.
    dies: Duration,
    spent: Mutex<Spent>,
}

#[derive(Default)]
struct Spent {
    all: Duration,
    since_renewal: Duration,
}

/// What the holder's clock shows at the beginning.
const BEGAN: i64 = 1_800_000_000;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Watched<'_> {
    fn shows(&self, ahead: i64) -> Timestamp {
        let spent = self.spent.lock().unwrap().all.as_secs();
        Timestamp::from_second(BEGAN + ahead + i64::try_from(spent).unwrap()).unwrap()
    }
}

impl Clock for Watched<'_> {
    fn now(&self) -> Timestamp {
        self.shows(self.ahead)
    }

    fn steady(&self) -> Duration {
        self.spent.lock().unwrap().all
    }

    fn wait(&self, span: Duration, _: &Interrupt) {
        let renews = {
            let mut spent = self.spent.lock().unwrap();
            spent.all += span;
            spent.since_renewal += span;
            let renews = spent.since_renewal >= RENEW && spent.all < self.dies;
            if renews {
                spent.since_renewal = Duration::ZERO;
            }
            renews
        };
        if renews {
            let _ = self.store.renew(&self.lease, self.shows(0));
        }
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Listener for Heard {
    fn event(&self, event: &Event) {
        if let Event::Note { text } = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

fn holder(user: &str) -> Holder {
    Holder {
        pid: 7,
        started: 9,
        boot: "of another machine".to_owned(),
        namespace: None,
        machine: "ops1".to_owned(),
        user: user.to_owned(),
        doing: "scale web to 9".to_owned(),
    }
}

/// What comes of waiting for a lease whose holder can't be looked up: whether it was taken, after how long, what was said.
fn wait_for(ahead: i64, dies: Duration, wait: Duration) -> (bool, Duration, Vec<String>) {
    let store = Memory::default();
    let began = Timestamp::from_second(BEGAN).unwrap();
    let lease = store.acquire("set/web", &holder("ann"), began, None).unwrap();
    let clock = Watched {
        store: &store,
        lease: lease.clone(),
        ahead,
        dies,
        spent: Mutex::default(),
    };
    let (watch, heard) = (Watch::default(), Heard::default());
    let taking = Taking {
        store: &store,
        watch: &watch,
        clock: &clock,
        interrupt: &Interrupt::default(),
        listener: &heard,
    };
    let taken = taking.take("set/web", &holder("bob"), wait);
    let lives = store.renew(&lease, began).is_ok();
    assert_ne!(taken.is_ok(), lives, "one has it: {taken:?}");
    (taken.is_ok(), clock.steady(), heard.0.into_inner().unwrap())
}

const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

#[test]
fn a_lease_that_is_renewed_is_not_taken_however_far_the_clock_is_ahead() {
    for ahead in [-7200, 0, 30, 61, 7200] {
        let (taken, spent, _) = wait_for(ahead, FOR_EVER, seconds(1800));
        assert!(!taken, "{ahead} s ahead");
        assert!(spent >= seconds(1800), "{ahead} s ahead: gave up after {spent:?}");
    }
}

#[test]
fn who_does_not_wait_is_refused_at_once_or_once_a_renewal_shows_that_the_holder_lives() {
    let (taken, spent, said) = wait_for(30, FOR_EVER, Duration::ZERO);
    assert_eq!((taken, spent, said), (false, Duration::ZERO, Vec::new()));
    let (taken, spent, said) = wait_for(7200, FOR_EVER, Duration::ZERO);
    assert!(!taken && spent <= RENEW + seconds(1), "{spent:?}");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("watching for 60 s"), "{said:?}");
}

#[test]
fn a_lease_that_is_renewed_no_more_is_followed_once_it_was_watched_for_as_long_as_it_lasts() {
    // Of a clock that is behind, too: who died with a clock far ahead is not waited for until then.
    for (ahead, wait) in [(61, 0), (7200, 0), (0, 600), (-7200, 600)] {
        let (taken, spent, _) = wait_for(ahead, Duration::ZERO, seconds(wait));
        assert!(taken, "{ahead} s ahead");
        assert!(
            (LEASE..LEASE + seconds(2)).contains(&spent),
            "{ahead} s ahead: after {spent:?}"
        );
    }
    let (taken, spent, _) = wait_for(0, seconds(90), seconds(600));
    assert!(
        taken && spent >= seconds(80) + LEASE,
        "its last renewal counts: {spent:?}"
    );
}

#[test]
fn what_is_watched_is_remembered_from_one_try_to_the_next_and_who_was_held_up_has_not_watched() {
    let (watch, stamp) = (Watch::default(), Stamp { token: 1, expires: 5 });
    let saw = |stamp, at| watch.saw("here", "set/web", stamp, seconds(at)).as_secs();
    assert_eq!(saw(stamp, 100), 0);
    assert_eq!(saw(stamp, 110), 10);
    assert_eq!(saw(stamp, 3600), 30, "suspended for an hour");
    let renewed = Stamp { expires: 6, ..stamp };
    assert_eq!(saw(renewed, 3610), 0);
    assert_eq!(saw(renewed, 3620), 10);
    assert_eq!(
        watch.saw("elsewhere", "set/web", renewed, seconds(3630)),
        Duration::ZERO
    );
}
