//! The image of books: books made of it are the same, hold together, and go on as the others do.

use cortex_core::image::{AllocationImage, Outline, Restoration};
use cortex_core::view::Filter;
use cortex_core::{Cluster, check};
use cortex_test_support::history::{History, assert_same};

/// How many histories there are, and how many steps each has at most before its image is taken.
const HISTORIES: u64 = 400;
const STEPS_MAX: usize = 600;

/// How many commands both books are asked afterwards.
const COMMANDS_AFTER: usize = 200;

/// Books by way of their written image.
fn restored(books: &Cluster) -> Cluster {
    let outline = postcard::to_stdvec(&books.outline()).expect("an outline can be written");
    let mut restoration = Restoration::new(postcard::from_bytes::<Outline>(&outline).expect("and read"));
    restoration.add_private_servers(books.private_servers());
    for image in books.allocation_images() {
        let bytes = postcard::to_stdvec(&image).expect("an image can be written");
        let read: AllocationImage<'_> = postcard::from_bytes(&bytes).expect("and read");
        assert_eq!(read, image);
        restoration.add(&read).expect("an image of these books");
    }
    let mut restored = restoration.finish();
    restored.set_provisioning(books.provisioning().clone());
    restored
}

#[test]
fn restored_books_are_the_same_and_go_on_in_the_same_way() {
    for seed in 0..HISTORIES {
        let mut history = History::new(seed);
        for _ in 0..history.rng.usize(0..STEPS_MAX) {
            history.step();
        }
        let mut copy = restored(&history.books);
        assert_eq!(check::violations(&copy), [""; 0], "seed {seed}");
        assert_same(&copy, &history.books, &format!("seed {seed}, at first"));
        for step in 0..COMMANDS_AFTER {
            let when = format!("seed {seed}, step {step}");
            let command = history.next_command();
            copy.observe(history.now);
            let decided = copy.decide(history.now, &command);
            let (outcome, events) = history.carry_out(&command);
            let copied = decided.as_ref().map(|decision| &decision.outcome);
            assert_eq!(copied, outcome.as_ref(), "{when}, to {command:?}");
            let begins_alike = decided.map_or(events.is_empty(), |decision| {
                let made = decision.events.iter();
                events.iter().map(|recorded| &recorded.event).zip(made).all(|(ours, theirs)| ours == theirs)
            });
            assert!(begins_alike, "{when}: other events");
            events.iter().for_each(|recorded| copy.apply(recorded));
            assert_eq!(copy.capacity(history.now), history.books.capacity(history.now), "{when}");
            assert_eq!(copy.next_deadline(), history.books.next_deadline(), "{when}");
            assert_eq!(copy.count(&Filter::default()), history.books.count(&Filter::default()), "{when}");
        }
        assert_eq!(check::violations(&copy), [""; 0], "seed {seed}, at the end");
        assert_same(&copy, &history.books, &format!("seed {seed}, at the end"));
    }
}
