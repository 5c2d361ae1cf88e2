use serde_json::json;

use super::*;
use crate::schema;

fn kind(name: &str) -> &'static Kind {
    kinds::all().iter().find(|kind| kind.kind == name).unwrap()
}

fn strict(name: &str, body: &str) -> Result<Value, String> {
    decode(kind(name), body.as_bytes(), Media::Json, FieldValidation::Strict)
        .map(|decoded| decoded.object)
        .map_err(|error| error.to_string())
}

#[test]
fn unknown_fields_are_refused_with_their_full_path() {
    let body = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},
        "spec":{"replica":1,"template":{"spec":{"containers":[{"name":"a"},{"name":"b","imagge":"x"}]}}}}"#;
    assert_eq!(
        strict("Deployment", body).unwrap_err(),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
         unknown field \"spec.template.spec.containers[1].imagge\", unknown field \"spec.replica\""
    );
}

#[test]
fn duplicate_fields_are_refused_with_their_full_path() {
    let body = r#"{"metadata":{"name":"a","labels":{"x":"1","x":"2"}},"data":{},"data":{"k":"v"}}"#;
    assert_eq!(
        strict("ConfigMap", body).unwrap_err(),
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
         duplicate field \"metadata.labels.x\", duplicate field \"data\""
    );
}

#[test]
fn duplicate_fields_of_yaml_are_seen_too() {
    let body = b"metadata:\n  name: a\nspec:\n  replicas: 1\n  replicas: 2\n";
    let decoded = decode(kind("Deployment"), body, Media::Yaml, FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings, ["duplicate field \"spec.replicas\""]);
    assert_eq!(decoded.object["spec"]["replicas"], 2);
}

#[test]
fn warn_drops_and_tells_while_ignore_drops_silently() {
    let body = br#"{"spec":{"foo":1,"replicas":1,"replicas":2}}"#;
    let decoded = decode(kind("Deployment"), body, Media::Json, FieldValidation::Warn).unwrap();
    assert_eq!(
        decoded.warnings,
        ["duplicate field \"spec.replicas\"", "unknown field \"spec.foo\""]
    );
    assert_eq!(
        decoded.object,
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 2}})
    );
    let decoded = decode(kind("Deployment"), body, Media::Json, FieldValidation::Ignore).unwrap();
    assert_eq!(decoded.warnings, Vec::<String>::new());
    assert_eq!(decoded.object["spec"], json!({"replicas": 2}));
}

#[test]
fn wrong_types_are_told_in_the_words_of_kubernetes() {
    let head = "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal";
    let pod_head = "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal";
    for (name, body, message) in [
        (
            "Deployment",
            r#"{"spec":{"replicas":"two"}}"#,
            format!("{head} string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        ),
        (
            "Deployment",
            r#"{"spec":{"replicas":1.5}}"#,
            format!("{head} number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        ),
        (
            "Deployment",
            r#"{"spec":{"replicas":99999999999}}"#,
            format!("{head} number 99999999999 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        ),
        (
            "Deployment",
            r#"{"spec":[]}"#,
            format!("{head} array into Go struct field Deployment.spec of type v1.DeploymentSpec"),
        ),
        (
            "Deployment",
            r#"{"metadata":{"labels":{"a":1}}}"#,
            format!("{head} number into Go struct field ObjectMeta.metadata.labels of type string"),
        ),
        (
            "Deployment",
            "[]",
            format!("{head} array into Go value of type v1.Deployment"),
        ),
        (
            "Pod",
            r#"{"spec":{"containers":{"name":"a"}}}"#,
            format!("{pod_head} object into Go struct field PodSpec.spec.containers of type []v1.Container"),
        ),
        (
            "Pod",
            r#"{"spec":{"containers":[{"env":[{"name":"A","value":5}]}]}}"#,
            format!("{pod_head} number into Go struct field EnvVar.spec.containers.env.value of type string"),
        ),
    ] {
        assert_eq!(strict(name, body).unwrap_err(), message, "{body}");
    }
}

#[test]
fn malformed_leaves_are_refused() {
    for (name, body, part) in [
        (
            "Pod",
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}"#,
            "quantities must match the regular expression",
        ),
        (
            "Pod",
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":true}}}]}}"#,
            "(spec.containers[0].resources.limits.cpu)",
        ),
        (
            "Pod",
            r#"{"status":{"startTime":"yesterday"}}"#,
            "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\"",
        ),
        (
            "Pod",
            r#"{"status":{"startTime":"2024-01-01 00:00:00Z"}}"#,
            "parsing time",
        ),
        (
            "Lease",
            r#"{"spec":{"renewTime":5}}"#,
            "cannot unmarshal number into Go value of type string",
        ),
        ("Secret", r#"{"data":{"a":"%%%"}}"#, "illegal base64 data"),
        (
            "Deployment",
            r#"{"spec":{"strategy":{"rollingUpdate":{"maxSurge":true}}}}"#,
            "cannot unmarshal bool into Go value of type int32",
        ),
    ] {
        let message = strict(name, body).unwrap_err();
        assert!(message.contains(part), "{body}: {message}");
    }
}

#[test]
fn leaves_take_their_canonical_form() {
    let body = r#"{"status":{"startTime":"2024-05-06T07:08:09.5+02:00"},
        "spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":0.5,"memory":"1024Ki"}}}]}}"#;
    let object = strict("Pod", body).unwrap();
    assert_eq!(object["status"]["startTime"], "2024-05-06T05:08:09Z");
    assert_eq!(
        object["spec"]["containers"][0]["resources"]["requests"],
        json!({"cpu": "500m", "memory": "1Mi"})
    );
    let lease = strict("Lease", r#"{"spec":{"renewTime":"2024-05-06T07:08:09.5Z"}}"#).unwrap();
    assert_eq!(lease["spec"]["renewTime"], "2024-05-06T07:08:09.500000Z");
}

#[test]
fn nulls_are_dropped() {
    let body = r#"{"metadata":{"name":"a","creationTimestamp":null,"labels":{"x":null}},"spec":{"containers":null,"nodeName":null}}"#;
    let object = strict("Pod", body).unwrap();
    assert_eq!(object["metadata"], json!({"name": "a", "labels": {"x": ""}}));
    assert_eq!(object["spec"], json!({}));
}

#[test]
fn another_kind_or_version_is_refused_and_none_is_filled_in() {
    assert_eq!(
        strict("Deployment", r#"{"apiVersion":"apps/v1beta1","kind":"Deployment"}"#).unwrap_err(),
        "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)"
    );
    let message = strict("Service", r#"{"apiVersion":"v1","kind":"Pod"}"#).unwrap_err();
    assert!(
        message.starts_with("Pod in version \"v1\" cannot be handled as a Service"),
        "{message}"
    );
    assert_eq!(strict("Pod", "{}").unwrap(), json!({"apiVersion": "v1", "kind": "Pod"}));
}

#[test]
fn broken_bodies_are_told_with_their_place() {
    let message = strict("Pod", "{\"spec\": nope}").unwrap_err();
    assert!(
        message.starts_with(
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error:"
        ),
        "{message}"
    );
    assert!(message.contains("line 1 column"), "{message}");
    assert!(strict("Pod", "").is_err());
    assert!(strict("Pod", "{} {}").is_err());
    let deep = "[".repeat(100_000);
    assert!(strict("Pod", &deep).is_err());
    assert!(decode(kind("Pod"), deep.as_bytes(), Media::Yaml, FieldValidation::Strict).is_err());
    assert!(decode(kind("Pod"), &[0xff, 0xfe, b'{'], Media::Json, FieldValidation::Strict).is_err());
}

#[test]
fn yaml_reads_like_json() {
    let body = b"apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web, 1: \"one\"}
spec:
  hostNetwork: yes
  containers:
  - name: a
    image: 'web:1'
    args: [\"-v\", 'x']
    env:
    - {name: A, value: \"5\"}
  volumes:
  - name: v
    secret: {secretName: s, defaultMode: 0644}
";
    let decoded = decode(kind("Pod"), body, Media::Yaml, FieldValidation::Strict).unwrap();
    assert_eq!(
        decoded.object,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web", "1": "one"}},
            "spec": {"hostNetwork": true,
                "containers": [{"name": "a", "image": "web:1", "args": ["-v", "x"], "env": [{"name": "A", "value": "5"}]}],
                "volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 420}}]}})
    );
}

#[test]
fn delete_options_of_any_version_and_no_body_are_understood() {
    let options = schema::type_named("DeleteOptions").unwrap();
    for body in [
        "",
        r#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background","preconditions":{"uid":"u"}}"#,
        r#"{"kind":"DeleteOptions","apiVersion":"meta.k8s.io/v1","gracePeriodSeconds":0}"#,
    ] {
        let decoded = decode_request(options, body.as_bytes(), Media::Json, FieldValidation::Strict).unwrap();
        assert_eq!(decoded.object["kind"], "DeleteOptions");
    }
    let scale = schema::type_named("io.k8s.api.autoscaling.v1.Scale").unwrap();
    let body = br#"{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web"},"spec":{"replicas":5}}"#;
    assert_eq!(
        decode_request(scale, body, Media::Json, FieldValidation::Strict)
            .unwrap()
            .object["spec"]["replicas"],
        5
    );
}

#[test]
fn a_patched_object_is_checked_like_a_new_one() {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 1, "nonsense": {}}});
    let error = check(kind("Deployment"), &mut object.clone(), FieldValidation::Strict).unwrap_err();
    assert_eq!(
        error.problem(),
        "strict decoding error: unknown field \"spec.nonsense\""
    );
    assert_eq!(
        check(kind("Deployment"), &mut object, FieldValidation::Warn).unwrap(),
        ["unknown field \"spec.nonsense\""]
    );
    assert_eq!(object["spec"], json!({"replicas": 1}));
}

/// xorshift64; the tests must be the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let seeds: [&[u8]; 4] = [
        br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"a":"b"}},"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":"100m"}}}]}}"#,
        b"spec:\n  replicas: 0644\n  paused: yes\n  a: &x [1, 2]\n  b: *x\n  <<: {c: 1}\n",
        br#"{"status":{"startTime":"2024-01-01T00:00:00Z"},"spec":{"volumes":[{"secret":{"defaultMode":1e99}}]}}"#,
        b"? [a]\n: {b: !!binary aGk=}\n---\n- .inf\n",
    ];
    for round in 0..4000 {
        let mut body = seeds[round % seeds.len()].to_vec();
        for _ in 0..random.next(6) {
            let at = random.next(body.len());
            match random.next(3) {
                0 => body[at] = u8::try_from(random.next(256)).unwrap(),
                1 => body.truncate(at.max(1)),
                _ => body.insert(at, b"{}[]\",:\n -&*!0"[random.next(14)]),
            }
        }
        for name in ["Pod", "Deployment"] {
            for media in [Media::Json, Media::Yaml] {
                if let Ok(mut decoded) = decode(kind(name), &body, media, FieldValidation::Warn) {
                    crate::defaults::apply(kind(name), &mut decoded.object);
                    schema::violations(kind(name), &decoded.object);
                }
            }
        }
    }
}
