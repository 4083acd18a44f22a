//! Rotation, resizing and cropping of images.

use crate::Var;
use quarterturn_kernels as kernels;

impl<'t> Var<'t> {
    /// Bilinear rotation of image `n` by `degrees[n]`: [`kernels::rotate`].
    #[track_caller]
    pub fn rotate(&self, degrees: &[f32], fill: f32) -> Var<'t> {
        let y = kernels::rotate(self.value(), degrees, fill);
        let degrees = degrees.to_vec();
        self.unary("rotate", y, move |dy| kernels::rotate_vjp(&dy, &degrees))
    }

    /// Bilinear resize: [`kernels::resize`].
    #[track_caller]
    pub fn resize(&self, height: usize, width: usize) -> Var<'t> {
        let before = self.shape();
        let y = kernels::resize(self.value(), height, width);
        let (h, w) = (before[before.rank() - 2], before[before.rank() - 1]);
        self.unary("resize", y, move |dy| kernels::resize_vjp(&dy, h, w))
    }

    /// Nearest-neighbour resize: [`kernels::resize_nearest`].
    #[track_caller]
    pub fn resize_nearest(&self, height: usize, width: usize) -> Var<'t> {
        let before = self.shape();
        let y = kernels::resize_nearest(self.value(), height, width);
        let (h, w) = (before[before.rank() - 2], before[before.rank() - 1]);
        self.unary("resize_nearest", y, move |dy| kernels::resize_nearest_vjp(&dy, h, w))
    }

    /// Sets pixels outside of the inscribed circle to 0: [`kernels::circle_crop`].
    #[track_caller]
    pub fn circle_crop(&self) -> Var<'t> {
        self.unary("circle_crop", kernels::circle_crop(self.value()), |dy| kernels::circle_crop(&dy))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, NONLINEAR, Table};

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        let angles = [20.0, 90.0, -130.5];
        table.row("rotate", LINEAR, &[&[3, 2, 5, 5]], move |_, v| v[0].rotate(&angles, 0.0));
        table.row("rotate, filled", NONLINEAR, &[&[3, 2, 5, 5]], move |_, v| v[0].rotate(&angles, 0.5));
        table.row("resize up", LINEAR, &[&[1, 2, 5, 4]], |_, v| v[0].resize(7, 6));
        table.row("resize down", LINEAR, &[&[1, 2, 7, 6]], |_, v| v[0].resize(4, 5));
        table.row("resize_nearest up", LINEAR, &[&[1, 2, 5, 4]], |_, v| v[0].resize_nearest(7, 8));
        table.row("resize_nearest down", LINEAR, &[&[1, 2, 7, 6]], |_, v| v[0].resize_nearest(4, 5));
        table.row("circle_crop", LINEAR, &[&[1, 2, 6, 6]], |_, v| v[0].circle_crop());
        table.check();
    }
}
