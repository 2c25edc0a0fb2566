use super::*;
use crate::autoscale::metric::{GuestMetric, Source};
use crate::plan::testing::{Scene, at};

/// Every instance of a scene counts.
fn roster(scene: &Scene) -> Roster<'_> {
    let host = scene.set.hosts().next().unwrap().1;
    let count = |instance| Counted { instance, host };
    Roster {
        counted: scene.inventory.instances().map(count).collect(),
        unseen: 0,
    }
}

/// What guests 1 to 3 say two seconds apart, each in its own words.
fn measured(scene: &Scene, metric: GuestMetric, says: [fn(u32) -> String; 3]) -> Measurement {
    let take = |look: u32, before: &Readings| {
        let said = |n: usize| (InstanceId(n as u64 + 1), Ok(says[n](look)));
        let answers = GuestAnswers {
            proc: (0..3).map(said).collect(),
            disk: (0..3).map(said).collect(),
        };
        let now = at(i64::from(100 + 2 * look));
        let (metric, mut measurement) = (Metric::Guest(metric), Measurement::default());
        hosts::take_guests(
            &answers,
            &roster(scene),
            &[&metric],
            before,
            now,
            &mut measurement,
        );
        measurement
    };
    let first = take(0, &Readings::default());
    take(1, &first.readings)
}

fn three() -> Scene {
    let mut scene = Scene::new(&[1]);
    for id in 1..=3 {
        scene.add("d0h0", id);
    }
    scene
}

#[test]
fn a_guest_that_says_what_is_no_number_is_missing_and_the_others_count() {
    let scene = three();
    let cpu = |look: u32| format!("cpu  {} 0 0 {} 0 0 0 0 0 0\n", 100 * look, 100 * look);
    for wild in [
        |_| "cpu  nan 0 0 100 0 0 0 0 0 0\n".to_owned(),
        |_| "cpu  inf 0 0 100 0 0 0 0 0 0\n".to_owned(),
        |_| "cpu  100 0 0 1e400 0 0 0 0 0 0\n".to_owned(),
    ] {
        let measured = measured(&scene, GuestMetric::Cpu, [cpu, wild, cpu]);
        let [sample] = measured.samples.as_slice() else {
            panic!("one is wanted: {:?}", measured.samples);
        };
        let seen = (sample.instances, sample.missing, sample.sum, sample.max);
        assert_eq!(seen, (2, 1, 100.0, 50.0));
        let kept = serde_json::to_string(&measured.readings).unwrap();
        assert_eq!(
            serde_json::from_str::<Readings>(&kept).unwrap(),
            measured.readings
        );
    }
    let disk = |_| "/dev/vda1 1000 420 580 42% /\n".to_owned();
    let measured = measured(
        &scene,
        GuestMetric::Disk,
        [disk, |_| "/dev/vda1 1000 420 580 nan% /\n".to_owned(), disk],
    );
    let seen: Vec<_> = (measured.samples.iter())
        .map(|s| (s.instances, s.missing, s.sum))
        .collect();
    assert_eq!(seen, [(2, 1, 84.0)]);
}

#[test]
fn no_guest_is_busier_than_all_of_its_time() {
    let scene = three();
    let idle = |look: u32| format!("cpu  0 0 0 {} 0 0 0 0 0 0\n", 200 * look);
    // Its idle time went back, which counts as more that is busy than there was time.
    let wild = |look: u32| {
        format!(
            "cpu  {} 0 0 {} 0 0 0 0 0 0\n",
            1_000_000 * look,
            999_999 * (1 - look)
        )
    };
    let measured = measured(&scene, GuestMetric::Cpu, [idle, wild, idle]);
    let seen: Vec<_> = measured.samples.iter().map(|s| (s.instances, s.max)).collect();
    assert_eq!(seen, [(3, 100.0)]);
}

#[test]
fn what_adds_up_to_no_number_is_said_to_be_too_large() {
    let scene = three();
    let external = External {
        name: "jobs".to_owned(),
        source: Source::Http {
            url: "http://127.0.0.1/".to_owned(),
            pointer: String::new(),
        },
        of: Of::Instance,
        token_file: None,
    };
    let mut measurement = Measurement::default();
    let numbers = vec![(external, Ok(1e308))];
    take_externals(numbers, &roster(&scene), false, at(0), &mut measurement);
    assert_eq!(measurement.samples, []);
    assert_eq!(measurement.problems["jobs"], "1e308 is too large a number");
}
