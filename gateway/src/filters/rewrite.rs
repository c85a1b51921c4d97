//! Other hosts and paths than those that were asked for: what a service is asked for, and where a redirect leads.
//!
//! A rewritten path is normalised again: groups of a pattern are put together anew, and what comes of them is the one path
//! that is sent. What a pattern took must not lead out of what its template puts before it, nor may the whole be no URI.

use std::borrow::Cow;

use http::{HeaderValue, uri::PathAndQuery};
use tollgate_model::{MAX_REWRITTEN_BYTES, PathMatch, PathRewrite, RedirectTo, Rewrite, percent_decode};

use crate::{
    error::Rejection,
    normalize::{Target, normal_path},
};

/// What a service is asked for, where that is not what the caller asked for.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// Without the query.
    pub(crate) path: Option<String>,
    pub(crate) host: Option<String>,
}

impl Rewritten {
    /// `matched` is how the route took the path.
    ///
    /// # Errors
    /// The path becomes one that has no normal form or makes no URI, or too long a one; or its pattern makes `.` or `..` a
    /// segment of it.
    pub(crate) fn new(rewrite: &Rewrite, target: &Target, matched: &PathMatch) -> Result<Self, Rejection> {
        let path = rewrite.path.as_ref().map(|path| rewritten(path, &target.path, matched)).transpose()?;
        // Here, so that nothing is reserved nor tried for what can't be sent.
        if path.as_ref().is_some_and(|path| PathAndQuery::try_from(target.with_query(path)).is_err()) {
            return Err(unacceptable());
        }
        Ok(Self { path, host: rewrite.host.clone() })
    }
}

fn rewritten(rewrite: &PathRewrite, path: &str, matched: &PathMatch) -> Result<String, Rejection> {
    let path = rewrite.rewrite(path, matched).ok_or_else(unacceptable)?;
    // `/v(.*)` takes `/..` out of `/v../admin`: resolved, it would undo the template.
    if matches!(rewrite, PathRewrite::Regex { .. }) && path.split('/').any(is_dots) {
        return Err(unacceptable());
    }
    let path = normal_path(&path).filter(|path| path.len() <= MAX_REWRITTEN_BYTES);
    path.map(Cow::into_owned).ok_or_else(unacceptable)
}

fn is_dots(segment: &str) -> bool {
    matches!(&*percent_decode(segment), b"." | b"..")
}

fn unacceptable() -> Rejection {
    Rejection::invalid("The path that this route makes of the request's is not acceptable.")
}

/// Where a redirect leads: what it leaves out is as it was asked for, and so is the query.
///
/// # Errors
/// As [`Rewritten::new`].
pub(crate) fn location(to: &RedirectTo, target: &Target, matched: &PathMatch) -> Result<HeaderValue, Rejection> {
    let (scheme, host, path) = match to {
        RedirectTo::Fixed(location) => return HeaderValue::from_str(location).map_err(|_| unacceptable()),
        RedirectTo::Built { scheme, host, path } => (scheme, host.as_deref(), path),
    };
    let path = match path {
        Some(path) => target.with_query(&rewritten(path, &target.path, matched)?),
        None => target.path_and_query(),
    };
    let location = match (scheme, host) {
        (None, None) => path,
        // RFC 3986 §4.2: by the scheme that the caller came by, which another proxy may have ended.
        (None, Some(host)) => format!("//{host}{path}"),
        // Another scheme is on another port.
        (Some(scheme), host) => format!("{scheme}://{}{path}", host.unwrap_or(target.host.name())),
    };
    HeaderValue::from_str(&location).map_err(|_| unacceptable())
}

#[cfg(test)]
mod tests {
    use http::{Request, uri::Scheme};
    use tollgate_model::{Checked, check, yaml};

    use super::*;

    fn target(path: &str) -> Target {
        let request = Request::builder().uri(path).header("host", "a.example:8080").body(()).unwrap();
        Target::read(&request.into_parts().0, &Scheme::HTTP).unwrap()
    }

    fn prefix(text: &str) -> PathMatch {
        PathMatch::Prefix(text.into())
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let built =
            |scheme, host: Option<&str>, path| RedirectTo::Built { scheme, host: host.map(str::to_owned), path };
        let whole = || Some(PathRewrite::Whole("/new".into()));
        let other = || Some(PathRewrite::Prefix("/v2".into()));
        for (to, expected) in [
            (RedirectTo::Fixed("https://b/".into()), "https://b/"),
            (built(Some("https"), None, None), "https://a.example/v1/x?q=1"),
            (built(Some("https"), Some("b:444"), None), "https://b:444/v1/x?q=1"),
            (built(None, Some("b"), None), "//b/v1/x?q=1"),
            (built(None, None, whole()), "/new?q=1"),
            (built(None, Some("b"), other()), "//b/v2/x?q=1"),
            (built(None, None, other()), "/v2/x?q=1"),
        ] {
            assert_eq!(location(&to, &target("/v1/x?q=1"), &prefix("/v1")).unwrap(), expected);
        }
    }

    #[test]
    fn no_path_makes_a_redirect_to_another_host() {
        let to = RedirectTo::Built { scheme: None, host: None, path: Some(PathRewrite::Prefix(String::new())) };
        for path in ["/v1//evil.example", "/v1/%2Fevil.example", "/v1/./evil", "/v1", "/v1/"] {
            let location = location(&to, &target(path), &prefix("/v1")).unwrap();
            let location = location.to_str().unwrap();
            assert!(location.starts_with('/') && !location.starts_with("//"), "{path}: {location}");
        }
    }

    #[test]
    fn what_is_rewritten_has_one_form_or_is_refused() {
        for (to, path, expected) in [
            ("/a/$1$2", "/x-y", Some("/a/xy")),
            ("/a/$1$2", "/x/-/y", Some("/a/x/y")),
            ("/a/$1$2", "/none", Some("/none")),
            ("/a/$1$2", "/.-.", None), // would be `/`
            ("/a/$1$2", "/b/.-./c", None),
            ("/a/$1$2", "/b/.-/c", None),
            ("/a/%2$1.$2", "/e-/c", None), // an escape put together anew
            ("/a/%2$1%2$1$2", "/e-", None),
            ("/a/$1$2", "/.-.x", Some("/a/..x")),
            ("/a/$1$2", "/...-/c", Some("/a/.../c")),
            ("/$1$2", "/.-.", None), // above the root
            ("/$1%2F$2", "/.-.", None),
        ] {
            let yaml = format!(
                "apiVersion: tollgate/v1\nkind: Route\nmetadata: {{name: r}}\nspec:\n  backends: [{{service: s}}]\n  \
                 rewrite: {{regex: {{pattern: '/(.*)-(.*)', to: '{to}'}}}}\n"
            );
            let (mut parsed, problems) = yaml::parse_and_check("f", &yaml);
            assert!(problems.is_empty(), "{problems}");
            let Ok(Checked::Route(route)) = check(&parsed.remove(0).resource) else { panic!("{yaml}") };
            let rewrite = route.traffic.as_ref().and_then(|traffic| traffic.rewrite.as_ref()).unwrap();
            let rewritten = Rewritten::new(rewrite, &target(path), &PathMatch::Any);
            assert_eq!(rewritten.ok().and_then(|it| it.path).as_deref(), expected, "{to} {path}");
        }
    }

    #[test]
    fn a_path_that_is_no_uri_with_its_query_is_refused() {
        let rewrite = |to: &str| Rewrite { host: None, path: Some(PathRewrite::Whole(to.to_owned())) };
        let long = format!("/{}", "a".repeat(MAX_REWRITTEN_BYTES - 1));
        for (to, query, is_taken) in [("/<x>", 1, false), (&*long, 30_000, true), (&*long, 40_000, false)] {
            let target = target(&format!("/?{}", "q".repeat(query)));
            assert_eq!(Rewritten::new(&rewrite(to), &target, &PathMatch::Any).is_ok(), is_taken, "{query}");
        }
    }
}
