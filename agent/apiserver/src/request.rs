//! What a request is about: its path taken apart into group, version, resource, namespace, name and subresource, and
//! its query.

use minidc_api::status::Status;

use crate::error::Failure;

/// A path below `/api/VERSION` or `/apis/GROUP/VERSION` that names a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    /// API group; empty for core.
    pub(crate) group: String,
    /// Version of the group.
    pub(crate) version: String,
    /// Plural name of the resource.
    pub(crate) resource: String,
    /// Namespace, where the path has one.
    pub(crate) namespace: Option<String>,
    /// Name of the object; `None` for the collection.
    pub(crate) name: Option<String>,
    /// Segment after the name.
    pub(crate) subresource: Option<String>,
    /// The old `/watch/` form of the path.
    pub(crate) watch: bool,
}

/// Takes a path apart; `None` when it names no resource (discovery, health, or nothing at all).
pub(crate) fn resource_path(path: &str) -> Option<ResourcePath> {
    let decoded: Vec<String> = path
        .trim_matches('/')
        .split('/')
        .map(|segment| decode(segment, false))
        .collect::<Option<_>>()?;
    // A slash inside a segment would reach into the store key of another object.
    if decoded.iter().any(|segment| segment.contains('/')) {
        return None;
    }
    let mut segments = decoded.iter().map(String::as_str);
    let group = match segments.next()? {
        "api" => "",
        "apis" => segments.next()?,
        _ => return None,
    };
    let version = segments.next()?;
    let mut rest: Vec<&str> = segments.collect();
    let watch = rest.first() == Some(&"watch");
    if watch {
        rest.remove(0);
    }
    if rest.is_empty() || rest.iter().any(|segment| segment.is_empty()) {
        return None;
    }
    let (namespace, rest) = match rest.as_slice() {
        // `namespaces/NAME/status` is the namespace's own subresource, not a resource called "status" inside it.
        ["namespaces", _, "status" | "finalize"] | ["namespaces", _] | ["namespaces"] => (None, &rest[..]),
        ["namespaces", namespace, _, ..] => (Some((*namespace).to_owned()), &rest[2..]),
        _ => (None, &rest[..]),
    };
    let mut rest = rest.iter().map(|segment| (*segment).to_owned());
    let path = ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: rest.next()?,
        namespace,
        name: rest.next(),
        subresource: rest.next(),
        watch,
    };
    rest.next().is_none().then_some(path)
}

/// The query of a request, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what follows the `?`. Pairs that are not valid percent-encoding of UTF-8 are left out, as Go does.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name, true)?, decode(value, true)?))
        });
        Self(pairs.collect())
    }

    /// First value of that name, also when empty.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// First value of that name, unless empty.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.first(name).filter(|value| !value.is_empty())
    }

    /// Every value of that name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// A switch: absent is false, present is true unless it says `false` or `0`, as in Kubernetes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.first(name)
            .is_some_and(|value| !(value.eq_ignore_ascii_case("false") || value == "0"))
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        self.given(name).map_or(Ok(None), |text| {
            text.parse()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")).into())
        })
    }
}

/// Undoes percent-encoding; `None` when the result is not UTF-8 or an escape is cut off.
fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    if !text.bytes().any(|byte| byte == b'%' || byte == b'+' && plus_is_space) {
        return Some(text.to_owned());
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> (String, Option<String>, Option<String>, Option<String>) {
        let path = resource_path(text).unwrap();
        (
            format!("{}/{}/{}", path.group, path.version, path.resource),
            path.namespace,
            path.name,
            path.subresource,
        )
    }

    #[test]
    fn paths_are_taken_apart() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(path("/api/v1/pods"), ("/v1/pods".into(), None, None, None));
        assert_eq!(
            path("/api/v1/nodes/pi-1/status"),
            ("/v1/nodes".into(), None, some("pi-1"), some("status"))
        );
        assert_eq!(path("/api/v1/namespaces"), ("/v1/namespaces".into(), None, None, None));
        assert_eq!(
            path("/api/v1/namespaces/a"),
            ("/v1/namespaces".into(), None, some("a"), None)
        );
        assert_eq!(
            path("/api/v1/namespaces/a/finalize"),
            ("/v1/namespaces".into(), None, some("a"), some("finalize"))
        );
        assert_eq!(
            path("/apis/apps/v1/namespaces/a/deployments/web/scale"),
            ("apps/v1/deployments".into(), some("a"), some("web"), some("scale"))
        );
        assert_eq!(
            path("/api/v1/namespaces/a/pods/x%2Dy"),
            ("/v1/pods".into(), some("a"), some("x-y"), None)
        );
        assert!(resource_path("/api/v1/watch/pods").unwrap().watch);
    }

    #[test]
    fn paths_that_name_no_resource_are_left_to_others() {
        for text in [
            "/",
            "/api",
            "/api/v1",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/healthz",
            "/api/v1/a/b/c/d",
            "/api/v1//x",
            "/api/v1/namespaces/a%2Fb/pods/x",
        ] {
            assert_eq!(resource_path(text), None, "{text}");
        }
    }

    #[test]
    fn queries_keep_repeated_names_and_decode_values() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%20b&stdin=&tty=false&watch=1&limit=x");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo a b"]);
        assert!(query.flag("stdin") && query.flag("watch"));
        assert!(!query.flag("tty") && !query.flag("stdout"));
        assert!(query.number("limit").is_err());
        assert_eq!(query.number("absent").unwrap(), None);
    }
}
