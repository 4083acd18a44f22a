#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quarterturn_fuzz::npz(bytes));
