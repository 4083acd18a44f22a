//! Vector instructions, chosen at run time. The crate's `unsafe` is here, in the kernels that are written with [`Simd`]
//! (`group_conv/`, `dense.rs`, `adaptive/score.rs`), and where shaders are launched without some of wgpu's checks (`launch.rs`,
//! `group_conv/gpu.rs`, `group_conv/gpu/tensor_cores.rs`).
//!
//! A kernel is written once as a [`Task`], generic over [`Simd`]; [`Isa::run`] compiles it for every instruction set.
//! Lanes never mix, so a result does not depend on their number, except that without a fused multiply-add
//! ([`Isa::Portable`]) products are rounded before they are added.

use std::{
    fmt,
    ops::Range,
    sync::{
        LazyLock,
        atomic::{AtomicU8, Ordering},
    },
};

/// An instruction set that this build has kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, any processor.
    Portable,
    /// 8 lanes with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 16 lanes with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 4 lanes with fused multiply-add.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// Lanes of the widest vector.
pub(crate) const WIDEST: usize = 16;

/// A loop that [`Isa::run`] compiles for every instruction set. `run` and all it calls must be `#[inline(always)]`, or
/// they are compiled for the build's baseline.
pub(crate) trait Task {
    type Output;
    fn run<S: Simd>(self) -> Self::Output;
}

static DETECTED: LazyLock<Vec<Isa>> = LazyLock::new(|| {
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(unused_mut))]
    let mut found = vec![Isa::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            found.push(Isa::Avx2);
        }
        // Every processor but the first (Knights Landing) has the short vectors too.
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
        {
            found.push(Isa::Avx512);
        }
    }
    #[cfg(target_arch = "aarch64")]
    found.push(Isa::Neon);
    found
});

/// Index into `DETECTED` plus one; 0 means the best.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// The instruction sets of this processor, the best last.
    pub fn available() -> &'static [Isa] {
        &DETECTED
    }

    /// The instruction set in use: the best one, unless [`Isa::choose`] has chosen another.
    pub fn current() -> Isa {
        match CHOSEN.load(Ordering::Relaxed) {
            0 => DETECTED[DETECTED.len() - 1],
            n => DETECTED[usize::from(n) - 1],
        }
    }

    /// Uses `isa` from now on, in the whole process. For tests and measurements.
    ///
    /// # Panics
    /// If this processor does not have it.
    pub fn choose(isa: Isa) {
        let index = DETECTED.iter().position(|&i| i == isa).expect("Isa::choose: not available on this processor");
        CHOSEN.store(index as u8 + 1, Ordering::Relaxed);
    }

    /// Vector registers that a kernel has.
    pub(crate) fn registers(self) -> usize {
        struct Registers;
        impl Task for Registers {
            type Output = usize;
            fn run<S: Simd>(self) -> usize {
                S::REGISTERS
            }
        }
        self.run(Registers)
    }

    /// Runs `task`, compiled for this instruction set.
    #[inline]
    pub(crate) fn run<T: Task>(self, task: T) -> T::Output {
        match self {
            Isa::Portable => portable(task),
            // SAFETY: a value of these variants exists only where the processor was seen to have the instructions:
            // they come from `DETECTED`, and `choose` refuses others. (Naming the variant directly is for this crate's
            // tests, which take it from `available`.)
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::avx2(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86::avx512(task) },
            // Part of every aarch64 processor.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => arm::Neon::run(task),
        }
    }
}

// Not inlined, as its sisters in `x86`: there would be a copy wherever a task is run.
#[inline(never)]
fn portable<T: Task>(task: T) -> T::Output {
    task.run::<Portable>()
}

/// Defines a function whose body is compiled for every instruction set, leaving the vectors to the compiler. What the
/// body calls must be `#[inline(always)]` or small.
///
/// A macro, since no function can do it: `target_feature` does not reach into a closure or function that is passed in.
macro_rules! wide {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident $(<$generic:ident: $bound:path>)? (
        $($argument:ident: $type:ty),* $(,)?
    ) $(-> $output:ty)? $body:block) => {
        $(#[$doc])*
        $visibility fn $name $(<$generic: $bound>)? ($($argument: $type),*) $(-> $output)? {
            #[inline(always)]
            fn body $(<$generic: $bound>)? ($($argument: $type),*) $(-> $output)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$generic: $bound>)? ($($argument: $type),*) $(-> $output)? {
                body($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            fn avx512 $(<$generic: $bound>)? ($($argument: $type),*) $(-> $output)? {
                body($($argument),*)
            }
            match $crate::simd::Isa::current() {
                // SAFETY: `current` is an instruction set that the processor was seen to have.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx512 => unsafe { avx512($($argument),*) },
                _ => body($($argument),*),
            }
        }
    };
}
pub(crate) use wide;

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
        })
    }
}

/// A vector of `LANES` floats.
pub(crate) trait Simd: Copy {
    type V: Copy;
    const LANES: usize;
    /// Vector registers of the processor.
    const REGISTERS: usize;
    /// [`Isa::run`] for these instructions: a function of its own.
    fn run<T: Task>(task: T) -> T::Output;
    /// As [`Simd::run`], with vectors of half the lanes where that takes half the time, and no registers are lost by it.
    #[inline(always)]
    fn run_half<T: Task>(task: T) -> T::Output {
        Self::run(task)
    }
    fn splat(value: f32) -> Self::V;
    /// The first `LANES` values of `from`.
    ///
    /// # Safety
    /// `from` must point to `LANES` readable floats.
    unsafe fn load(from: *const f32) -> Self::V;
    /// # Safety
    /// `to` must point to `LANES` writable floats.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Asks for the cache line at `at`, which is read or written soon. Nothing is accessed: any address will do.
    #[inline(always)]
    fn prefetch(_at: *const f32) {}
    fn add(a: Self::V, b: Self::V) -> Self::V;
    fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// The sum of each pair's bits as integers, without what does not fit.
    fn add_bits(a: Self::V, b: Self::V) -> Self::V;
    /// The bits that both of a pair have.
    fn and_bits(a: Self::V, b: Self::V) -> Self::V;
    /// The bits that either of a pair has.
    fn or_bits(a: Self::V, b: Self::V) -> Self::V;
    /// Larger of each pair; the second where either is NaN.
    fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once (on `Portable`: twice).
    fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c − a · b`, rounded likewise.
    fn mul_sub(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Stores some lanes, the first of them to `to`.
    ///
    /// # Safety
    /// `to` must be valid for writes of them.
    #[inline(always)]
    unsafe fn store_lanes(v: Self::V, lanes: Range<usize>, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe {
            match lanes.len() == Self::LANES {
                true => Self::store(to, v),
                false => Self::store_apart(v, lanes, to, 1),
            }
        }
    }
    /// As [`Simd::store_lanes`], `step` floats from one lane to the next.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn store_apart(v: Self::V, lanes: Range<usize>, to: *mut f32, step: usize) {
        let mut all = [0.0; WIDEST];
        // SAFETY: no vector has more than `WIDEST` lanes; the caller's.
        unsafe {
            Self::store(all.as_mut_ptr(), v);
            for (i, lane) in all[lanes].iter().enumerate() {
                *to.add(i * step) = *lane;
            }
        }
    }
    /// Of the floats of `a` and then of `b` those at even places, and those at odd ones.
    #[inline(always)]
    fn unzip(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        pairs::<Self>(a, b, |i| [2 * i, 2 * i + 1])
    }
    /// As [`Simd::unzip`], of pairs of floats instead of floats.
    #[inline(always)]
    fn unzip_pairs(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        pairs::<Self>(a, b, |i| {
            let place = i / 2 * 4 + i % 2;
            [place, place + 2]
        })
    }
    /// The adjoint of [`Simd::unzip`]: the lanes of both in turn, the lower half of them first.
    #[inline(always)]
    fn zip(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        pairs::<Self>(a, b, |i| {
            let lane = |i: usize| i % 2 * Self::LANES + i / 2;
            [lane(i), lane(Self::LANES + i)]
        })
    }
    /// The sum of each vector's lanes as a tree: of n lanes the first n/2 with the others, and so on.
    #[inline(always)]
    fn tree_sums(vectors: [Self::V; 8]) -> [f32; 8] {
        vectors.map(|v| {
            let mut tree = [0.0; WIDEST];
            // SAFETY: no vector has more lanes.
            unsafe { Self::store(tree.as_mut_ptr(), v) };
            tree_sum(&mut tree[..Self::LANES])
        })
    }
}

/// Two vectors whose lanes i come from the places `of(i)` among the lanes of `a` and then of `b`.
#[inline(always)]
fn pairs<S: Simd>(a: S::V, b: S::V, of: impl Fn(usize) -> [usize; 2]) -> (S::V, S::V) {
    let (mut all, mut first, mut second) = ([0.0; 2 * WIDEST], [0.0; WIDEST], [0.0; WIDEST]);
    // SAFETY: no vector has more than `WIDEST` lanes.
    unsafe {
        S::store(all.as_mut_ptr(), a);
        S::store(all.as_mut_ptr().add(S::LANES), b);
        for i in 0..S::LANES {
            [first[i], second[i]] = of(i).map(|place| all[place]);
        }
        (S::load(first.as_ptr()), S::load(second.as_ptr()))
    }
}

/// The sum of a power of two of lanes: the first half with the others, and so on.
#[inline(always)]
fn tree_sum(tree: &mut [f32]) -> f32 {
    let mut lanes = tree.len();
    while lanes > 1 {
        lanes /= 2;
        for i in 0..lanes {
            tree[i] += tree[i + lanes];
        }
    }
    tree[0]
}

/// One float at a time, for what is not worth a vector.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    type V = f32;
    const LANES: usize = 1;
    const REGISTERS: usize = 16;
    #[inline(always)]
    fn run<T: Task>(task: T) -> T::Output {
        task.run::<Scalar>()
    }
    #[inline(always)]
    fn splat(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> f32 {
        // SAFETY: the caller's.
        unsafe { *from }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: f32) {
        // SAFETY: the caller's.
        unsafe { *to = v }
    }
    #[inline(always)]
    fn add(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn add_bits(a: f32, b: f32) -> f32 {
        f32::from_bits(a.to_bits().wrapping_add(b.to_bits()))
    }
    #[inline(always)]
    fn and_bits(a: f32, b: f32) -> f32 {
        f32::from_bits(a.to_bits() & b.to_bits())
    }
    #[inline(always)]
    fn or_bits(a: f32, b: f32) -> f32 {
        f32::from_bits(a.to_bits() | b.to_bits())
    }
    #[inline(always)]
    fn max(a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    fn mul_sub(a: f32, b: f32, c: f32) -> f32 {
        c - a * b
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    #[inline(always)]
    fn run<T: Task>(task: T) -> T::Output {
        portable(task)
    }
    #[inline(always)]
    fn splat(value: f32) -> Self::V {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn add_bits(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| Scalar::add_bits(a[i], b[i]))
    }
    #[inline(always)]
    fn and_bits(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| Scalar::and_bits(a[i], b[i]))
    }
    #[inline(always)]
    fn or_bits(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| Scalar::or_bits(a[i], b[i]))
    }
    #[inline(always)]
    fn max(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn mul_sub(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| c[i] - a[i] * b[i])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Simd, Task};
    use std::{arch::x86_64::*, ops::Range};

    // Not inlined: a kernel that is called from another one has the registers to itself.
    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2<T: Task>(task: T) -> T::Output {
        task.run::<Avx2>()
    }

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub(super) unsafe fn avx512_half<T: Task>(task: T) -> T::Output {
        task.run::<Ymm<32>>()
    }

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn avx512<T: Task>(task: T) -> T::Output {
        task.run::<Avx512>()
    }

    /// 8 lanes. Methods must only be reached through [`avx2`] or [`avx512_half`]: the `unsafe` blocks below rest on it.
    #[derive(Clone, Copy)]
    pub(super) struct Ymm<const REGISTERS: usize>;

    type Avx2 = Ymm<16>;

    /// Methods must only be reached through [`avx512`].
    #[derive(Clone, Copy)]
    pub(super) struct Avx512;

    // SAFETY (every block of both impls): the types are private to this module, so that their methods run only inside
    // the three functions above, whose callers have checked the processor; loads and stores pass on the caller's proof.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl<const REGISTERS: usize> Simd for Ymm<REGISTERS> {
        type V = __m256;
        const LANES: usize = 8;
        const REGISTERS: usize = REGISTERS;
        #[inline(always)]
        fn run<T: Task>(task: T) -> T::Output {
            unsafe { avx2(task) }
        }
        #[inline(always)]
        fn splat(value: f32) -> __m256 {
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        fn prefetch(at: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        fn add_bits(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b))) }
        }
        #[inline(always)]
        fn and_bits(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_and_ps(a, b) }
        }
        #[inline(always)]
        fn or_bits(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_or_ps(a, b) }
        }
        #[inline(always)]
        fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn mul_sub(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fnmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn unzip(a: __m256, b: __m256) -> (__m256, __m256) {
            unsafe {
                let (low, high) = (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
                (_mm256_shuffle_ps::<0x88>(low, high), _mm256_shuffle_ps::<0xdd>(low, high))
            }
        }
        #[inline(always)]
        fn unzip_pairs(a: __m256, b: __m256) -> (__m256, __m256) {
            unsafe {
                let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
                let (even, odd) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
                let (even, odd) = (_mm256_permute4x64_pd::<0xd8>(even), _mm256_permute4x64_pd::<0xd8>(odd));
                (_mm256_castpd_ps(even), _mm256_castpd_ps(odd))
            }
        }
        #[inline(always)]
        fn zip(a: __m256, b: __m256) -> (__m256, __m256) {
            unsafe {
                let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                (_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high))
            }
        }
        #[inline(always)]
        fn tree_sums(v: [__m256; 8]) -> [f32; 8] {
            unsafe {
                // Four sums of vector i in the lower half, of vector i + 4 in the upper one.
                let fours: [__m256; 4] = std::array::from_fn(|i| {
                    let (a, b) = (v[i], v[i + 4]);
                    _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b))
                });
                let twos: [__m256; 2] = std::array::from_fn(|i| {
                    let (a, b) = (fours[2 * i], fours[2 * i + 1]);
                    _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b))
                });
                let (a, b) = (twos[0], twos[1]);
                let ones = _mm256_add_ps(_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b));
                let mut sums = [0.0; 8];
                _mm256_storeu_ps(sums.as_mut_ptr(), ones);
                sums
            }
        }
    }

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const REGISTERS: usize = 32;
        #[inline(always)]
        fn run<T: Task>(task: T) -> T::Output {
            unsafe { avx512(task) }
        }
        #[inline(always)]
        fn run_half<T: Task>(task: T) -> T::Output {
            unsafe { avx512_half(task) }
        }
        #[inline(always)]
        fn splat(value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn store_lanes(v: __m512, lanes: Range<usize>, to: *mut f32) {
            let mask = ((1u32 << lanes.len()) - 1) << lanes.start;
            // Lanes outside the mask are not accessed.
            unsafe { _mm512_mask_storeu_ps(to.wrapping_sub(lanes.start), mask as u16, v) }
        }
        #[inline(always)]
        fn prefetch(at: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn add_bits(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b))) }
        }
        #[inline(always)]
        fn and_bits(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_castps_si512(b))) }
        }
        #[inline(always)]
        fn or_bits(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a), _mm512_castps_si512(b))) }
        }
        #[inline(always)]
        fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn mul_sub(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fnmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn unzip(a: __m512, b: __m512) -> (__m512, __m512) {
            unsafe {
                let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
                let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
                (_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
            }
        }
        #[inline(always)]
        fn unzip_pairs(a: __m512, b: __m512) -> (__m512, __m512) {
            unsafe {
                let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
                let even = _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), b);
                let odd = _mm512_permutex2var_pd(a, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), b);
                (_mm512_castpd_ps(even), _mm512_castpd_ps(odd))
            }
        }
        #[inline(always)]
        fn zip(a: __m512, b: __m512) -> (__m512, __m512) {
            unsafe {
                let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
                (_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b))
            }
        }
        #[inline(always)]
        fn tree_sums(v: [__m512; 8]) -> [f32; 8] {
            unsafe {
                // Of two vectors, the halves to be added lie crosswise: a blend and one shuffle bring them together.
                // Eight sums each of vectors 2i and 2i + 1.
                let eights: [__m512; 4] = std::array::from_fn(|i| {
                    let (a, b) = (v[2 * i], v[2 * i + 1]);
                    _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4::<0x4e>(a, b))
                });
                // Four each of vectors 4i, 4i + 2, 4i + 1 and 4i + 3.
                let crossed = _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
                let fours: [__m512; 2] = std::array::from_fn(|i| {
                    let (a, b) = (eights[2 * i], eights[2 * i + 1]);
                    _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, a, b), _mm512_permutex2var_ps(a, crossed, b))
                });
                // Two each of vectors 0, 4, 2, 6, 1, 5, 3 and 7.
                let (a, b) = (fours[0], fours[1]);
                let twos = _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps::<0x4e>(a, b));
                let ones = _mm512_add_ps(twos, _mm512_permute_ps::<0xb1>(twos));
                let order = _mm512_setr_epi32(0, 8, 4, 12, 2, 10, 6, 14, 0, 0, 0, 0, 0, 0, 0, 0);
                let mut sums = [0.0; 8];
                let ones = _mm512_castps512_ps256(_mm512_permutexvar_ps(order, ones));
                _mm256_storeu_ps(sums.as_mut_ptr(), ones);
                sums
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{Simd, Task};
    use std::arch::aarch64::*;

    #[derive(Clone, Copy)]
    pub(super) struct Neon;

    // SAFETY (every block): NEON is part of every aarch64 processor; loads and stores pass on the caller's proof.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Simd for Neon {
        type V = float32x4_t;
        const LANES: usize = 4;
        const REGISTERS: usize = 32;
        #[inline(never)]
        fn run<T: Task>(task: T) -> T::Output {
            task.run::<Neon>()
        }
        #[inline(always)]
        fn splat(value: f32) -> float32x4_t {
            unsafe { vdupq_n_f32(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> float32x4_t {
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: float32x4_t) {
            unsafe { vst1q_f32(to, v) }
        }
        #[inline(always)]
        fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vaddq_f32(a, b) }
        }
        #[inline(always)]
        fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vsubq_f32(a, b) }
        }
        #[inline(always)]
        fn add_bits(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b))) }
        }
        #[inline(always)]
        fn and_bits(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b))) }
        }
        #[inline(always)]
        fn or_bits(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b))) }
        }
        #[inline(always)]
        fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
        }
        #[inline(always)]
        fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            unsafe { vfmaq_f32(c, a, b) }
        }
        #[inline(always)]
        fn mul_sub(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            unsafe { vfmsq_f32(c, a, b) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`Simd::tree_sums`] makes of vectors, and what it should.
    struct Trees([[f32; WIDEST]; 8]);

    impl Task for Trees {
        type Output = [[f32; 8]; 2];

        #[inline(always)]
        fn run<S: Simd>(self) -> Self::Output {
            // SAFETY: no vector has more lanes.
            let vectors = self.0.each_ref().map(|lanes| unsafe { S::load(lanes.as_ptr()) });
            let expected = self.0.map(|mut lanes| tree_sum(&mut lanes[..S::LANES]));
            [S::tree_sums(vectors), expected]
        }
    }

    /// What [`Simd::zip`] makes of two vectors, and what [`Simd::unzip`] makes of that; what [`Simd::unzip_pairs`] makes of the
    /// two. No lane behind the vector's counts.
    struct Zips([[f32; WIDEST]; 2]);

    impl Task for Zips {
        type Output = (usize, [[f32; WIDEST]; 6]);

        #[inline(always)]
        fn run<S: Simd>(self) -> Self::Output {
            let mut got = [[0.0; WIDEST]; 6];
            // SAFETY: no vector has more lanes.
            unsafe {
                let (first, second) = (S::load(self.0[0].as_ptr()), S::load(self.0[1].as_ptr()));
                let (low, high) = S::zip(first, second);
                let (a, b) = S::unzip(low, high);
                let (even, odd) = S::unzip_pairs(first, second);
                for (got, v) in got.iter_mut().zip([low, high, a, b, even, odd]) {
                    S::store(got.as_mut_ptr(), v);
                }
            }
            (S::LANES, got)
        }
    }

    #[test]
    fn lanes_are_zipped_and_unzipped() {
        let vectors = std::array::from_fn(|v| std::array::from_fn(|i| (v * WIDEST + i) as f32));
        for &isa in Isa::available() {
            let (lanes, [low, high, a, b, even, odd]) = isa.run(Zips(vectors));
            let zipped: Vec<f32> = (0..lanes).flat_map(|i| [vectors[0][i], vectors[1][i]]).collect();
            assert_eq!([&low[..lanes], &high[..lanes]].concat(), zipped, "{isa}");
            assert_eq!([&a[..lanes], &b[..lanes]], vectors.each_ref().map(|v| &v[..lanes]), "{isa}");
            let both = vectors.each_ref().map(|v| &v[..lanes]).concat();
            let pairs = even[..lanes].chunks(2).zip(odd[..lanes].chunks(2));
            let pairs: Vec<f32> = pairs.flat_map(|(even, odd)| [even, odd].concat()).collect();
            assert_eq!(pairs, both, "{isa}");
        }
    }

    #[test]
    fn sums_of_lanes_are_trees_to_the_last_bit() {
        let stream = quarterturn_core::Stream::new(1, 1, 1);
        let vectors = std::array::from_fn(|v| std::array::from_fn(|i| stream.normal((v * WIDEST + i) as u64) as f32));
        for &isa in Isa::available() {
            let [got, expected] = isa.run(Trees(vectors));
            assert_eq!(got, expected, "{isa}");
        }
    }
}
