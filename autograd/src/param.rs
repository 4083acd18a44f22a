//! Parameters of a network: weights, which an optimizer trains, and buffers, such as running statistics.

use quarterturn_core::{Device, Result, Tensor};
use std::sync::atomic::{AtomicU64, Ordering};

/// Identifies a [`Param`] within the process, whatever its name or place in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(u64);

/// Whether a [`Param`] is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Trained: the optimizer updates it by its gradient.
    Weight,
    /// Not trained: the forward pass updates it, as running statistics. Saved with the weights, but not counted among
    /// the parameters.
    Buffer,
}

/// A tensor that a network owns (PyTorch: `nn.Parameter` or a buffer). It has no name of its own: `visit` of a network
/// tells the names.
#[derive(Debug)]
pub struct Param {
    id: ParamId,
    kind: Kind,
    value: Tensor,
    frozen: bool,
}

impl Param {
    /// A trained tensor.
    pub fn weight(value: Tensor) -> Self {
        Self::new(Kind::Weight, value)
    }

    /// A tensor that the forward pass updates.
    pub fn buffer(value: Tensor) -> Self {
        Self::new(Kind::Buffer, value)
    }

    fn new(kind: Kind, value: Tensor) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Param { id: ParamId(NEXT.fetch_add(1, Ordering::Relaxed)), kind, value, frozen: false }
    }

    /// Its identifier.
    pub fn id(&self) -> ParamId {
        self.id
    }

    /// Weight or buffer.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its present value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Whether the weight stays as it is: see [`Param::set_frozen`].
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Freezes a weight (PyTorch: `requires_grad = False`). Its gradient is not computed, and optimizers do not change
    /// it. With `frozen` false, it is trained again. Checkpoints do not store this flag.
    pub fn set_frozen(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// The value, to be updated in place.
    pub(crate) fn value_mut(&mut self) -> &mut Tensor {
        &mut self.value
    }

    /// Replaces the value.
    ///
    /// # Panics
    /// If the shape differs.
    #[track_caller]
    pub fn set(&mut self, value: Tensor) {
        assert_eq!(self.value.shape(), value.shape(), "Param::set: expected the shape of the old value");
        self.value = value;
    }

    /// Moves the value to `device`; the identifier stays the same.
    ///
    /// # Errors
    /// When a GPU on either side fails.
    pub fn to_device(&mut self, device: &Device) -> Result<()> {
        self.value = self.value.to_device(device)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives_a_new_value_and_is_never_shared() {
        let value = Tensor::full([2], 1.0, &Device::Cpu).unwrap();
        let (mut a, b) = (Param::weight(value.clone()), Param::buffer(value));
        let id = a.id();
        assert_ne!(id, b.id());
        a.set(Tensor::full([2], 3.0, &Device::Cpu).unwrap());
        a.to_device(&Device::Reference).unwrap();
        assert_eq!((a.id(), a.value().f64s()), (id, &[3.0, 3.0][..]));
    }
}
