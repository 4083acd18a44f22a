//! Numbers that tell contents apart: of data sets of one name, of networks of one run.

/// The 64-bit FNV-1a hash of some bytes, in hexadecimal.
pub fn of(bytes: impl IntoIterator<Item = u8>) -> String {
    let hash = bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
