//! Time series with a bounded number of points, whose width doubles as time goes on.

use cortex_core::time::Millis;

/// The maximum number of points: about the number of pixels in a plot.
const POINTS_MAX: usize = 600;

/// A figure that accumulates within a point, and merges into a wider one.
pub trait Accumulate: Default {
    /// Adds a later figure.
    fn add(&mut self, other: &Self);
}

/// Points of equal width from the start on.
#[derive(Clone, Debug)]
pub struct TimeSeries<P> {
    width: Millis,
    points: Vec<P>,
}

impl<P: Accumulate> TimeSeries<P> {
    /// Creates an empty series with this initial width.
    #[must_use]
    pub const fn new(width: Millis) -> Self {
        Self { width, points: Vec::new() }
    }

    /// Returns the width of a point.
    #[must_use]
    pub const fn width(&self) -> Millis {
        self.width
    }

    /// Returns the points; the last one may cover less time than the others.
    #[must_use]
    pub fn points(&self) -> &[P] {
        &self.points
    }

    /// Returns the point at a time, and merges points if it lies beyond the maximum number.
    pub fn at(&mut self, time: Millis) -> &mut P {
        let mut index = self.index(time);
        while index >= POINTS_MAX {
            self.widen();
            index = self.index(time);
        }
        if self.points.len() <= index {
            self.points.resize_with(index + 1, P::default);
        }
        &mut self.points[index]
    }

    /// Returns the end of the point at a time.
    #[must_use]
    pub fn end_of(&self, time: Millis) -> Millis {
        let ended = (time.0 / self.width.0).saturating_add(1);
        Millis(ended.saturating_mul(self.width.0))
    }

    fn index(&self, time: Millis) -> usize {
        usize::try_from(time.0 / self.width.0).unwrap_or(usize::MAX)
    }

    /// Merges every two points into one.
    fn widen(&mut self) {
        self.width = Millis(self.width.0.saturating_mul(2));
        for index in 0..self.points.len().div_ceil(2) {
            let mut wide = P::default();
            for narrow in self.points.iter().skip(2 * index).take(2) {
                wide.add(narrow);
            }
            self.points[index] = wide;
        }
        self.points.truncate(self.points.len().div_ceil(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Accumulate for u64 {
        fn add(&mut self, other: &Self) {
            *self += other;
        }
    }

    #[test]
    fn points_double_in_width_and_nothing_is_lost() {
        let mut series = TimeSeries::<u64>::new(Millis(10));
        for time in 0..100_000 {
            *series.at(Millis(time)) += 1;
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
    fn a_late_time_leaves_empty_points_before_it() {
        let mut series = TimeSeries::<u64>::new(Millis(1));
        *series.at(Millis(0)) += 1;
        *series.at(Millis(1 << 40)) += 1;
        assert_eq!((series.points().first(), series.points().last()), (Some(&1), Some(&1)));
    }
}
