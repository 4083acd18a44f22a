//! Dense, immutable, row-major tensors with cheap clones.

#[cfg(feature = "gpu")]
use crate::gpu::GpuBuffer;
use crate::{Device, Error, HostBuffer, Result, Shape};
use std::{fmt, sync::Arc};

/// A dense row-major array on one [`Device`]. Cloning shares the storage.
///
/// Elements are `f32` on the CPU and on GPUs, and `f64` on [`Device::Reference`]. Feature maps have the axes
/// `[N, C, G, H, W]`: image, channel, group element, row, column; for images G = 1.
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    storage: Storage,
}

#[derive(Clone)]
enum Storage {
    Cpu(Arc<HostBuffer>),
    Reference(Arc<Vec<f64>>),
    #[cfg(feature = "gpu")]
    Gpu(GpuBuffer),
}

impl Tensor {
    /// A tensor of `values` on `device`.
    ///
    /// # Errors
    /// When no tensor can have this shape (see [`Shape::try_new`]), or the GPU has no room for it.
    ///
    /// # Panics
    /// If the number of values is not that of the shape.
    #[track_caller]
    pub fn from_vec(shape: impl AsRef<[usize]>, values: Vec<f32>, device: &Device) -> Result<Self> {
        let shape = Shape::try_new(shape.as_ref())?;
        Ok(match device {
            Device::Cpu => Self::cpu(shape, values.into()),
            Device::Reference => Self::reference(shape, values.into_iter().map(f64::from).collect()),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => {
                assert_eq!(shape.len(), values.len(), "Tensor: {shape:?} does not hold {} values", values.len());
                Self::gpu(shape, gpu.upload(&values)?)
            }
        })
    }

    /// As [`Tensor::from_vec`], from doubles; rounded except on [`Device::Reference`].
    ///
    /// # Errors
    /// As [`Tensor::from_vec`].
    ///
    /// # Panics
    /// If the number of values is not that of the shape.
    #[track_caller]
    pub fn from_f64(shape: impl AsRef<[usize]>, values: Vec<f64>, device: &Device) -> Result<Self> {
        match device {
            Device::Reference => Ok(Self::reference(Shape::try_new(shape.as_ref())?, values)),
            _ => Self::from_vec(shape, values.into_iter().map(|v| v as f32).collect(), device),
        }
    }

    /// A tensor with every element `value` (PyTorch: `torch.full`).
    ///
    /// # Errors
    /// As [`Tensor::from_vec`]; [`Error::OutOfMemory`] when the host has no room for it.
    #[doc(alias = "ones")]
    #[doc(alias = "zeros")]
    pub fn full(shape: impl AsRef<[usize]>, value: f32, device: &Device) -> Result<Self> {
        let shape = Shape::try_new(shape.as_ref())?;
        let mut values = Vec::new();
        values.try_reserve_exact(shape.len()).map_err(|e| Error::OutOfMemory(format!("a tensor {shape:?}: {e}")))?;
        values.resize(shape.len(), value);
        Self::from_vec(shape, values, device)
    }

    /// A tensor on [`Device::Cpu`].
    ///
    /// # Panics
    /// If the number of values is not that of the shape.
    #[track_caller]
    pub fn cpu(shape: impl Into<Shape>, values: HostBuffer) -> Self {
        let shape = shape.into();
        assert_eq!(shape.len(), values.len(), "Tensor: {shape:?} does not hold {} values", values.len());
        Tensor { shape, storage: Storage::Cpu(Arc::new(values)) }
    }

    /// A tensor on [`Device::Reference`].
    ///
    /// # Panics
    /// If the number of values is not that of the shape.
    #[track_caller]
    pub fn reference(shape: impl Into<Shape>, values: Vec<f64>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.len(), values.len(), "Tensor: {shape:?} does not hold {} values", values.len());
        Tensor { shape, storage: Storage::Reference(Arc::new(values)) }
    }

    /// A tensor on the GPU that owns `buffer`.
    ///
    /// # Panics
    /// If the buffer's length is not that of the shape.
    #[cfg(feature = "gpu")]
    #[track_caller]
    pub fn gpu(shape: impl Into<Shape>, buffer: GpuBuffer) -> Self {
        let shape = shape.into();
        assert_eq!(shape.len(), buffer.len(), "Tensor: {shape:?} does not hold {} values", buffer.len());
        Tensor { shape, storage: Storage::Gpu(buffer) }
    }

    /// The extents.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The extents as a slice.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.shape.is_empty()
    }

    /// The device that this tensor is on.
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::Cpu(_) => Device::Cpu,
            Storage::Reference(_) => Device::Reference,
            #[cfg(feature = "gpu")]
            Storage::Gpu(buffer) => Device::Gpu(buffer.gpu().clone()),
        }
    }

    /// Whether the two share their storage, as clones and reshaped clones do. Elements are not compared. For tensors on a GPU the
    /// answer is always `false`.
    pub fn shares_values_with(&self, other: &Tensor) -> bool {
        match (&self.storage, &other.storage) {
            (Storage::Cpu(a), Storage::Cpu(b)) => Arc::ptr_eq(a, b),
            (Storage::Reference(a), Storage::Reference(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The same elements with other axes, in row-major order. Shares the storage (PyTorch: `view`).
    ///
    /// # Panics
    /// If the number of elements differs.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.len(), self.len(), "reshape: {:?} into {shape:?}", self.shape);
        Tensor { shape, storage: self.storage.clone() }
    }

    /// The elements of a tensor on the CPU.
    ///
    /// # Panics
    /// If the tensor is on another device; kernels call this after [`common_device`].
    #[track_caller]
    pub fn f32s(&self) -> &[f32] {
        match &self.storage {
            Storage::Cpu(values) => values,
            _ => panic!("Tensor::f32s: the tensor is on {}", self.device()),
        }
    }

    /// The elements of a tensor on the CPU, for writing. They are copied first if another tensor shares them. For
    /// parameters that are updated in place.
    ///
    /// # Panics
    /// If the tensor is on another device.
    #[track_caller]
    pub fn f32s_mut(&mut self) -> &mut [f32] {
        let device = self.device();
        match &mut self.storage {
            Storage::Cpu(values) => &mut Arc::make_mut(values)[..],
            _ => panic!("Tensor::f32s_mut: the tensor is on {device}"),
        }
    }

    /// The elements of a tensor on [`Device::Reference`].
    ///
    /// # Panics
    /// If the tensor is on another device.
    #[track_caller]
    pub fn f64s(&self) -> &[f64] {
        match &self.storage {
            Storage::Reference(values) => values,
            _ => panic!("Tensor::f64s: the tensor is on {}", self.device()),
        }
    }

    /// The buffer of a tensor on a GPU.
    ///
    /// # Panics
    /// If the tensor is on another device.
    #[cfg(feature = "gpu")]
    #[track_caller]
    pub fn buffer(&self) -> &GpuBuffer {
        match &self.storage {
            Storage::Gpu(buffer) => buffer,
            _ => panic!("Tensor::buffer: the tensor is on {}", self.device()),
        }
    }

    /// The elements, brought to the host and rounded to `f32`. Blocks; in a browser use [`Tensor::to_vec_async`].
    ///
    /// # Errors
    /// The error that spoiled these values or made the GPU fail (see the module `gpu`); the same at every further call.
    #[doc(alias = "item")]
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match &self.storage {
            Storage::Cpu(values) => Ok(values.to_vec()),
            Storage::Reference(values) => Ok(values.iter().map(|&v| v as f32).collect()),
            #[cfg(feature = "gpu")]
            Storage::Gpu(buffer) => buffer.read(),
        }
    }

    /// As [`Tensor::to_vec`], without blocking.
    ///
    /// # Errors
    /// The error that spoiled these values or made the GPU fail (see the module `gpu`); the same at every further call.
    pub async fn to_vec_async(&self) -> Result<Vec<f32>> {
        match &self.storage {
            Storage::Cpu(values) => Ok(values.to_vec()),
            Storage::Reference(values) => Ok(values.iter().map(|&v| v as f32).collect()),
            #[cfg(feature = "gpu")]
            Storage::Gpu(buffer) => buffer.read_async().await,
        }
    }

    /// The elements as doubles: exact on every device.
    ///
    /// # Errors
    /// The error that spoiled these values or made the GPU fail (see the module `gpu`); the same at every further call.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        match &self.storage {
            Storage::Reference(values) => Ok(values.to_vec()),
            _ => Ok(self.to_vec()?.into_iter().map(f64::from).collect()),
        }
    }

    /// The same tensor on `device` (PyTorch: `to`). If it is there already, the storage is shared.
    ///
    /// # Errors
    /// When a GPU on either side fails.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if self.device().same(device) {
            return Ok(self.clone());
        }
        match (&self.storage, device) {
            (Storage::Reference(values), _) => Self::from_f64(self.shape, values.to_vec(), device),
            _ => Self::from_vec(self.shape, self.to_vec()?, device),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{:?} on {}", self.shape, self.device())
    }
}

/// The device that all operands of the operation `op` are on. `op` is the name for the panic's message.
///
/// # Panics
/// If they are on different devices, or there are none.
#[track_caller]
pub fn common_device(op: &str, operands: &[&Tensor]) -> Device {
    let device = operands[0].device();
    for other in &operands[1..] {
        assert!(device.same(&other.device()), "{op}: operands on {device} and on {}", other.device());
    }
    device
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn values_survive_a_change_of_device() {
        let x = Tensor::from_vec([2, 2], vec![0.1, -2.5, 3.0, 4.0], &Device::Cpu).unwrap();
        let there = x.to_device(&Device::Reference).unwrap();
        assert_eq!(there.f64s()[0], f64::from(0.1f32));
        assert_eq!(there.to_device(&Device::Cpu).unwrap().f32s(), x.f32s());
    }

    #[test]
    fn writing_to_a_shared_tensor_leaves_the_other_alone() {
        let mut a = Tensor::full([3], 1.0, &Device::Cpu).unwrap();
        let b = a.clone();
        a.f32s_mut()[0] = 5.0;
        assert_eq!((a.f32s()[0], b.f32s()[0]), (5.0, 1.0));
    }

    #[test]
    fn a_shape_whose_size_wraps_is_an_error() {
        for device in testing::devices().into_iter().chain([Device::Reference]) {
            // Their product is 3002, but for a multiple of 2⁶⁴.
            let shape = [6_148_914_691_236_518_206, 3, 1, 1, 1];
            let values = vec![0.0; 3002];
            assert!(matches!(Tensor::from_vec(shape, values.clone(), &device), Err(Error::TooLarge(_))), "{device}");
            let doubles = values.iter().map(|&v| f64::from(v)).collect();
            assert!(matches!(Tensor::from_f64(shape, doubles, &device), Err(Error::TooLarge(_))), "{device}");
            for shape in [[1 << 32, 1 << 32], [1 << 62, 1], [0, usize::MAX]] {
                assert!(matches!(Tensor::from_vec(shape, vec![], &device), Err(Error::TooLarge(_))), "{device}");
                assert!(matches!(Tensor::full(shape, 1.0, &device), Err(Error::TooLarge(_))), "{device}");
            }
        }
        // More than any machine has, though it can be counted.
        assert!(matches!(Tensor::full([1 << 30, 1 << 29], 1.0, &Device::Cpu), Err(Error::OutOfMemory(_))));
    }

    #[test]
    #[should_panic(expected = "op: operands on")]
    fn operands_on_two_devices_are_refused() {
        let a = Tensor::full([1], 1.0, &Device::Cpu).unwrap();
        let b = Tensor::full([1], 1.0, &Device::Reference).unwrap();
        common_device("op", &[&a, &b]);
    }
}
