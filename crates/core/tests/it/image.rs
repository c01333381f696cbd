//! Images: a cluster restored from its image equals the original, is sound, and continues in the same way.

use cortex_core::image::{AllocationImage, Outline, Restoration};
use cortex_core::view::Filter;
use cortex_core::{Cluster, check};
use cortex_test_support::history::{History, assert_same};

/// The number of histories, and the most steps of each before its image is taken.
const HISTORIES: u64 = 400;
const STEPS_MAX: usize = 600;

/// How many commands both clusters get afterwards.
const COMMANDS_AFTER: usize = 200;

/// Returns a cluster restored from the written image.
fn restored(cluster: &Cluster) -> Cluster {
    let outline = postcard::to_stdvec(&cluster.outline()).expect("an outline can be written");
    let mut restoration = Restoration::new(postcard::from_bytes::<Outline>(&outline).expect("and read"));
    restoration.add_private_servers(cluster.private_servers());
    for image in cluster.allocation_images() {
        let bytes = postcard::to_stdvec(&image).expect("an image can be written");
        let read: AllocationImage<'_> = postcard::from_bytes(&bytes).expect("and read");
        assert_eq!(read, image);
        restoration.add(&read).expect("an image of these cluster");
    }
    let mut restored = restoration.finish();
    restored.set_provisioning(cluster.provisioning().clone());
    restored
}

#[test]
fn a_restored_cluster_is_equal_and_continues_in_the_same_way() {
    for seed in 0..HISTORIES {
        let mut history = History::new(seed);
        for _ in 0..history.rng.usize(0..STEPS_MAX) {
            history.step();
        }
        let mut copy = restored(&history.cluster);
        assert_eq!(check::violations(&copy), [""; 0], "seed {seed}");
        assert_same(&copy, &history.cluster, &format!("seed {seed}, at first"));
        for step in 0..COMMANDS_AFTER {
            let when = format!("seed {seed}, step {step}");
            let command = history.next_command();
            copy.observe(history.now);
            let decided = copy.decide(history.now, &command);
            let (outcome, events) = history.carry_out(&command);
            let copied = decided.as_ref().map(|decision| &decision.outcome);
            assert_eq!(copied, outcome.as_ref(), "{when}, to {command:?}");
            let begins_equally = decided.map_or(events.is_empty(), |decision| {
                let made = decision.events.iter();
                events.iter().map(|recorded| &recorded.event).zip(made).all(|(ours, theirs)| ours == theirs)
            });
            assert!(begins_equally, "{when}: other events");
            events.iter().for_each(|recorded| copy.apply(recorded));
            assert_eq!(copy.capacity(history.now), history.cluster.capacity(history.now), "{when}");
            assert_eq!(copy.next_deadline(), history.cluster.next_deadline(), "{when}");
            assert_eq!(copy.count(&Filter::default()), history.cluster.count(&Filter::default()), "{when}");
        }
        assert_eq!(check::violations(&copy), [""; 0], "seed {seed}, at the end");
        assert_same(&copy, &history.cluster, &format!("seed {seed}, at the end"));
    }
}
