//! Adaptive subsampling: a feature map chooses the grid of pixels that is kept.

use crate::Var;
use quarterturn_kernels::{self as kernels, GridChoice, Window};

impl<'t> Var<'t> {
    /// The grid that each image of this feature map chooses; no gradient flows through the choice:
    /// [`kernels::choose_grid`].
    #[track_caller]
    pub fn choose_grid(&self) -> GridChoice {
        kernels::choose_grid(self.value())
    }

    /// The grid that each image chooses for windows of stride 2; no gradient flows through the choice:
    /// [`kernels::choose_grid_of_windows`].
    #[track_caller]
    pub fn choose_grid_of_windows(&self, window: Window) -> GridChoice {
        kernels::choose_grid_of_windows(self.value(), window)
    }

    /// The pixels on the chosen grid: [`kernels::subsample`].
    #[track_caller]
    pub fn subsample(&self, choice: &GridChoice) -> Var<'t> {
        let (y, choice) = (kernels::subsample(self.value(), choice), choice.clone());
        self.unary("subsample", y, move |dy| kernels::upsample(&dy, &choice))
    }

    /// The inverse way: puts the pixels back on the chosen grid, with zeros elsewhere: [`kernels::upsample`].
    #[track_caller]
    pub fn upsample(&self, choice: &GridChoice) -> Var<'t> {
        let (y, choice) = (kernels::upsample(self.value(), choice), choice.clone());
        self.unary("upsample", y, move |dy| kernels::subsample(&dy, &choice))
    }

    /// The feature map, shifted so that ordinary windows on it are those of the chosen grid; and the window to use on
    /// it: [`kernels::move_onto_grid`].
    #[track_caller]
    pub fn move_onto_grid(&self, choice: &GridChoice, window: Window) -> (Var<'t>, Window) {
        let (y, on_grid) = kernels::move_onto_grid(self.value(), choice, window);
        if !choice.is_open() {
            return (self.clone(), on_grid);
        }
        let (choice, x_shape) = (choice.clone(), self.shape());
        let vjp = move |dy| kernels::move_onto_grid_vjp(&dy, x_shape, &choice, window);
        (self.unary("move_onto_grid", y, vjp), on_grid)
    }

    /// Max pooling of stride 2 on the grid that the maxima choose, and that grid: [`kernels::adaptive_max_pool`].
    #[track_caller]
    pub fn adaptive_max_pool(&self, window: Window) -> (Var<'t>, GridChoice) {
        let x = self.value().clone();
        let (y, choice) = kernels::adaptive_max_pool(&x, window);
        let chosen = choice.clone();
        let vjp = move |dy| kernels::adaptive_max_pool_vjp(&x, &dy, window, &chosen);
        (self.unary("adaptive_max_pool", y, vjp), choice)
    }

    /// Average pooling of stride 2 on the grid that the means choose, and that grid: [`kernels::adaptive_avg_pool`].
    #[track_caller]
    pub fn adaptive_avg_pool(&self, window: Window) -> (Var<'t>, GridChoice) {
        let (y, choice) = kernels::adaptive_avg_pool(self.value(), window);
        let (chosen, x_shape) = (choice.clone(), self.shape());
        let vjp = move |dy| kernels::adaptive_avg_pool_vjp(&dy, x_shape, window, &chosen);
        (self.unary("adaptive_avg_pool", y, vjp), choice)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Var,
        ops::check::{LINEAR, NONLINEAR, Table, beside},
    };
    use quarterturn_core::Tensor;
    use quarterturn_kernels::{Window, choose_grid, choose_grid_of_windows};

    /// Two images that choose one grid each, or all four.
    fn chooser(like: &Var<'_>, blank: bool) -> Tensor {
        let values: Vec<f64> = (0..60).map(|i| if blank { 0.0 } else { f64::from(i * i % 13) }).collect();
        beside(like, &values).reshape([2, 1, 6, 5])
    }

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        for (kind, blank) in [("", false), (", tied", true)] {
            table.row(format!("subsample{kind}"), LINEAR, &[&[2, 3, 4, 6, 5]], move |_, v| {
                v[0].subsample(&choose_grid(&chooser(&v[0], blank)))
            });
            table.row(format!("upsample{kind}"), LINEAR, &[&[2, 3, 4, 3, 3]], move |_, v| {
                v[0].upsample(&choose_grid(&chooser(&v[0], blank)))
            });
            for (kernel_size, padding) in [(3, 1), (1, 0), (2, 1)] {
                let window = Window { kernel_size, stride: 2, padding };
                table.row(format!("move_onto_grid {window:?}{kind}"), LINEAR, &[&[2, 3, 4, 6, 5]], move |_, v| {
                    v[0].move_onto_grid(&choose_grid_of_windows(&chooser(&v[0], blank), window), window).0
                });
            }
        }
        for (kernel_size, padding) in [(2, 0), (3, 1)] {
            let window = Window { kernel_size, stride: 2, padding };
            for extent in [6, 7] {
                let (name, x) = (format!("{extent} {window:?}"), [2, 2, 4, extent, extent]);
                let name = |op: &str| format!("{op} {name}");
                table.row(name("adaptive_max_pool"), NONLINEAR, &[&x], move |_, v| v[0].adaptive_max_pool(window).0);
                table.row(name("adaptive_avg_pool"), NONLINEAR, &[&x], move |_, v| v[0].adaptive_avg_pool(window).0);
            }
        }
        table.check();
    }
}
