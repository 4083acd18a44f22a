//! Filters in the form that the CPU's convolutions read, kept from one call to the next.

use super::{
    Conv, Extents, GivenNorm, group_conv, group_conv_norm,
    pass::{Epilogue, Nothing, Plan, forward_plan, shares},
};
use crate::Isa;
use quarterturn_core::{Device, Tensor, common_device};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Keeps the transforms of a convolution's filters for the next call. On the CPU they take longer than the convolution of one
/// image; on other devices there is nothing to keep.
///
/// The transforms are kept together with clones of the tensors that they were made from. A tensor with clones is never
/// written to in place, so the transforms always fit their tensors. A call with other tensors, or with images of
/// another size, transforms anew and replaces what was kept. Call [`FilterCache::clear`] before weights are trained.
/// Otherwise the first update of each weight has to copy it.
#[derive(Default)]
pub struct FilterCache(Mutex<Option<Arc<Entry>>>);

/// A plan, and what it was made of.
struct Entry {
    key: Key<Tensor>,
    plan: Plan,
}

/// What a plan depends on, with tensors that are borrowed or kept.
struct Key<T> {
    /// Weight and bias of the convolution; weight, bias, mean and variance of the norm.
    operands: [Option<T>; 6],
    conv: Conv,
    /// Epsilon of the norm, and whether a ReLU follows.
    norm: Option<(f64, bool)>,
    /// The batch's extent is the number of bands that an image is taken in.
    extents: Extents,
    shares: usize,
    isa: Isa,
}

impl<'a> Key<&'a Tensor> {
    fn of(e: &Extents, [weight, bias]: [Option<&'a Tensor>; 2], conv: Conv, norm: Option<GivenNorm<'a>>) -> Self {
        let shares = shares(e, conv);
        let [gamma, beta, mean, var] =
            norm.map(|norm| [norm.weight, norm.bias, norm.mean, norm.var].map(Some)).unwrap_or_default();
        Key {
            operands: [weight, bias, gamma, beta, mean, var],
            conv,
            norm: norm.map(|norm| (norm.eps, norm.relu)),
            extents: Extents { batch: shares.div_ceil(e.batch), ..*e },
            shares,
            isa: Isa::current(),
        }
    }

    fn kept(self) -> Key<Tensor> {
        let Key { operands, conv, norm, extents, shares, isa } = self;
        Key { operands: operands.map(|operand| operand.cloned()), conv, norm, extents, shares, isa }
    }
}

impl Key<Tensor> {
    /// Whether the other is of the same settings and the very same tensors.
    fn is(&self, other: &Key<&Tensor>) -> bool {
        let same = |pair: (&Option<Tensor>, &Option<&Tensor>)| match pair {
            (Some(kept), Some(given)) => kept.shares_values_with(given),
            (kept, given) => kept.is_none() && given.is_none(),
        };
        (self.extents, self.shares, self.conv, self.isa) == (other.extents, other.shares, other.conv, other.isa)
            && self.norm == other.norm
            && self.operands.iter().zip(&other.operands).all(same)
    }
}

impl FilterCache {
    /// [`group_conv`], then, with a `norm`, [`group_conv_norm`]: the same bits.
    ///
    /// # Panics
    /// As those.
    #[track_caller]
    pub fn group_conv(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        conv: Conv,
        norm: Option<GivenNorm>,
    ) -> Tensor {
        if !matches!(x.device(), Device::Cpu) {
            return match norm {
                Some(norm) => group_conv_norm(x, weight, bias, conv, norm),
                None => group_conv(x, weight, bias, conv),
            };
        }
        let e = Extents::new("group_conv", x.shape(), weight.shape(), conv);
        let key = Key::of(&e, [Some(weight), bias], conv, norm);
        let kept = self.lock().clone().filter(|entry| entry.key.is(&key));
        let entry = kept.unwrap_or_else(|| {
            let per_channel = key.operands[1..].iter().flatten();
            for operand in per_channel {
                common_device("group_conv", &[x, operand]);
                assert_eq!(operand.dims(), [e.c_out], "group_conv: expected [C_out] in norm and bias");
            }
            let none = || Epilogue::bias(e.c_out, bias.map(Tensor::f32s));
            let epilogue = norm.map_or_else(none, |norm| norm.epilogue(bias));
            let plan = forward_plan(&e, conv, key.isa, weight.f32s(), epilogue);
            let entry = Arc::new(Entry { key: key.kept(), plan });
            *self.lock() = Some(entry.clone());
            entry
        });
        Tensor::cpu(e.y(), entry.plan.over(x.f32s(), &Nothing))
    }

    /// Drops what is kept.
    pub fn clear(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FilterCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FilterCache")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Group,
        group_conv::tests::{CASES, operands, random},
    };
    use quarterturn_core::Shape;

    /// The settings of a norm of so many channels.
    fn norm_of(channels: usize) -> [Tensor; 4] {
        let of = |stream| random(Shape::from([channels]), stream, &Device::Cpu);
        [of(5), of(6), of(7), Tensor::cpu([channels], vec![2.0; channels].into())]
    }

    fn given([weight, bias, mean, var]: &[Tensor; 4], relu: bool) -> GivenNorm<'_> {
        GivenNorm { weight, bias, mean, var, eps: 1e-5, relu }
    }

    #[track_caller]
    fn assert_same(got: &Tensor, expected: &Tensor) {
        assert!(got.shape() == expected.shape() && got.f32s() == expected.f32s());
    }

    #[test]
    fn what_is_kept_makes_the_same_bits() {
        for &case in CASES {
            let (x, weight, bias, conv) = operands(case, &Device::Cpu);
            let statistics = norm_of(weight.dims()[0]);
            let [plain, normed] = [(); 2].map(|()| FilterCache::default());
            for _ in 0..2 {
                let y = plain.group_conv(&x, &weight, Some(&bias), conv, None);
                assert_same(&y, &group_conv(&x, &weight, Some(&bias), conv));
                let norm = given(&statistics, true);
                let y = normed.group_conv(&x, &weight, None, conv, Some(norm));
                assert_same(&y, &group_conv_norm(&x, &weight, None, conv, norm));
            }
        }
    }

    /// One cache, of which everything that it is called with changes, one after another.
    #[test]
    fn whatever_changes_is_noticed() {
        let cache = FilterCache::default();
        let (mut x, mut weight, mut bias, mut conv) =
            operands((Group::C4, false, 2, 3, 5, 9, 9, 3, 1, 1, 1), &Device::Cpu);
        let mut statistics = norm_of(5);
        let mut relu = false;
        for change in 0.. {
            match change {
                0 => {}
                1 => weight.f32s_mut()[7] += 1.0,
                2 => bias.f32s_mut()[4] += 1.0,
                3..=6 => statistics[change - 3].f32s_mut()[0] += 1.0,
                7 => relu = true,
                8 => conv.stride = 2,
                9 => conv.dilation = 2,
                10 => x = random(Shape::from([1, 3, 4, 9, 9]), 8, &Device::Cpu),
                11 => x = random(Shape::from([1, 3, 4, 8, 9]), 8, &Device::Cpu),
                12 => conv.padding = 2,
                _ => break,
            }
            let norm = given(&statistics, relu);
            let y = cache.group_conv(&x, &weight, Some(&bias), conv, Some(norm));
            assert_same(&y, &group_conv_norm(&x, &weight, Some(&bias), conv, norm));
            let y = cache.group_conv(&x, &weight, Some(&bias), conv, None);
            assert_same(&y, &group_conv(&x, &weight, Some(&bias), conv));
            let y = cache.group_conv(&x, &weight, None, conv, Some(norm));
            assert_same(&y, &group_conv_norm(&x, &weight, None, conv, norm));
        }
    }

    #[test]
    fn a_weight_is_copied_by_an_update_unless_the_cache_is_cleared() {
        let cache = FilterCache::default();
        let (x, mut weight, _, conv) = operands((Group::C4, false, 1, 3, 5, 9, 9, 3, 1, 1, 1), &Device::Cpu);
        let mut moves = |clear: bool| {
            cache.group_conv(&x, &weight, None, conv, None);
            if clear {
                cache.clear();
            }
            let before = weight.f32s().as_ptr();
            weight.f32s_mut().as_ptr() != before
        };
        assert_eq!([moves(false), moves(true)], [true, false]);
    }

    #[test]
    #[should_panic(expected = "expected [C_out] in norm and bias")]
    fn a_bias_of_another_length_is_refused() {
        let (x, weight, ..) = operands((Group::C4, false, 1, 3, 5, 9, 9, 3, 1, 1, 1), &Device::Cpu);
        FilterCache::default().group_conv(&x, &weight, Some(&norm_of(4)[0]), Conv::new(Group::C4), None);
    }
}
