//! Dropout.

use crate::Var;
use quarterturn_core::Stream;
use quarterturn_kernels as kernels;

impl<'t> Var<'t> {
    /// Dropout of elements with probability `p`: [`kernels::dropout`].
    #[track_caller]
    pub fn dropout(&self, p: f32, stream: Stream) -> Var<'t> {
        let y = kernels::dropout(self.value(), p, stream);
        self.unary("dropout", y, move |dy| kernels::dropout(&dy, p, stream))
    }

    /// Dropout of whole channels with probability `p` (PyTorch: `dropout2d`): [`kernels::dropout_maps`].
    #[track_caller]
    pub fn dropout_maps(&self, p: f32, stream: Stream) -> Var<'t> {
        let y = kernels::dropout_maps(self.value(), p, stream);
        self.unary("dropout_maps", y, move |dy| kernels::dropout_maps(&dy, p, stream))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, Table};
    use quarterturn_core::Stream;

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        table.row("dropout", LINEAR, &[&[40]], |_, v| v[0].dropout(0.3, Stream::new(1, 2, 3)));
        let map: &[&[usize]] = &[&[2, 5, 4, 2, 2]];
        table.row("dropout_maps", LINEAR, map, |_, v| v[0].dropout_maps(0.3, Stream::new(1, 2, 3)));
        table.check();
    }
}
