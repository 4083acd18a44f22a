//! What must agree before a run goes on: its data with those that it was begun with, and all ranks with each other.

use super::{
    Trainer,
    first_batch::FirstBatch,
    ranks::{add_over_ranks, are_the_same},
};
use crate::Network;
use quarterturn_core::{Device, Error, Result, Share, Tensor};

impl<N: Network + ?Sized> Trainer<'_, N> {
    /// Makes sure that `batches` are those that the run was begun with, as far as the last epoch's first batch tells.
    pub(super) fn expect_same_data<B, I>(&mut self, batches: &mut B) -> Result<()>
    where
        B: FnMut(u32, u32) -> Result<I>,
        I: ExactSizeIterator<Item = Result<(Tensor, Tensor)>>,
    {
        let (Some(first), Some(&steps)) = (&self.first_batch, self.position.epoch_steps.last()) else { return Ok(()) };
        let mut again = batches(self.position.epoch_steps.len() as u32 - 1, 0)?;
        let share = self.share()?;
        let found = self.of_all_ranks(again.len(), share)?;
        self.expect_steps(steps, found)?;
        if let Some(batch) = again.next().filter(|_| share.has(0)) {
            let (images, labels) = batch?;
            self.network.output_shape(images.shape())?;
            first.expect(&FirstBatch::of(&images, &labels))?;
        }
        self.resumed = false;
        Ok(())
    }

    /// How many batches all ranks have, of which this one has `own`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if that is not its share of them; as [`Ranks::exchange`].
    pub(super) fn of_all_ranks(&self, own: usize, share: Share) -> Result<usize> {
        let mut all = [own as u64];
        add_over_ranks(&*self.ranks, &mut all)?;
        let all = all[0] as usize;
        // Whole epochs and what is left of them behind a step begin with the same place of a group.
        match share.count(all) {
            expected if expected == own => Ok(all),
            expected => {
                let (rank, size) = (self.ranks.rank(), self.ranks.size());
                let message =
                    format!("expected its share of {all} batches, {expected}, got {own}; see `Loader::shared`");
                Err(Error::Invalid(format!("rank {rank} of {size}: {message}")))
            }
        }
    }

    /// Makes sure that all ranks have the same network and settings and stand at the same place.
    pub(super) fn expect_same_everywhere(&mut self) -> Result<()> {
        if self.ranks.size() == 1 {
            return Ok(());
        }
        let mut bytes = format!("{:?} {:?}", self.training.settings(), self.position).into_bytes();
        let mut outcome = Ok(());
        self.network.read(&mut |name, param| {
            bytes.extend(name.bytes());
            match param.value().to_vec() {
                Ok(values) => bytes.extend(values.iter().flat_map(|value| value.to_bits().to_le_bytes())),
                Err(error) => outcome = Err(error),
            }
        });
        outcome?;
        if are_the_same(&*self.ranks, bytes.into_iter())? {
            return Ok(());
        }
        let (rank, size) = (self.ranks.rank(), self.ranks.size());
        let message = "its network, settings or position are not those of other processes";
        Err(Error::Invalid(format!("rank {rank} of {size}: {message}")))
    }

    /// Makes sure that not every rank has the same batch, as if nobody had shared them.
    pub(super) fn expect_other_batches(&mut self, own: Option<&Tensor>) -> Result<()> {
        if self.ranks.size() == 1 || self.compared {
            return Ok(());
        }
        let bytes: Vec<u8> = match own {
            Some(images) => images.to_vec()?.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect(),
            None => self.ranks.rank().to_le_bytes().into(),
        };
        if are_the_same(&*self.ranks, bytes.into_iter())? {
            let message = "every process was given the same batch, not one of its own share; see `Loader::shared`";
            return Err(Error::Invalid(message.into()));
        }
        self.compared = true;
        Ok(())
    }

    /// Makes sure that it was not for a target that this epoch's loss is no number. Those on the CPU were looked at before each step;
    /// for those on a GPU it would have had to be waited for.
    pub(super) fn expect_targets<B, I>(&self, batches: &mut B, epoch: u32, share: Share) -> Result<()>
    where
        B: FnMut(u32, u32) -> Result<I>,
        I: ExactSizeIterator<Item = Result<(Tensor, Tensor)>>,
    {
        if matches!(self.network.device(), Device::Cpu | Device::Reference) {
            return Ok(());
        }
        for (n, batch) in batches(epoch, 0)?.enumerate() {
            let (inputs, targets) = batch?;
            let outputs = self.network.output_shape(inputs.shape())?;
            let found = self.training.objective.expect_targets(outputs, &targets, 0);
            found.map_err(|error| in_place(epoch, share.nth(n) as u32, error))?;
        }
        Ok(())
    }

    pub(super) fn expect_steps(&self, expected: u32, found: usize) -> Result<()> {
        if expected as usize == found {
            return Ok(());
        }
        let message = format!("the run was begun with epochs of {expected} batches, and goes on with {found}");
        Err(Error::Checkpoint { name: "training.epoch_steps".into(), message })
    }
}

/// An error says in which batch it arose.
pub(super) fn in_place(epoch: u32, step: u32, error: Error) -> Error {
    match error {
        Error::Invalid(message) => Error::Invalid(format!("epoch {}, batch {}: {message}", epoch + 1, step + 1)),
        other => other,
    }
}
