//! What objects look like: types and fields, read once from the text in `agent/api/schema/`.
//!
//! Strict decoding, defaults, strategic merge and OpenAPI all come from here. The text is compiled in; names and
//! descriptions are slices of it, so the parsed form stays at a few hundred kilobytes. [`parser`] tells the syntax.

use std::num::NonZeroU16;
use std::sync::LazyLock;

use serde_json::Value;

pub mod parser;
mod violations;

pub use violations::violations;

/// A group, version and kind that an object type goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupVersionKind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version of the group.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
}

/// A JSON object with known fields.
#[derive(Debug)]
pub struct Type {
    /// Where the name belongs, for example `io.k8s.api.core.v1`.
    pub package: &'static str,
    /// Short name, for example `PodSpec`.
    pub name: &'static str,
    /// Present for types that are sent as whole objects.
    pub group_version_kind: Option<GroupVersionKind>,
    /// The fields, sorted by name. Use [`Type::field`] to find one.
    pub fields: Vec<Field>,
    /// One owner for the whole object in server-side apply (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// One sentence.
    pub description: &'static str,
}

impl Type {
    const EMPTY: Self = Self {
        package: "",
        name: "",
        group_version_kind: None,
        fields: Vec::new(),
        atomic: false,
        description: "",
    };

    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .binary_search_by(|field| field.name.cmp(name))
            .ok()
            .map(|index| &self.fields[index])
    }

    /// For example `v1.PodSpec`: what Kubernetes' decoding errors call it.
    pub(crate) fn go_name(&self) -> String {
        format!("{}.{}", self.package.rsplit('.').next().unwrap_or_default(), self.name)
    }

    /// For example `io.k8s.api.core.v1.PodSpec`: the key of its OpenAPI definition, accepted by [`type_named`].
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.package, self.name)
    }
}

/// A field of a [`Type`].
#[derive(Debug)]
pub struct Field {
    /// Name as in JSON.
    pub name: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// Where Kubernetes protobuf puts it; absent for our own kinds, and for `apiVersion` and `kind` of a whole object.
    pub number: Option<FieldNumber>,
    /// An object without it is not valid (below `status` this only tells clients what they can rely on).
    pub required: bool,
    /// What takes its place when it is absent from an object that is written.
    pub default: Option<Value>,
    /// How server-side apply sees the items of a list.
    pub list: ListKind,
    /// One owner for the whole map or object in server-side apply.
    pub atomic: bool,
    /// The field of its items by which a strategic merge patch pairs them.
    pub patch_merge_key: Option<&'static str>,
    /// How a strategic merge patch treats it.
    pub patch_strategy: PatchStrategy,
    /// The strings it may be; empty when not limited to a list.
    pub values: Box<[&'static str]>,
    /// One sentence.
    pub description: &'static str,
}

/// Where Kubernetes protobuf puts a [`Field`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldNumber {
    /// The field that holds it, where Go embeds a struct: flat in JSON, a message of its own in protobuf.
    pub embedded: Option<NonZeroU16>,
    /// The number in its message.
    pub number: NonZeroU16,
    /// Presence says something: `0`, `false` and `""` are not the same as absence (a pointer in Go).
    pub explicit: bool,
}

/// How a strategic merge patch treats a field. Maps and objects always merge; lists replace unless told to merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists: merge items (by the merge key, or as a set when the items are scalars).
    pub merge: bool,
    /// Objects: `$retainKeys` lists the keys that stay (`volumes`, deployment `strategy`).
    pub retain_keys: bool,
}

/// How server-side apply sees a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// One value with one owner.
    #[default]
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects told apart by these fields.
    Map(Box<[&'static str]>),
}

/// What a JSON value looks like.
#[derive(Debug)]
pub enum Shape {
    /// A string.
    String,
    /// A whole number.
    Integer(IntegerFormat),
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A quantity such as `100m` or `64Mi`, as string or number.
    Quantity,
    /// A number or a string such as `25%` or a port name.
    IntOrString,
    /// RFC 3339 in UTC, whole seconds.
    Time,
    /// RFC 3339 in UTC with six digits of fraction.
    MicroTime,
    /// A Go duration such as `1m30s`.
    Duration,
    /// Base64 (standard alphabet, padded).
    Bytes,
    /// Anything, kept as it is.
    Any,
    /// An object of a type.
    Object(TypeRef),
    /// A list of items.
    List(Box<Shape>),
    /// An object whose keys are free.
    Map(Box<Shape>),
}

impl Shape {
    /// The type, when this is an object of a type.
    pub fn object(&self) -> Option<&'static Type> {
        match self {
            Self::Object(reference) => Some(reference.get()),
            _ => None,
        }
    }

    /// What Kubernetes' decoding errors call it.
    pub(crate) fn go_name(&self) -> String {
        match self {
            Self::String => "string".to_owned(),
            Self::Integer(IntegerFormat::Int32) => "int32".to_owned(),
            Self::Integer(IntegerFormat::Int64) => "int64".to_owned(),
            Self::Number => "float64".to_owned(),
            Self::Boolean => "bool".to_owned(),
            Self::Quantity => "resource.Quantity".to_owned(),
            Self::IntOrString => "intstr.IntOrString".to_owned(),
            Self::Time => "v1.Time".to_owned(),
            Self::MicroTime => "v1.MicroTime".to_owned(),
            Self::Duration => "v1.Duration".to_owned(),
            Self::Bytes => "[]uint8".to_owned(),
            Self::Any => "runtime.RawExtension".to_owned(),
            Self::Object(object) => object.get().go_name(),
            Self::List(item) => format!("[]{}", item.go_name()),
            Self::Map(item) => format!("map[string]{}", item.go_name()),
        }
    }

    /// The shape of the items of a list or of the values of a map.
    pub fn item(&self) -> Option<&Self> {
        match self {
            Self::List(item) | Self::Map(item) => Some(item),
            _ => None,
        }
    }
}

/// Width of a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegerFormat {
    /// 32 bits, signed.
    Int32,
    /// 64 bits, signed.
    Int64,
}

/// Points at a [`Type`]; types may contain themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeRef(u16);

impl TypeRef {
    /// The type.
    pub fn get(self) -> &'static Type {
        SCHEMA.types.get(usize::from(self.0)).unwrap_or(&NO_TYPE)
    }
}

static NO_TYPE: Type = Type::EMPTY;

static SCHEMA: LazyLock<parser::Schema> = LazyLock::new(|| parser::parse(SOURCES));

const SOURCES: &[&str] = &[
    include_str!("../schema/meta.schema"),
    include_str!("../schema/core.schema"),
    include_str!("../schema/pod.schema"),
    include_str!("../schema/volume.schema"),
    include_str!("../schema/node.schema"),
    include_str!("../schema/apps.schema"),
    include_str!("../schema/network.schema"),
    include_str!("../schema/others.schema"),
];

/// All types, sorted by full name.
pub fn types() -> &'static [Type] {
    &SCHEMA.types
}

/// The type of that full name (`io.k8s.api.core.v1.PodSpec`), or of that short name (`PodSpec`) where only one type has it.
pub fn type_named(name: &str) -> Option<&'static Type> {
    SCHEMA.find(name).map(TypeRef::get)
}

/// Like [`type_named`], but a type without fields for a name that does not exist (a test sees to it that none is asked for).
pub(crate) fn type_or_empty(name: &str) -> &'static Type {
    type_named(name).unwrap_or(&NO_TYPE)
}

#[cfg(test)]
pub(crate) mod tests;
