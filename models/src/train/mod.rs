//! Training: objectives (losses), the training loop, its state in a file, metrics on held-out data.

mod agreement;
mod confusion;
mod first_batch;
mod fit;
mod metric;
mod micro_batches;
mod mixup;
mod objective;
mod position;
mod ranks;
mod side_by_side;
mod state;
mod step;
mod tally;
#[cfg(test)]
mod tests;
mod trainer;
mod training;

pub use confusion::Confusion;
pub use fit::{Best, Report, Validation};
pub use metric::{Metric, OwnMetric, Scores};
pub use objective::{Classes, Difference, Objective, OwnObjective};
pub use ranks::{Alone, Ranks, add_over_ranks};
pub use step::train_step;
pub use tally::{Tally, evaluate};
pub use trainer::{Progress, Trainer, train};
pub use training::{Clip, Training};
