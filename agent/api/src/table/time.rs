//! Times and sizes as people read them.

use jiff::Timestamp;
use serde_json::Value;

/// `5m12s`, `3d4h`: two or three significant figures, as `k8s.io/apimachinery/pkg/util/duration` rounds.
///
/// Up to two seconds in the future count as now, since clocks differ; more is `<invalid>`.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    if seconds < 120 {
        return format!("{seconds}s");
    }
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, large_unit, small: i64, small_unit| {
        if small == 0 {
            format!("{large}{large_unit}")
        } else {
            format!("{large}{large_unit}{small}{small_unit}")
        }
    };
    match hours {
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// Reads an RFC 3339 time of an object.
pub fn timestamp(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// Time since a time of an object, `<unknown>` when there is none.
pub fn since(value: &Value, now: Timestamp) -> String {
    timestamp(value).map_or_else(
        || "<unknown>".to_owned(),
        |then| human_duration(now.duration_since(then).as_secs()),
    )
}

/// `12.3 MiB`, one decimal place from a kibibyte up.
pub fn human_bytes(bytes: u64) -> String {
    let mut unit = "B";
    let mut scaled = bytes.saturating_mul(10);
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled < 10_240 {
            break;
        }
        scaled /= 1024;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{}.{} {unit}", scaled / 10, scaled % 10)
    }
}
