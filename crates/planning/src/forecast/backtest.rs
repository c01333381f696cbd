//! Backtest of a new model on the recorded history.

use super::horizon::Horizon;
use super::method::Model;
use super::quantile::Quantile;
use super::sliding_window::SlidingWindow;
use super::track::ERRORS_MAX;
use std::collections::VecDeque;

/// Trains a new model on the whole history, so that it is useful immediately, and returns its most recent errors for
/// each horizon. As in live operation, the model observes a bin only after its forecasts for that bin were issued.
pub(super) fn backtest(
    model: &mut Model,
    history: &VecDeque<f64>,
    horizons: &[Horizon],
    quantile: Quantile,
) -> Vec<SlidingWindow> {
    let mut errors = vec![SlidingWindow::new(ERRORS_MAX); horizons.len()];
    let mut issued: Vec<VecDeque<Option<f64>>> = vec![VecDeque::new(); horizons.len()];
    let farthest = horizons.iter().copied().map(Horizon::bins).max().unwrap_or(0);
    // Older errors would exceed the window.
    let first = history.len().saturating_sub(ERRORS_MAX + farthest);
    for (bin, demand) in history.iter().enumerate() {
        for ((errors, issued), horizon) in errors.iter_mut().zip(&mut issued).zip(horizons) {
            if issued.len() == horizon.bins()
                && let Some(point) = issued.pop_front().flatten()
            {
                errors.push(demand - point);
            }
        }
        model.observe(*demand);
        if bin >= first {
            for (issued, horizon) in issued.iter_mut().zip(horizons) {
                issued.push_back(model.point(*horizon, quantile));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::method::Method;
    use super::*;

    #[test]
    fn it_ends_as_if_it_had_run_from_the_start() {
        let history: VecDeque<f64> = [3, 1, 4, 1, 5, 9, 2, 6].map(f64::from).into();
        let horizons = [1, 3].map(|bins| Horizon::new(bins).expect("within bounds"));
        let mut model = Model::new(Method::LastValue, None);
        let errors = backtest(&mut model, &history, &horizons, Quantile::NINE_TENTHS);
        let expected = |values: &[i32]| {
            let mut window = SlidingWindow::new(ERRORS_MAX);
            values.iter().for_each(|value| window.push(f64::from(*value)));
            window
        };
        assert_eq!(errors, [expected(&[-2, 3, -3, 4, 4, -7, 4]), expected(&[-2, 4, 5, 1, 1])]);
        assert_eq!(model.point(horizons[0], Quantile::NINE_TENTHS), Some(6.0));
    }

    #[test]
    fn only_the_last_errors_are_kept() {
        let history: VecDeque<f64> = (0..1_000).map(f64::from).collect();
        let horizons = [Horizon::new(7).expect("within bounds")];
        let errors = backtest(&mut Model::new(Method::LastValue, None), &history, &horizons, Quantile::NINE_TENTHS);
        assert_eq!((errors[0].len(), errors[0].quantile(0.5)), (ERRORS_MAX, Some(7.0)));
    }
}
