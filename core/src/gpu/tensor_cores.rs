//! Units for small matrix products (CUDA: tensor cores), which wgpu calls cooperative matrices.

/// Whether group convolutions may use the GPU's units for small matrix products (CUDA: tensor cores).
///
/// A float is the sum of two halves there. What a unit makes of them must pass a test before it is used; otherwise, and on
/// GPUs without such units, the same convolutions run in fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TensorCores {
    /// Three products of halves stand for one of floats. The error is at most that of fp32.
    #[default]
    Accurate,
    /// One product of halves: factors are rounded to 11 bits, as with TF32. It is as exact under turns.
    Fast,
    /// Not at all.
    Off,
}

/// The units of an open GPU: products of `size × size` matrices of f16, added up in f32 by one subgroup (CUDA: warp).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixUnits {
    /// Rows and columns: 8 or 16.
    pub size: u32,
    /// Invocations of a subgroup.
    pub subgroup: u32,
}

impl MatrixUnits {
    /// What a device must be opened with.
    pub(super) const FEATURES: wgpu::Features =
        wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);

    /// Those of an adapter: the largest products. Subgroups must have one size, for a kernel counts them.
    pub(super) fn of(adapter: &wgpu::Adapter) -> Option<Self> {
        let info = adapter.get_info();
        if !adapter.features().contains(Self::FEATURES) || info.subgroup_min_size != info.subgroup_max_size {
            return None;
        }
        let scalars = [wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32];
        let sizes = adapter.cooperative_matrix_properties().into_iter().filter_map(|one| {
            let square = one.m_size == one.n_size && one.n_size == one.k_size;
            (square && [one.ab_type, one.cr_type] == scalars).then_some(one.m_size)
        });
        Some(MatrixUnits { size: sizes.max()?, subgroup: info.subgroup_min_size })
    }
}
