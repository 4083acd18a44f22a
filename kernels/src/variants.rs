//! Kernels of a GPU that there are two of, until both have been measured.

use quarterturn_core::{Error, Result, gpu::Gpu};

/// Which of two kernels a [`Gpu`] runs, where there are two. For benches and tests; otherwise leave it at the default.
///
/// The kernels of a pair differ in speed, and in bits only where their documentation says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variants {
    /// Batch norms read four elements at a time, where blocks are multiples of four. The statistics and the gradients of weight and bias
    /// are summed in another order, so their last bits differ. By given statistics y and dx have the same bits.
    pub norm_quads: bool,
}

impl Default for Variants {
    fn default() -> Self {
        Variants { norm_quads: true }
    }
}

impl Variants {
    /// Has `gpu` run these from now on. A GPU's first choice holds for good.
    ///
    /// # Errors
    /// [`Error::Invalid`] if others have been chosen before.
    pub fn choose(self, gpu: &Gpu) -> Result<()> {
        let chosen = gpu.remember(|| Ok(self))?;
        if *chosen == self {
            return Ok(());
        }
        Err(Error::Invalid(format!("{gpu} runs {chosen:?} already; open another for {self:?}")))
    }

    /// What `gpu` is to run.
    pub(crate) fn of(gpu: &Gpu) -> Self {
        gpu.remembered().map_or_else(Self::default, |chosen| *chosen)
    }
}
