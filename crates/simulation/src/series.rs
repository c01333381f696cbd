//! Series: what was seen over time, in a bounded number of points whose width doubles as time goes on.

use cortex_core::time::Millis;

/// How many points there are at most: about as many as a plot has pixels for.
pub const POINTS_MAX: usize = 600;

/// What can be added up to a point, and points to a wider one.
pub trait Add: Default {
    /// Adds another one, of a time behind this one's.
    fn add(&mut self, other: &Self);
}

/// Points of one width, from the start on.
#[derive(Clone, Debug)]
pub struct Series<P> {
    width: Millis,
    points: Vec<P>,
}

impl<P: Add> Series<P> {
    /// One without points, whose width is at first so much.
    #[must_use]
    pub const fn new(width: Millis) -> Self {
        Self { width, points: Vec::new() }
    }

    /// How much time a point is about.
    #[must_use]
    pub const fn width(&self) -> Millis {
        self.width
    }

    /// The points, of which the last may be about less time than the others.
    #[must_use]
    pub fn points(&self) -> &[P] {
        &self.points
    }

    /// The point at a moment. What was added at an earlier one keeps its place.
    pub fn at(&mut self, moment: Millis) -> &mut P {
        let mut place = self.place(moment);
        while place >= POINTS_MAX {
            self.widen();
            place = self.place(moment);
        }
        if self.points.len() <= place {
            self.points.resize_with(place + 1, P::default);
        }
        &mut self.points[place]
    }

    /// When the point at a moment ends, and the next one begins.
    #[must_use]
    pub fn end_of(&self, moment: Millis) -> Millis {
        let ended = (moment.0 / self.width.0).saturating_add(1);
        Millis(ended.saturating_mul(self.width.0))
    }

    fn place(&self, moment: Millis) -> usize {
        usize::try_from(moment.0 / self.width.0).unwrap_or(usize::MAX)
    }

    /// Makes a point of each two.
    fn widen(&mut self) {
        self.width = Millis(self.width.0.saturating_mul(2));
        for place in 0..self.points.len().div_ceil(2) {
            let mut wide = P::default();
            for narrow in self.points.iter().skip(2 * place).take(2) {
                wide.add(narrow);
            }
            self.points[place] = wide;
        }
        self.points.truncate(self.points.len().div_ceil(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Add for u64 {
        fn add(&mut self, other: &Self) {
            *self += other;
        }
    }

    #[test]
    fn points_double_in_width_and_nothing_is_lost() {
        let mut series = Series::<u64>::new(Millis(10));
        for moment in 0..100_000 {
            *series.at(Millis(moment)) += 1;
            assert!(series.points().len() <= POINTS_MAX);
        }
        assert_eq!(series.width(), Millis(320));
        assert_eq!(series.points().len(), 313);
        assert!(series.points()[..312].iter().all(|count| *count == 320));
        assert_eq!(series.points().iter().sum::<u64>(), 100_000);
        assert_eq!(series.end_of(Millis(319)), Millis(320));
        assert_eq!(series.end_of(Millis(320)), Millis(640));
    }

    #[test]
    fn a_late_moment_leaves_empty_points_before_it() {
        let mut series = Series::<u64>::new(Millis(1));
        *series.at(Millis(0)) += 1;
        *series.at(Millis(1 << 40)) += 1;
        assert_eq!((series.points().first(), series.points().last()), (Some(&1), Some(&1)));
    }
}
