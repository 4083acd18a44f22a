//! The training loop and the count of correct answers.

mod first_batch;
mod position;
mod state;
mod step;
mod tally;
#[cfg(test)]
mod tests;
mod trainer;

pub use step::train_step;
pub use tally::{Tally, evaluate};
pub use trainer::{Progress, Trainer, Training, train};
