//! Images are sent once, kept while they are used, and deleted by nothing else.

use vmss::hypervisor::{FaultKind, Hypervisor, Pulse, Pushed, StoredImage};
use vmss::names::StoreId;

use super::{Fixture, kind, uses};

fn stored(host: &dyn Hypervisor, f: &Fixture) -> Vec<StoredImage> {
    let mut all = host.images().expect("images are listed");
    all.retain(|i| i.digest == f.model.image.digest);
    all
}

pub fn an_image_is_sent_once(host: &dyn Hypervisor, f: &Fixture) {
    let digest = &f.model.image.digest;
    assert!(!f.seen(host).bases.contains(digest), "nobody has sent it");
    let push = || host.push_image(&f.image, f.store, &Pulse::silent());
    assert_eq!(push(), Ok(Pushed::Sent));
    assert_eq!(push(), Ok(Pushed::Present));
    assert!(f.seen(host).bases.contains(digest));
    let stored = stored(host, f);
    assert_eq!(stored.len(), 1, "{stored:?}");
    assert!(stored[0].whole && stored[0].users.is_empty());
}

pub fn an_image_in_use_stays(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create(host, 1);
    let digest = &f.model.image.digest;
    assert!(!stored(host, f)[0].users.is_empty());
    assert_eq!(host.delete_image(digest, &[f.store]), Ok(false));
    assert!(f.seen(host).bases.contains(digest), "it is whole as before");
    f.delete(host, &instance);
    assert!(stored(host, f)[0].users.is_empty());
    assert_eq!(host.delete_image(digest, &[f.store]), Ok(true));
    assert!(stored(host, f).is_empty());
    assert_eq!(
        host.delete_image(digest, &[f.store]),
        Ok(true),
        "deleting what is gone succeeds"
    );
}

pub fn an_image_of_another_store_serves_too(host: &dyn Hypervisor, f: &Fixture) {
    f.push(host);
    let other = StoreId(uuid::Uuid::from_u128(f.store.0.as_u128() ^ 1));
    assert_eq!(
        host.push_image(&f.image, other, &Pulse::silent()),
        Ok(Pushed::Present)
    );
    let theirs = Fixture {
        store: other,
        ..f.clone()
    };
    theirs.create(host, 1);
    theirs.clean(host);
}

pub fn an_image_volume_is_not_deleted_as_a_leftover(host: &dyn Hypervisor, f: &Fixture) {
    f.push(host);
    let volume = stored(host, f)[0].volume.clone();
    assert_eq!(kind(host.delete_volume(&volume, &uses(host))), FaultKind::NotOurs);
    assert!(f.seen(host).bases.contains(&f.model.image.digest));
}

/// Says that something is over when it goes.
struct Ends<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

pub fn an_image_is_never_taken_from_under_an_instance(host: &dyn Hypervisor, f: &Fixture) {
    let digest = &f.model.image.digest;
    let done = std::sync::atomic::AtomicBool::new(false);
    let began = std::time::Instant::now();
    let first = f.create(host, 99);
    f.delete(host, &first);
    let pace = began.elapsed();
    std::thread::scope(|scope| {
        // A failure ends the prune, too.
        let _ends = Ends(&done);
        // Another store's prune, over and over.
        scope.spawn(|| {
            for n in 0u32.. {
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                host.delete_image(digest, &[f.store])
                    .expect("it is deleted or left alone");
                // From none to twice as long as it takes to send the image and make an instance of it.
                std::thread::sleep(pace * (n * 37 % 53) / 26);
            }
        });
        let mut created = 0;
        for id in 1..=12 {
            // The prune may take the image away while it is being sent: then it fails, or is sent for nothing.
            let _ = host.push_image(&f.image, f.store, &Pulse::silent());
            match host.create(&f.spec(id), &f.model, &Pulse::silent()) {
                Ok(()) => {
                    created += 1;
                    // A prune that has seen the instance too late brings the mark back that it has taken away.
                    let is_there = (0..1000).any(|_| !stored(host, f).is_empty());
                    assert!(is_there, "instance {id} has lost its image");
                }
                Err(error) => assert_eq!(error.kind, FaultKind::Missing, "{error}"),
            }
            f.delete(host, &f.spec(id).reference());
        }
        println!("{created} of 12 were faster than the prune");
    });
}
