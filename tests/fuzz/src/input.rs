//! Takes the bytes of an input apart.

/// Splits an input at a line with nothing but `---`; without one the second part is empty.
pub fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    const SEPARATOR: &[u8] = b"\n---\n";
    match data.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        Some(at) => (&data[..at], &data[at + SEPARATOR.len()..]),
        None => (data, &[]),
    }
}

/// Cuts an input into pieces as long as its first byte says, or keeps it whole for 0. Returns the pieces, and
/// them together.
pub fn pieces(data: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    match data.split_first() {
        Some((0, whole)) if !whole.is_empty() => (vec![whole], whole),
        Some((length, whole)) if *length > 0 => {
            (whole.chunks(usize::from(*length)).collect(), whole)
        }
        _ => (Vec::new(), &[]),
    }
}

/// Takes an integer off an input; 0 at its end.
pub fn number(data: &mut &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let count = data.len().min(8);
    bytes[..count].copy_from_slice(&data[..count]);
    *data = &data[count..];
    u64::from_be_bytes(bytes)
}

/// Takes an ID off an input.
pub fn id<T: TryFrom<u64>>(data: &mut &[u8]) -> T {
    let number = (number(data) & (u64::MAX >> 1)).max(1);
    T::try_from(number).ok().expect("from 1 to 2^63 - 1 it is an ID")
}

/// Checks a text that comes into logs or answers: one line of bounded length, without control characters.
pub fn assert_loggable(text: &str) {
    assert!(text.chars().count() <= 1024, "{} characters: {text:?}", text.chars().count());
    assert!(!text.chars().any(char::is_control), "a control character: {text:?}");
}
