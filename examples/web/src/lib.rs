//! What the page computes: digits from drawings, what three networks answer to them at every angle, and the checker. The page's
//! scripts call it through `browser`; everything else is tested where the tests run.

#[cfg(target_arch = "wasm32")]
mod browser;
pub mod checker;
pub mod classifier;
pub mod drawing;
