use base64::Engine;
use serde_json::json;

use super::*;
use crate::decode::{self, FieldValidation, Media};
use crate::kinds::{self, Kind};
use crate::schema::{self, tests::full_object, type_named};

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field with a number in it.
fn number(field: u32, value: i64) -> Vec<u8> {
    [varint(u64::from(field << 3)), varint(value.cast_unsigned())].concat()
}

/// A field with bytes in it: a string, or the fields of a message.
fn bytes(field: u32, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [
        &varint(u64::from(field << 3 | 2)),
        &varint(content.len() as u64),
        content,
    ]
    .concat()
}

fn message(field: u32, fields: &[Vec<u8>]) -> Vec<u8> {
    bytes(field, fields.concat())
}

fn body(api_version: &str, kind: &str, raw: &[Vec<u8>]) -> Vec<u8> {
    let type_meta = message(1, &[bytes(1, api_version), bytes(2, kind)]);
    [MAGIC, &type_meta, &message(2, raw), &bytes(3, ""), &bytes(4, "")].concat()
}

fn kind(name: &str) -> &'static Kind {
    kinds::all().iter().find(|kind| kind.kind == name).unwrap()
}

fn strict(name: &str, raw: &[Vec<u8>]) -> Result<Value, String> {
    let kind = kind(name);
    let body = body(&kind.api_version(), name, raw);
    decode::decode(kind, &body, Media::Protobuf, FieldValidation::Strict)
        .map(|decoded| decoded.object)
        .map_err(|error| error.to_string())
}

/// The value, as the fields that stand for it.
fn encoded(shape: &Shape, at: u32, value: &Value) -> Vec<u8> {
    match shape {
        Shape::String => bytes(at, value.as_str().unwrap()),
        Shape::Integer(_) => number(at, value.as_i64().unwrap()),
        Shape::Number => [
            varint(u64::from(at << 3 | 1)),
            value.as_f64().unwrap().to_le_bytes().to_vec(),
        ]
        .concat(),
        Shape::Boolean => number(at, i64::from(value.as_bool().unwrap())),
        Shape::Quantity => message(at, &[bytes(1, value.as_str().unwrap())]),
        Shape::IntOrString => message(at, &[number(1, 1), number(2, 0), bytes(3, value.as_str().unwrap())]),
        Shape::Time | Shape::MicroTime => {
            let time: Timestamp = value.as_str().unwrap().parse().unwrap();
            let nanoseconds = i64::from(time.subsec_nanosecond());
            message(at, &[number(1, time.as_second()), number(2, nanoseconds)])
        }
        Shape::Duration => message(at, &[number(1, 90_000_000_000)]),
        Shape::Bytes => bytes(at, STANDARD.decode(value.as_str().unwrap()).unwrap()),
        Shape::Any => message(at, &[bytes(1, value.to_string())]),
        Shape::Object(object) => message(at, &fields_of(object.get(), value)),
        Shape::List(item) => value
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|value| encoded(item, at, value))
            .collect(),
        Shape::Map(item) => value
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(key, value)| message(at, &[bytes(1, key), encoded(item, 2, value)]))
            .collect(),
    }
}

fn fields_of(object: &'static Type, value: &Value) -> Vec<Vec<u8>> {
    let encode = |field: &Field| {
        let number = field.number?;
        let content = encoded(&field.shape, u32::from(number.number.get()), &value[field.name]);
        Some(match number.embedded {
            Some(embedded) => bytes(embedded.get().into(), content),
            None => content,
        })
    };
    object.fields.iter().filter_map(encode).collect()
}

/// Types of Kubernetes that come as bodies.
fn bodies() -> impl Iterator<Item = &'static Type> {
    kinds::all()
        .iter()
        .map(Kind::object_type)
        .chain(["Scale", "Binding", "DeleteOptions"].map(|name| type_named(name).unwrap()))
        .filter(|object| object.package != "dev.minidc.v1")
}

fn full_body(object: &'static Type) -> (Vec<u8>, Value) {
    let full = full_object(object);
    let known = object.group_version_kind.unwrap();
    let api_version = full["apiVersion"].as_str().unwrap();
    (body(api_version, known.kind, &fields_of(object, &full)), full)
}

#[test]
fn every_field_of_every_body_arrives() {
    for object in bodies() {
        let (body, full) = full_body(object);
        let decoded = decode::decode_request(object, &body, Media::Protobuf, FieldValidation::Strict);
        let decoded = decoded.unwrap_or_else(|error| panic!("{}: {error}", object.name));
        assert_eq!(decoded.object, full, "{}", object.name);
    }
}

#[test]
fn what_kubectl_sends_for_create_namespace_is_read() {
    // kubectl 1.32 create namespace demo2
    let body =
        b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x1d\x0a\x15\x0a\x05demo2\x12\0\x1a\0\"\0*\0\x32\0\x38\0\x42\0\
        \x12\0\x1a\x02\x0a\0\x1a\0\"\0";
    let decoded = decode::decode(kind("Namespace"), body, Media::Protobuf, FieldValidation::Strict).unwrap();
    assert_eq!(
        decoded.object,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo2"}, "spec": {}, "status": {}})
    );
}

#[test]
fn zero_is_absent_unless_presence_counts() {
    let selector = message(2, &[]);
    let container = message(
        2,
        &[bytes(1, "a"), bytes(2, ""), message(6, &[number(2, 0), number(3, 80)])],
    );
    let template = message(3, &[message(2, &[container, number(21, 0), number(4, 0)])]);
    let object = strict(
        "Deployment",
        &[message(
            2,
            &[number(1, 0), selector, template, number(5, 0), number(7, 0)],
        )],
    );
    assert_eq!(
        object.unwrap()["spec"],
        json!({"replicas": 0, "selector": {}, "template": {"spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "a", "ports": [{"containerPort": 80}]}],
        }}})
    );
}

#[test]
fn a_port_is_a_number_or_a_name() {
    let port = |fields: &[Vec<u8>]| message(1, &[number(3, 80), message(4, fields)]);
    let ports = [
        port(&[number(1, 0), number(2, 8080), bytes(3, "")]),
        port(&[number(1, 1), number(2, 0), bytes(3, "http")]),
        port(&[number(1, 0), number(2, 0), bytes(3, "")]),
    ];
    let object = strict("Service", &[message(2, &ports)]).unwrap();
    assert_eq!(
        object["spec"]["ports"],
        json!([{"port": 80, "targetPort": 8080}, {"port": 80, "targetPort": "http"}, {"port": 80}])
    );
    let object = strict("Service", &[message(2, &[port(&[number(1, 2)])])]);
    assert!(
        object
            .unwrap_err()
            .ends_with("spec.ports[0].targetPort: neither number nor string, but 2")
    );
}

#[test]
fn negative_numbers_packed_lists_and_empty_map_entries_are_read() {
    let packed = bytes(4, [varint(7), varint((-1_i64).cast_unsigned())].concat());
    let context = message(14, &[packed, number(4, 9), number(2, -5)]);
    let object = strict("Pod", &[message(2, &[context])]).unwrap();
    assert_eq!(
        object["spec"]["securityContext"],
        json!({"supplementalGroups": [7, -1, 9], "runAsUser": -5})
    );
    let object = strict(
        "Secret",
        &[
            message(2, &[bytes(1, "k")]),
            message(2, &[bytes(1, "b"), bytes(2, [0xff, 0])]),
        ],
    );
    assert_eq!(object.unwrap()["data"], json!({"b": "/wA=", "k": ""}));
}

#[test]
fn times_have_the_precision_of_their_json() {
    let time = [number(1, 1_700_000_000), number(2, 123_456_789)];
    let spec = message(2, &[message(4, &time), message(3, &[])]);
    let object = strict("Lease", &[message(1, &[message(8, &time)]), spec]).unwrap();
    assert_eq!(object["metadata"]["creationTimestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(object["spec"], json!({"renewTime": "2023-11-14T22:13:20.123456Z"}));
    let far = strict("Lease", &[message(1, &[message(8, &[number(1, i64::MAX)])])]);
    assert!(
        far.unwrap_err()
            .ends_with("metadata.creationTimestamp: 9223372036854775807 s is not a time")
    );
}

#[test]
fn durations_are_written_as_go_does() {
    for (nanoseconds, text) in [
        (0, "0s"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h0m0s"),
        (1_500_000_000, "1.5s"),
        (-1_000_000_000, "-1s"),
    ] {
        assert_eq!(duration(nanoseconds), text);
    }
}

#[test]
fn unknown_numbers_are_told_with_their_place() {
    let unknown = [number(99, 1), bytes(99, "x")].concat();
    let source = message(2, &[bytes(77, "x")]);
    let volume = message(1, &[bytes(1, "v"), source]);
    let raw = [unknown.clone(), message(2, &[unknown, volume])];
    assert_eq!(
        strict("Pod", &raw).unwrap_err(),
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field number 99, \
         unknown field number 99 in \"spec\", unknown field number 2.77 in \"spec.volumes[0]\""
    );
    let body = body("v1", "Pod", &raw);
    let decoded = decode::decode(kind("Pod"), &body, Media::Protobuf, FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings.len(), 3);
    assert_eq!(decoded.object["spec"], json!({"volumes": [{"name": "v"}]}));
}

#[test]
fn malformed_bodies_are_refused_with_the_field() {
    let head =
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; protobuf parse error: ";
    let name = |content: Vec<u8>| [message(1, &[content])];
    for (raw, problem) in [
        (
            &name(number(1, 5))[..],
            "metadata.name: a varint where a length with bytes belongs",
        ),
        (&name(bytes(1, [0xff])), "metadata.name: a string that is not UTF-8"),
        (
            &name(vec![0x0a, 5, b'a']),
            "metadata: field number 1 should have 5 bytes, but 1 are left",
        ),
        (
            &name(vec![0x0b]),
            "metadata: field number 1 is of wire type 3, which Kubernetes does not use",
        ),
        (&name(vec![0x38, 0x80]), "metadata: the body ends within a number"),
        (
            &name([vec![0x38], vec![0xff; 10]].concat()),
            "metadata: a number of more than 64 bits",
        ),
        (&name(vec![0x00]), "metadata: 0 is no field number"),
        (
            &name(bytes(7, "x")),
            "metadata.generation: a length with bytes where a varint belongs",
        ),
        (
            &[message(2, &[number(25, 1 << 31)])],
            "spec.priority: 2147483648 does not fit into 32 bits",
        ),
    ] {
        assert_eq!(strict("Pod", raw).unwrap_err(), format!("{head}{problem}"));
    }
    let refused = |body: &[u8]| {
        let error = decode::decode(kind("Pod"), body, Media::Protobuf, FieldValidation::Warn).unwrap_err();
        error
            .to_string()
            .strip_prefix(head)
            .map(str::to_owned)
            .unwrap_or_default()
    };
    assert_eq!(
        refused(b"{}"),
        "the body does not begin with the bytes of Kubernetes protobuf"
    );
    assert_eq!(
        refused(&[MAGIC, &bytes(3, "gzip")].concat()),
        "the envelope: content encoding \"gzip\" is not understood"
    );
    assert_eq!(
        refused(&[MAGIC, &bytes(4, "application/json")].concat()),
        "the envelope: content type \"application/json\" is not understood"
    );
    assert_eq!(refused(&[MAGIC, &number(2, 1)].concat()), "the envelope: not a message");
}

#[test]
fn another_kind_is_refused_as_in_json() {
    let body = body("v1", "Secret", &[]);
    let error = decode::decode(kind("Pod"), &body, Media::Protobuf, FieldValidation::Warn).unwrap_err();
    assert!(matches!(error, decode::DecodeError::Kind { .. }), "{error}");
    let error = decode::decode(kind("JoinToken"), &body, Media::Protobuf, FieldValidation::Warn).unwrap_err();
    assert_eq!(error.problem(), "v1.JoinToken has no protobuf form");
}

#[test]
fn an_absent_body_is_an_empty_object() {
    let options = type_named("DeleteOptions").unwrap();
    let decoded = decode::decode_request(options, b"", Media::Protobuf, FieldValidation::Warn).unwrap();
    assert_eq!(decoded.object, json!({"apiVersion": "v1", "kind": "DeleteOptions"}));
    let body = body("apps/v1", "DeleteOptions", &[number(1, 0), bytes(4, "Orphan")]);
    let decoded = decode::decode_request(options, &body, Media::Protobuf, FieldValidation::Warn).unwrap();
    assert_eq!(decoded.object["gracePeriodSeconds"], 0);
    assert_eq!(decoded.object["propagationPolicy"], "Orphan");
}

#[test]
fn depth_and_number_of_values_are_bounded() {
    let pod = type_named("Pod").unwrap();
    let (body, _) = full_body(pod);
    let deep = read_within(Limits { depth: 5, ..LIMITS }, pod, &body).unwrap_err();
    assert!(deep.ends_with("nested too deeply"), "{deep}");
    let many = read_within(Limits { values: 100, ..LIMITS }, pod, &body).unwrap_err();
    assert!(many.ends_with("too many values"), "{many}");
    let groups = bytes(4, vec![1; 3 << 20]);
    let error = strict("Pod", &[message(2, &[message(14, &[groups])])]).unwrap_err();
    assert!(error.ends_with("supplementalGroups: too many values"), "{error}");
}

#[test]
fn deep_json_within_protobuf_is_refused() {
    let entry = message(17, &[message(7, &[bytes(1, "[".repeat(100_000))])]);
    let error = strict("Pod", &[message(1, &[entry])]).unwrap_err();
    assert!(
        error.contains("fieldsV1: JSON within protobuf: recursion limit exceeded"),
        "{error}"
    );
}

/// Marsaglia's xorshift: the same bytes in each run.
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }
}

#[test]
fn damaged_and_random_bytes_never_panic() {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for object in bodies() {
        let (whole, _) = full_body(object);
        for end in (0..whole.len()).step_by(whole.len() / 200 + 1) {
            drop(decode::decode_request(
                object,
                &whole[..end],
                Media::Protobuf,
                FieldValidation::Strict,
            ));
        }
        for _ in 0..200 {
            let mut damaged = whole.clone();
            for _ in 0..=noise.below(4) {
                let at = noise.below(damaged.len());
                damaged[at] = noise.below(256) as u8;
            }
            drop(decode::decode_request(
                object,
                &damaged,
                Media::Protobuf,
                FieldValidation::Warn,
            ));
            let random: Vec<u8> = (0..noise.below(300)).map(|_| noise.below(256) as u8).collect();
            drop(read(object, &[MAGIC, &random].concat()));
            drop(read(object, &body("v1", "", &[random])));
        }
    }
}

#[test]
fn every_field_has_a_number_that_no_other_has() {
    for object in schema::types() {
        let ours = object.package == "dev.minidc.v1";
        let mut numbers = Vec::new();
        for field in &object.fields {
            let meta = object.group_version_kind.is_some() && matches!(field.name, "apiVersion" | "kind");
            assert_eq!(field.number.is_none(), ours || meta, "{}.{}", object.name, field.name);
            numbers.extend(field.number.map(|known| (known.embedded, known.number)));
        }
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "{}: a number appears twice", object.name);
        for (embedded, _) in &numbers {
            let taken = embedded.is_some_and(|embedded| numbers.contains(&(None, embedded)));
            assert!(!taken, "{}: {embedded:?} is a field and holds fields", object.name);
        }
    }
}

#[test]
fn presence_counts_for_single_scalars_only() {
    for object in schema::types() {
        for field in object
            .fields
            .iter()
            .filter(|field| field.number.is_some_and(|number| number.explicit))
        {
            let scalar = matches!(
                field.shape,
                Shape::String | Shape::Integer(_) | Shape::Number | Shape::Boolean | Shape::IntOrString
            );
            assert!(scalar && !field.required, "{}.{}", object.name, field.name);
        }
    }
}
