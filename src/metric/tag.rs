//! Tagged names: carbon's tag parser and its normal form.
//!
//! Two spellings, `m;b=c;a=b` and OpenMetrics `m{b="c",a="b"}`, have one normal form: the metric,
//! then `;tag=value` of each tag in ascending order, the last of several equal tags winning, a tag
//! called `name` dropped. Names come from `name`, which owns the limits, and return there.

use crate::limits::NAME_DEPTH_MAX;
use crate::metric::name_error::NameError;

/// Most tags of one name; they are sorted on the stack.
const TAGS_MAX: usize = NAME_DEPTH_MAX;

/// What the tag parser makes of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// No tags, or OpenMetrics that cannot be parsed and has no `;`: the untagged rules apply.
    Untagged,
    /// In normal form, or with a `;` and tags that cannot be parsed: stays as it is.
    Settled,
    /// Has tags and is not in normal form: [`rewrite`] does it.
    Rewritable,
}

/// How the name reads. Refuses more than [`TAGS_MAX`] tags.
pub(super) fn form(name: &[u8]) -> Result<Form, NameError> {
    let has_semicolon = memchr::memchr(b';', name).is_some();
    let is_openmetrics = is_openmetrics(name);
    if !has_semicolon && !is_openmetrics {
        return Ok(Form::Untagged);
    }
    let unparsable = if has_semicolon { Form::Settled } else { Form::Untagged };
    let Some((metric, tags)) = split(name) else {
        return Ok(unparsable);
    };
    let mut is_normal = !is_openmetrics && metric.len() == metric_bytes(name);
    let mut previous: Option<Tag<'_>> = None;
    for (index, tag) in tags.enumerate() {
        let Some(tag) = tag else {
            return Ok(unparsable);
        };
        if index >= TAGS_MAX {
            return Err(NameError::TooDeep);
        }
        is_normal &= !tag.is_name() && previous.is_none_or(|previous| previous.key < tag.key);
        previous = Some(tag);
    }
    Ok(if is_normal { Form::Settled } else { Form::Rewritable })
}

/// Writes the normal form of a name that is [`Form::Rewritable`] to `out`.
pub(super) fn rewrite(name: &[u8], out: &mut Vec<u8>) {
    let (metric, tags) = split(name).expect("form() has parsed the name");
    let mut list = [Tag::default(); TAGS_MAX];
    let mut count = 0;
    for tag in tags {
        list[count] = tag.expect("form() has parsed the tags");
        count += 1;
    }
    // A stable sort of the reversed list puts the last of equal tags first.
    list[..count].reverse();
    insertion_sort(&mut list[..count]);
    out.clear();
    out.extend_from_slice(metric);
    let mut previous: Option<Tag<'_>> = None;
    for tag in &list[..count] {
        let is_repeated = previous.is_some_and(|previous| previous.key == tag.key);
        if !is_repeated && !tag.is_name() {
            tag.push_to(out);
        }
        previous = Some(*tag);
    }
}

/// One tag as it stands in a name.
#[derive(Debug, Clone, Copy, Default)]
struct Tag<'a> {
    /// The tag's name with its `=`. Keys order tags as whole `tag=value` strings would, because
    /// no key is the beginning of another.
    key: &'a [u8],
    /// The value, in OpenMetrics still with its escapes.
    value: &'a [u8],
    /// Whether `value` has OpenMetrics escapes.
    is_escaped: bool,
}

impl<'a> Tag<'a> {
    /// The tag, unless carbon refuses it.
    fn checked(key: &'a [u8], value: &'a [u8], is_escaped: bool) -> Option<Tag<'a>> {
        let (_, name) = key.split_last()?;
        let is_valid = !name.is_empty()
            && !name.iter().any(|byte| matches!(byte, b';' | b'!' | b'^' | b'='))
            && !value.is_empty()
            && value[0] != b'~'
            && memchr::memchr(b';', value).is_none();
        is_valid.then_some(Tag { key, value, is_escaped })
    }

    /// Whether this is the tag that stands for the metric itself.
    fn is_name(&self) -> bool {
        self.key == b"name="
    }

    fn push_to(&self, out: &mut Vec<u8>) {
        out.push(b';');
        out.extend_from_slice(self.key);
        if !self.is_escaped {
            out.extend_from_slice(self.value);
            return;
        }
        let mut bytes = self.value.iter();
        while let Some(&byte) = bytes.next() {
            let literal = if byte == b'\\' { bytes.next() } else { None };
            out.push(literal.copied().unwrap_or(byte));
        }
    }
}

/// The tags of a name in the order they stand; `None` where the name cannot be parsed.
enum Tags<'a> {
    /// What follows a `;`, or nothing.
    Carbon(Option<&'a [u8]>),
    /// What stands between the braces.
    OpenMetrics(&'a [u8]),
}

impl<'a> Iterator for Tags<'a> {
    type Item = Option<Tag<'a>>;

    fn next(&mut self) -> Option<Option<Tag<'a>>> {
        match self {
            Tags::Carbon(rest) => {
                let segments = (*rest)?;
                let end = memchr::memchr(b';', segments);
                *rest = end.map(|end| &segments[end + 1..]);
                Some(carbon_tag(&segments[..end.unwrap_or(segments.len())]))
            }
            Tags::OpenMetrics([]) => None,
            Tags::OpenMetrics(rest) => {
                let parsed = openmetrics_tag(rest);
                *rest = parsed.map_or(&[], |(_, rest)| rest);
                Some(parsed.map(|(tag, _)| tag))
            }
        }
    }
}

/// Whether carbon reads the name as OpenMetrics.
fn is_openmetrics(name: &[u8]) -> bool {
    name.ends_with(b"\"}") && memchr::memchr(b'{', name).is_some()
}

/// Length of what stands before the first `;`.
fn metric_bytes(name: &[u8]) -> usize {
    memchr::memchr(b';', name).unwrap_or(name.len())
}

/// The metric without leading `~`, and the tags. Nothing if the metric is empty.
fn split(name: &[u8]) -> Option<(&[u8], Tags<'_>)> {
    let (metric, tags) = if is_openmetrics(name) {
        let body = &name[..name.len() - 1];
        let open = memchr::memchr(b'{', body)?;
        let rest = &body[open + 1..];
        if memchr::memchr(b'{', rest).is_some() {
            return None;
        }
        (&body[..open], Tags::OpenMetrics(rest))
    } else {
        let end = metric_bytes(name);
        (&name[..end], Tags::Carbon(name.get(end + 1..)))
    };
    let tilde_count = metric.iter().take_while(|&&byte| byte == b'~').count();
    let metric = &metric[tilde_count..];
    (!metric.is_empty()).then_some((metric, tags))
}

/// `tag=value`.
fn carbon_tag(segment: &[u8]) -> Option<Tag<'_>> {
    let equals = memchr::memchr(b'=', segment)?;
    let (key, value) = segment.split_at(equals + 1);
    Tag::checked(key, value, false)
}

/// `tag="value"`, then `,` or `:,` or the end; with it, what follows.
fn openmetrics_tag(text: &[u8]) -> Option<(Tag<'_>, &[u8])> {
    let equals = memchr::memchr(b'=', text)?;
    let (key, rest) = text.split_at(equals + 1);
    let quoted = rest.strip_prefix(b"\"")?;
    let mut end = 0;
    let mut is_escaped = false;
    loop {
        match quoted.get(end)? {
            b'"' => break,
            b'\\' => {
                is_escaped = true;
                if !matches!(quoted.get(end + 1)?, b'"' | b'\\') {
                    return None;
                }
                end += 2;
            }
            _ => end += 1,
        }
    }
    let tag = Tag::checked(key, &quoted[..end], is_escaped)?;
    let rest = &quoted[end + 1..];
    if rest.is_empty() {
        return Some((tag, rest));
    }
    let rest = rest.strip_prefix(b":").unwrap_or(rest);
    Some((tag, rest.strip_prefix(b",")?))
}

/// Sorts by key, keeping equal keys in order. The standard stable sort may allocate, and tags are
/// few and mostly in order already.
fn insertion_sort(tags: &mut [Tag<'_>]) {
    for end in 1..tags.len() {
        let mut at = end;
        while at > 0 && tags[at - 1].key > tags[at].key {
            tags.swap(at - 1, at);
            at -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, want: Form, normal: &str) {
        let got = form(name.as_bytes()).unwrap();
        assert_eq!(got, want, "form of {name}");
        if got == Form::Rewritable {
            let mut out = b"former content".to_vec();
            rewrite(name.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), normal, "normal form of {name}");
        }
    }

    #[test]
    fn carbon_names() {
        check("m", Form::Untagged, "");
        check("m;a=b", Form::Settled, "");
        check("m;a-b=y;a=x", Form::Settled, "");
        check("m;a=x;a-b=y", Form::Rewritable, "m;a-b=y;a=x");
        check("m;a=1;a=2", Form::Rewritable, "m;a=2");
        check("m;b=1;a=9;b=2;b=1", Form::Rewritable, "m;a=9;b=1");
        check("m;a=b=c", Form::Settled, "");
        check("m;name=x;a=b", Form::Rewritable, "m;a=b");
        check("~m;a=b", Form::Rewritable, "m;a=b");
        for unparsable in ["m;", "m;a", "m;a=", "m;=b", ";a=b", "m;;a=b", "~;b=1;a=2"] {
            check(unparsable, Form::Settled, "");
        }
        for refused in ["m;b=1;a=~2", "m;b=1;a!=2", "m;b=1;a^a=2", "m;b=1;name="] {
            check(refused, Form::Settled, "");
        }
    }

    #[test]
    fn openmetrics_names() {
        check(r#"m{a="b"}"#, Form::Rewritable, "m;a=b");
        check(r#"m{b="c",a="b"}"#, Form::Rewritable, "m;a=b;b=c");
        check(r#"m{b="c":,a="b"}"#, Form::Rewritable, "m;a=b;b=c");
        check(r#"m{a="b\"c\\\"",b="\\"}"#, Form::Rewritable, r#"m;a=b"c\";b=\"#);
        check(r#"m{name="x"}"#, Form::Rewritable, "m");
        check(r#"m{a="}"}"#, Form::Rewritable, "m;a=}");
        for untagged in [r#"m{a="b",}"#, "m{}", r#"m{"}"#, r#"m{="}"#, r#"m{a=""}"#, r#"{a="b"}"#] {
            check(untagged, Form::Untagged, "");
        }
        for untagged in [r#"m{a="b":c="d"}"#, r#"m{a="\b"}"#, r#"m{n{a="b"}"#, r#"m{a="\"}"#] {
            check(untagged, Form::Untagged, "");
        }
        check(r#"m{a="b;c"}"#, Form::Settled, "");
        check(r#"m{a;b="c"}"#, Form::Settled, "");
    }
}
