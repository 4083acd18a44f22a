//! The same elements in other places.

use crate::Var;
use quarterturn_core::Shape;

impl<'t> Var<'t> {
    /// The same elements under other extents.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Var<'t> {
        let before = self.shape();
        self.unary("reshape", self.value().reshape(shape), move |dy| dy.reshape(before))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, Table};

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        table.row("reshape", LINEAR, &[&[3, 4]], |_, v| v[0].reshape([2, 6]));
        table.check();
    }
}
