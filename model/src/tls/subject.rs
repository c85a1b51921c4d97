//! What a certificate says of whose it is.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::FromDer,
    time::ASN1Time,
    x509::{AttributeTypeAndValue, X509Name},
};

use crate::Timestamp;

/// Names of one sort that are passed on: more are not an identity, and headers are bounded.
const MAX_NAMES: usize = 16;
/// As long as a DNS name; a URI is cut by nobody, so a longer one is left out.
const MAX_NAME_BYTES: usize = 255;
/// A longer subject is not passed on.
const MAX_SUBJECT_BYTES: usize = 1024;

/// Attributes that have a short name (RFC 4514 §3, and the address that many still have).
const ATTRIBUTES: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// What one certificate says. Texts are visible ASCII, whatever stood there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// RFC 4514: `CN=orders,O=Acme`. Empty where it names nobody, or far too much.
    pub subject: String,
    /// Lower case; a wildcard is `*.example.com`.
    pub dns_names: Vec<String>,
    /// `spiffe://…` for one.
    pub uris: Vec<String>,
    /// Not good before.
    pub begins: Timestamp,
    /// Not good after.
    pub ends: Timestamp,
    /// SHA-256 of the whole, in hexadecimal.
    pub fingerprint: String,
}

impl Described {
    /// Reads DER.
    ///
    /// # Errors
    /// Why it is no certificate.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("something follows it".to_owned());
        }
        let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        let dns = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => plain(name).map(|name| name.to_ascii_lowercase()),
            _ => None,
        });
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => plain(uri).map(str::to_owned),
            _ => None,
        });
        Ok(Self {
            subject: subject(certificate.subject()),
            dns_names: dns.collect(),
            uris: uris.take(MAX_NAMES).collect(),
            begins: instant(certificate.validity().not_before),
            ends: instant(certificate.validity().not_after),
            fingerprint: hex::encode(digest(&SHA256, der)),
        })
    }

    /// In the form that Envoy made common: `Hash=…;Subject="…";URI=…;DNS=…`.
    #[must_use]
    pub fn forwarded(&self) -> String {
        let mut text = format!("Hash={}", self.fingerprint);
        if !self.subject.is_empty() {
            let _ = write!(text, ";Subject=\"{}\"", self.subject);
        }
        for uri in &self.uris {
            let _ = write!(text, ";URI=\"{uri}\"");
        }
        for name in self.dns_names.iter().take(MAX_NAMES) {
            let _ = write!(text, ";DNS=\"{name}\"");
        }
        text
    }
}

fn instant(time: ASN1Time) -> Timestamp {
    Timestamp::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

/// What can stand in a header between quotes.
fn plain(text: &str) -> Option<&str> {
    let fits = text.len() <= MAX_NAME_BYTES && !text.is_empty();
    let good = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    (fits && text.bytes().all(good)).then_some(text)
}

/// RFC 4514 §2: the last part first.
fn subject(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for relative in name.iter_rdn() {
        parts.push(relative.iter().map(attribute).collect::<Vec<_>>().join("+"));
    }
    parts.reverse();
    let text = parts.join(",");
    if text.len() > MAX_SUBJECT_BYTES { String::new() } else { text }
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let id = attribute.attr_type().to_id_string();
    let name = ATTRIBUTES.iter().find(|(known, _)| *known == id).map_or(id.as_str(), |(_, name)| name);
    match attribute.as_str() {
        Ok(value) => format!("{name}={}", escaped(value)),
        // RFC 4514 §2.4 for what is no text.
        Err(_) => format!("{name}=#{}", hex::encode(attribute.as_slice())),
    }
}

/// By their numbers, so that neither a quote nor a backslash's meaning depends on who reads it: what a requester had written
/// into its subject stays one value.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let special = matches!(byte, b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'=');
        let at_edge = (at == 0 && matches!(byte, b' ' | b'#')) || (at == last && byte == b' ');
        let visible = byte.is_ascii_graphic() || byte == b' ';
        if special || at_edge || !visible {
            let _ = write!(text, "\\{byte:02X}");
        } else {
            text.push(char::from(byte));
        }
    }
    text
}
