//! Spans of time in master files: plain seconds, or BIND's `1w2d3h4m5s`.

/// Longest TTL (RFC 2181 section 8).
pub(super) const TTL_LIMIT: u64 = 0x7fff_ffff;

/// Seconds; none when the word is no span of time.
pub(super) fn parse(raw: &[u8]) -> Option<Result<u32, String>> {
    if !raw.first()?.is_ascii_digit() {
        return None;
    }
    let mut total = 0_u64;
    let mut number: Option<u64> = None;
    let mut units = false;
    for &byte in raw {
        if byte.is_ascii_digit() {
            let value = number
                .unwrap_or(0)
                .checked_mul(10)?
                .checked_add(u64::from(byte - b'0'))?;
            number = Some(value);
            continue;
        }
        let unit = match byte.to_ascii_lowercase() {
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
        units = true;
    }
    match number {
        Some(_) if units => return None,
        Some(seconds) => total = seconds,
        None => {}
    }
    Some(
        u32::try_from(total)
            .ok()
            .filter(|seconds| u64::from(*seconds) <= TTL_LIMIT)
            .ok_or_else(|| format!("{total} seconds are more than {TTL_LIMIT}")),
    )
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn units_add_up() {
        assert_eq!(parse(b"3600"), Some(Ok(3600)));
        assert_eq!(parse(b"1h30M"), Some(Ok(5400)));
        assert_eq!(parse(b"1w2d3h4m5s"), Some(Ok(788_645)));
        assert_eq!(parse(b"2147483648").map(|seconds| seconds.is_err()), Some(true));
        for word in [&b"h"[..], b"1x", b"1h5", b"", b"IN", b"99999999999999999999999"] {
            assert_eq!(parse(word), None, "{}", String::from_utf8_lossy(word));
        }
    }
}
