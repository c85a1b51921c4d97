//! Other paths and hosts than those that came, and headers that a route edits.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use tollgate_proto::v1;

use super::{context::Context, text};
use crate::{
    Field, HeaderEdit, PathMatch, PathRewrite, RedirectTo, Rewrite, RouteAction, RouteMatch, Template, percent_decode,
};

/// A template is a path with a few groups in it.
const MAX_TEMPLATE_BYTES: usize = 1024;
/// As hyper and most servers take it.
const MAX_VALUE_BYTES: usize = 8 * 1024;
/// More is a mistake, and costs every request.
const MAX_EDITS: usize = 64;

pub(super) fn rewrite(
    context: &mut Context,
    at: &Field<'_>,
    given: &v1::Rewrite,
    matches: &[RouteMatch],
) -> Option<Rewrite> {
    let host = authority(context, &at.field("host"), &given.host);
    let regex = given.regex.as_ref();
    let paths = [!given.prefix.is_empty(), !given.path.is_empty(), regex.is_some()];
    match paths.iter().filter(|given| **given).count() {
        0 if given.host.is_empty() => context.add(at, "must have `host` or one of `prefix`, `path` and `regex`"),
        0 | 1 => {}
        _ => context.add(at, "must have only one of `prefix`, `path` and `regex`"),
    }
    let path = match regex {
        Some(regex) => self::regex(context, &at.field("regex"), regex),
        None => path(context, at, (&given.prefix, &given.path), matches),
    };
    Some(Rewrite { host, path })
}

pub(super) fn redirect(
    context: &mut Context,
    at: &Field<'_>,
    given: &v1::Redirect,
    matches: &[RouteMatch],
) -> RouteAction {
    let status = given.status.unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&status) {
        context.add(&at.field("status"), format!("{status} is no redirect: 301 | 302 | 303 | 307 | 308"));
    }
    let status = u16::try_from(status).unwrap_or(302);
    let parts = [&given.scheme, &given.host, &given.path, &given.prefix];
    let to = if parts.iter().all(|part| part.is_empty()) {
        location(context, &at.field("location"), &given.location)
    } else {
        if !given.location.is_empty() {
            let wrong = "says where to already: leave it out, or `scheme`, `host`, `path` and `prefix`";
            context.add(&at.field("location"), wrong);
        }
        built(context, at, given, matches)
    };
    RouteAction::Redirect { to, status }
}

fn location(context: &mut Context, at: &Field<'_>, location: &str) -> RedirectTo {
    let absolute = ["http://", "https://"]
        .iter()
        .any(|scheme| location.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')));
    if location.is_empty() {
        context.add(at, "is missing: a URL, or one of `scheme`, `host`, `path` and `prefix` beside it");
    } else if !location.bytes().all(|b| b.is_ascii_graphic()) || !(absolute || location.starts_with('/')) {
        context.add(at, "must be a URL with http:// or https://, or a path that begins with `/`");
    }
    RedirectTo::Fixed(location.to_owned())
}

fn built(context: &mut Context, at: &Field<'_>, given: &v1::Redirect, matches: &[RouteMatch]) -> RedirectTo {
    let schemes = [("http", super::context::Value::Is("http")), ("https", super::context::Value::Is("https"))];
    let scheme = context.word(&at.field("scheme"), &given.scheme, &schemes);
    let host = authority(context, &at.field("host"), &given.host);
    if !given.prefix.is_empty() && !given.path.is_empty() {
        context.add(at, "must have only one of `prefix` and `path`");
    }
    let path = path(context, at, (&given.prefix, &given.path), matches);
    RedirectTo::Built { scheme, host, path }
}

fn authority(context: &mut Context, at: &Field<'_>, text: &str) -> Option<String> {
    if text.is_empty() { None } else { context.keep(at, text::authority(text)) }
}

/// A prefix in place of the matched one, or a whole path.
fn path(
    context: &mut Context,
    at: &Field<'_>,
    (prefix, whole): (&str, &str),
    matches: &[RouteMatch],
) -> Option<PathRewrite> {
    if !prefix.is_empty() {
        context.keep(&at.field("prefix"), text::path(prefix));
        let other = |wanted: &RouteMatch| matches!(wanted.path, PathMatch::Exact(_) | PathMatch::Regex(_));
        if let Some(n) = matches.iter().position(other) {
            let wrong = format!("takes the place of the matched prefix, and spec.match[{n}] matches none: use `path`");
            context.add(&at.field("prefix"), wrong);
        }
        return Some(PathRewrite::Prefix(prefix.strip_suffix('/').unwrap_or(prefix).to_owned()));
    }
    if whole.is_empty() {
        return None;
    }
    context.keep(&at.field("path"), text::path(whole));
    Some(PathRewrite::Whole(whole.to_owned()))
}

fn regex(context: &mut Context, at: &Field<'_>, given: &v1::RegexRewrite) -> Option<PathRewrite> {
    let (pattern_at, to_at) = (at.field("pattern"), at.field("to"));
    if given.pattern.is_empty() {
        context.add(&pattern_at, "is missing");
    }
    if given.to.is_empty() {
        context.add(&to_at, "is missing");
    }
    if given.pattern.is_empty() || given.to.is_empty() {
        return None;
    }
    let pattern = context.keep(&pattern_at, text::regex(&given.pattern))?;
    let to = context.keep(&to_at, template(&given.to, &pattern))?;
    Some(PathRewrite::Regex { pattern, to })
}

fn template(text: &str, pattern: &regex::Regex) -> Result<Template, String> {
    if text.len() > MAX_TEMPLATE_BYTES {
        return Err(format!("is longer than {MAX_TEMPLATE_BYTES} bytes"));
    }
    let template = Template::parse(text, pattern)?;
    if !template.may_begin_with('/') {
        return Err("must begin with `/`, or with a group".to_owned());
    }
    let wrong = |c: &char| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '\\' | '<' | '>' | '`');
    if let Some(wrong) = template.texts().flat_map(str::chars).find(wrong) {
        return Err(format!("holds {wrong:?}, which no path has: percent-encode it"));
    }
    // Whatever the groups are: a request whose pattern makes one is refused.
    let is_dots = |segment: &str| matches!(&*percent_decode(segment), b"." | b"..");
    if template.example().split('/').any(is_dots) {
        return Err("has `.` or `..` as a segment, with which every request would be refused: leave it out".to_owned());
    }
    Ok(template)
}

/// Which way headers go that are edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To an upstream that is a provider.
    ToProvider,
    /// To a service.
    ToService,
    /// To the caller.
    Back,
}

pub(super) fn header_edit(
    context: &mut Context,
    at: &Field<'_>,
    given: Option<&v1::HeaderEdit>,
    way: Way,
) -> HeaderEdit {
    let Some(given) = given else { return HeaderEdit::default() };
    let count = given.set.len() + given.add.len() + given.remove.len();
    match count {
        0 => context.add(at, "must have `set`, `add` or `remove`"),
        count if count > MAX_EDITS => context.add(at, format!("has {count} headers: {MAX_EDITS} are the most")),
        _ => {}
    }
    let set = values(context, &at.field("set"), &given.set, way);
    let add = values(context, &at.field("add"), &given.add, way);
    let list = at.field("remove");
    let mut remove = Vec::new();
    for (n, text) in given.remove.iter().enumerate() {
        let Some(name) = name(context, &list.index(n), text, way) else { continue };
        if remove.contains(&name) {
            context.add(&list.index(n), format!("`{name}` is there twice"));
        }
        remove.push(name);
    }
    HeaderEdit { set, add, remove }
}

fn values(
    context: &mut Context,
    at: &Field<'_>,
    given: &BTreeMap<String, String>,
    way: Way,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut values: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (text, value) in given {
        let at = at.key(text);
        let name = name(context, &at, text, way);
        let value = context.keep(&at, header_value(value));
        let (Some(name), Some(value)) = (name, value) else { continue };
        if values.iter().any(|(known, _)| *known == name) {
            context.add(&at, "is there twice, in other letters");
        }
        values.push((name, value));
    }
    values
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    if text.len() > MAX_VALUE_BYTES {
        return Err(format!("is longer than {MAX_VALUE_BYTES} bytes"));
    }
    if text.trim() != text {
        return Err("begins or ends with a space, which no header keeps".to_owned());
    }
    HeaderValue::from_str(text).map_err(|_| "is no header value".to_owned())
}

fn name(context: &mut Context, at: &Field<'_>, text: &str, way: Way) -> Option<HeaderName> {
    let name = context.keep(at, text.parse::<HeaderName>().map_err(|_| format!("`{text}` is no header name")))?;
    if let Some(wrong) = kept_from_edits(name.as_str(), way) {
        context.add(at, wrong);
        return None;
    }
    Some(name)
}

/// For one connection only, or where a message ends: whoever could edit these could smuggle a request.
const FRAMING: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Why the gateway keeps this header to itself; none where it does not. Read as CGI does, which takes `_` for `-`.
fn kept_from_edits(name: &str, way: Way) -> Option<&'static str> {
    let name = name.replace('_', "-");
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if FRAMING.contains(&name.as_str()) {
        return Some("belongs to the connection or frames the message: the gateway sets it itself");
    }
    if begins(&["x-tollgate-"]) || name == "x-request-id" {
        return Some("is the gateway's own word: no route can change it");
    }
    if way == Way::Back {
        let limits = begins(&["x-ratelimit-"]) || name == "ratelimit" || name == "ratelimit-policy";
        return limits.then_some("tells how limits stand: no route can change it");
    }
    match name.as_str() {
        "host" => Some("is not edited as a header: use `rewrite: {host: …}`"),
        "x-consumer" | "x-tenant" => Some("says who calls: only the gateway may"),
        "x-real-ip" | "forwarded" => Some("says where a request came from: only the gateway may"),
        "authorization" | "x-api-key" | "api-key" => {
            Some("holds credentials, which are not edited: a route is no secret")
        }
        _ if begins(&["x-forwarded-"]) => Some("says where a request came from: only the gateway may"),
        "content-type" | "content-encoding" | "accept-encoding" if way == Way::ToProvider => {
            Some("is set by the gateway on its way to a provider")
        }
        _ => None,
    }
}
