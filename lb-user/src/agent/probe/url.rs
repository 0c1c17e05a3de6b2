//! Where an HTTP probe goes, and where an answer sends it on to.

use std::fmt;

use hyper::http::uri::Authority;

use crate::model::probe::Scheme;

/// An address of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port, where one is given.
    pub port: Option<u16>,
    /// Path and query, escaped; begins with `/`.
    pub path: String,
}

/// A place that an answer names and nobody can go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLocation;

impl Url {
    /// With a path as people write it: what no request line may hold is escaped.
    pub fn new(scheme: Scheme, host: &str, port: u16, path: &str) -> Self {
        Self {
            scheme,
            host: host.to_owned(),
            port: Some(port),
            path: normal(path),
        }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    /// Host and port as in the header `Host`.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// Where the header `Location` of an answer from here leads (RFC 3986 section 5.2); a scheme that is not HTTP
    /// leads to no host.
    pub fn join(&self, location: &str) -> Result<Self, BadLocation> {
        let (scheme, rest) = match split_scheme(location) {
            Some((name, rest)) => match [Scheme::Http, Scheme::Https]
                .into_iter()
                .find(|scheme| name.eq_ignore_ascii_case(scheme.name()))
            {
                Some(scheme) => (scheme, rest),
                None => {
                    return Ok(Self {
                        host: String::new(),
                        ..self.clone()
                    });
                }
            },
            None => (self.scheme, location),
        };
        let Some(rest) = rest.strip_prefix("//") else {
            return Ok(Self {
                path: self.beside(rest),
                ..self.clone()
            });
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let authority: Authority = authority.parse().map_err(|_| BadLocation)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(BadLocation);
        }
        Ok(Self {
            scheme,
            host,
            port: authority.port_u16(),
            path: normal(path),
        })
    }

    /// The path that `reference`, without host, means here.
    fn beside(&self, reference: &str) -> String {
        let here = self.path.split('?').next().unwrap_or_default();
        match reference.chars().next() {
            None | Some('#') => self.path.clone(),
            Some('/') => normal(reference),
            Some('?') => normal(&format!("{here}{reference}")),
            Some(_) => {
                let dir = here.rfind('/').map_or("/", |at| &here[..=at]);
                normal(&format!("{dir}{reference}"))
            }
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, path, .. } = self;
        write!(f, "{}://{}{path}", scheme.name(), self.authority())
    }
}

fn split_scheme(location: &str) -> Option<(&str, &str)> {
    let (name, rest) = location.split_once(':')?;
    let is_scheme = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some((name, rest))
}

/// Without fragment and dot segments, escaped, and with a slash at its begin.
fn normal(text: &str) -> String {
    let text = text.split('#').next().unwrap_or_default();
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    segments.pop();
                }
                if is_last {
                    segments.push("");
                }
            }
            part => segments.push(part),
        }
    }
    let path = escaped(&format!("/{}", segments.join("/")));
    match query {
        Some(query) => format!("{path}?{}", escaped(query)),
        None => path,
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte) {
            out.push(char::from(byte));
        } else {
            let hex = |digit: u8| char::from(b"0123456789ABCDEF"[usize::from(digit & 15)]);
            out.extend(['%', hex(byte >> 4), hex(byte)]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_fit_for_a_request() {
        let cases = [
            ("/", "/"),
            ("", "/"),
            ("healthz", "/healthz"),
            ("/a b?q=é", "/a%20b?q=%C3%A9"),
            ("?q", "/?q"),
            ("/a%20b", "/a%20b"),
            ("/a/../b/./c#part", "/b/c"),
            ("/a/..", "/"),
            ("/a//b/", "/a//b/"),
        ];
        for (path, expected) in cases {
            let url = Url::new(Scheme::Http, "h", 80, path);
            assert_eq!(url.path, expected, "{path}");
        }
    }

    #[test]
    fn a_location_is_read_from_where_it_was_met() {
        let here = Url::new(Scheme::Http, "fd00::1", 8080, "/a/b?c");
        let cases = [
            ("/x", "http://[fd00::1]:8080/x"),
            ("x", "http://[fd00::1]:8080/a/x"),
            ("../x?y", "http://[fd00::1]:8080/x?y"),
            ("?y", "http://[fd00::1]:8080/a/b?y"),
            ("", "http://[fd00::1]:8080/a/b?c"),
            ("//other/x", "http://other/x"),
            ("https://[fd00::1]/x", "https://[fd00::1]/x"),
            ("HTTP://other:1", "http://other:1/"),
            ("http://other?q", "http://other/?q"),
        ];
        for (location, expected) in cases {
            let there = here.join(location).expect(location);
            assert_eq!(there.to_string(), expected, "{location}");
        }
        assert_eq!(
            here.join("mailto:a@b").map(|url| url.host),
            Ok(String::new())
        );
        assert_eq!(here.join("http://"), Err(BadLocation));
        assert_eq!(here.join("http://a b/"), Err(BadLocation));
    }

    #[test]
    fn the_port_follows_the_scheme_where_none_is_given() {
        let here = Url::new(Scheme::Http, "h", 8080, "/");
        assert_eq!(here.port(), 8080);
        assert_eq!(here.join("http://h/").map(|url| url.port()), Ok(80));
        assert_eq!(here.join("https://h/").map(|url| url.port()), Ok(443));
    }
}
