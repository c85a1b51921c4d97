use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use super::*;
use crate::{
    Certificate, HostPattern, ProviderKey, TlsVersion,
    secret::{ClusterKey, prepare},
    tls::ended,
};

struct Made {
    pem: String,
    key: String,
}

fn made(names: &[&str], until: i32) -> Made {
    let mut params = CertificateParams::new(names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()).unwrap();
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    Made { pem: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn spec(hosts: &str, pem: &str, key: &str, more: &str) -> String {
    format!("{{hosts: {hosts}, certificate: {}, key: {{value: {}}}{more}}}", quoted(pem), quoted(key))
}

fn certificate(spec: &str) -> Certificate {
    match checked("Certificate", spec) {
        Ok(Checked::Certificate(certificate)) => (*certificate).clone(),
        other => panic!("{spec}: {other:?}"),
    }
}

#[test]
fn a_certificate_is_for_hosts_and_has_its_key() {
    let Made { pem, key } = made(&["a.test", "*.b.test"], 2400);
    let ca = quoted(&made(&["ca"], 2400).pem);
    let more = format!(", minVersion: '1.3', ocsp: MAMKAQA=, clientAuth: {{ca: {ca}}}");
    let certificate = certificate(&spec("[A.test, '*.b.test', x.b.test]", &pem, &key, &more));
    let hosts = [
        HostPattern::Exact("a.test".into()),
        HostPattern::Suffix(".b.test".into()),
        HostPattern::Exact("x.b.test".into()),
    ];
    assert_eq!(certificate.hosts, hosts);
    assert_eq!((certificate.min_version, certificate.staple), (TlsVersion::Tls13, Some(vec![0x30, 3, 10, 1, 0])));
    assert!(certificate.client_auth.unwrap().required);
    assert_eq!(certificate.chain.ends().to_string(), "2400-01-01T00:00:00Z");
    assert_eq!(certificate.key, None, "what is plain is not kept");
}

#[test]
fn every_wrong_value_of_a_certificate_is_told_and_nothing_of_a_key_is_shown() {
    let (good, other) = (made(&["a.test", "*.b.test"], 2400), made(&["a.test"], 2400));
    let both = format!("{}{}", good.pem, good.key);
    let cut = good.pem.replace("-----END CERTIFICATE-----", "");
    let no_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let one = |hosts: &str, pem: &str, key: &str, more: &str| spec(hosts, pem, key, more);
    let of_key = |key: &str| format!("{{hosts: [a.test], certificate: {}, key: {key}}}", quoted(&good.pem));
    let with = |more: &str| one("[a.test]", &good.pem, &good.key, more);
    for (spec, expected) in [
        (one("[]", &good.pem, &good.key, ""), "spec.hosts: is missing"),
        (
            one("[c.test]", &good.pem, &good.key, ""),
            "spec.hosts[0]: is no name of the certificate: its names are a.test, *.b.test",
        ),
        (one("[x.y.b.test]", &good.pem, &good.key, ""), "spec.hosts[0]: is no name of the certificate"),
        (one("[b.test]", &good.pem, &good.key, ""), "spec.hosts[0]: is no name of the certificate"),
        (one("['*.test']", &good.pem, &good.key, ""), "spec.hosts[0]: is no name of the certificate"),
        (one("[a.test, A.test]", &good.pem, &good.key, ""), "spec.hosts[1]: `A.test` is there twice"),
        (one("[a.test]", &good.pem, &other.key, ""), "spec.key.value: is not the key of the certificate"),
        (one("[a.test]", &good.pem, "hunter2", ""), "spec.key.value: holds no private key"),
        (one("[a.test]", &good.pem, &good.pem, ""), "spec.key.value: holds no private key"),
        (
            one("[a.test]", &both, &good.key, ""),
            "spec.certificate: holds a private key, which everybody could read here",
        ),
        (one("[a.test]", &cut, &good.key, ""), "spec.certificate: is no PEM text"),
        (one("[a.test]", "hello", &good.key, ""), "spec.certificate: holds no certificate"),
        (one("[a.test]", no_x509, &good.key, ""), "spec.certificate: its certificate 1 is none"),
        (one("[a.test]", &good.pem.repeat(17), &good.key, ""), "spec.certificate: holds more than 16 certificates"),
        ("{hosts: [a.test], key: {env: A}}".to_owned(), "spec.certificate: is missing"),
        (format!("{{hosts: [a.test], certificate: {}}}", quoted(&good.pem)), "spec.key: is missing"),
        (of_key("{}"), "spec.key: must have exactly one of"),
        (of_key("{env: A, weight: 2}"), "spec.key.weight: is only for the keys of a provider"),
        (of_key("{file: key.pem}"), "spec.key.file: must be an absolute path"),
        (of_key("{sealed: x}"), "spec.key.sealed: is damaged"),
        (with(", ocsp: '%%'"), "spec.ocsp: is no OCSP response"),
        (with(", ocsp: MAMKAQE="), "spec.ocsp: is no OCSP response"),
        (with(", minVersion: '1.1'"), "spec.minVersion: `1.1` is unknown"),
        (with(", clientAuth: {}"), "spec.clientAuth.ca: is missing"),
        (with(", clientAuth: {ca: x}"), "spec.clientAuth.ca: holds no certificate"),
        (
            with(&format!(", clientAuth: {{ca: {}, mode: maybe}}", quoted(&good.pem))),
            "spec.clientAuth.mode: `maybe` is unknown",
        ),
    ] {
        let found = wrong("Certificate", &spec);
        assert!(found.len() == 1 && found[0].starts_with(expected), "expected {expected}\nfound {found:#?}");
        assert!(!found[0].contains("hunter2"), "{found:?}");
    }
    assert!(wrong("Certificate", &one("['[::1]', 10.0.0.1]", &good.pem, &good.key, ""))[0].contains("is an address"));
}

#[test]
fn a_sealed_key_beside_another_certificate_is_refused() {
    let (key, _) = ClusterKey::generate();
    let (before, after) = (made(&["a.test"], 2400), made(&["a.test"], 2400));
    let text = |pem: &str, place: &str| {
        format!(
            "kind: Certificate\nmetadata: {{name: a}}\nspec: {{hosts: [a.test], certificate: {}, key: {place}}}",
            quoted(pem)
        )
    };
    let raw = resource(&text(&before.pem, &format!("{{value: {}}}", quoted(&before.key))));
    let stored = prepare(&raw, Some(&key), None).unwrap();
    assert!(!format!("{stored:?}").contains("PRIVATE"));
    assert_eq!(prepare(&raw, Some(&key), Some(&stored)).unwrap(), stored, "nothing changes when nothing changed");
    let Ok(Checked::Certificate(checked)) = check(&stored) else { panic!("{stored:?}") };
    let Some(ProviderKey::Sealed(sealed)) = &checked.key else { panic!("{checked:?}") };
    let mixed = resource(&text(&after.pem, &format!("{{sealed: '{sealed}'}}")));
    assert!(check(&mixed).is_ok(), "it can't be told without the cluster key");
    let problems = prepare(&mixed, Some(&key), Some(&stored)).unwrap_err();
    assert_eq!(problems.to_string(), "certificate a: spec.key.value: is not the key of the certificate");
    assert!(prepare(&stored, Some(&key), None).is_ok(), "what is exported applies again");
    assert!(prepare(&raw, None, None).unwrap_err().to_string().contains("[cluster] key_file"));
}

#[test]
fn one_that_has_ended_is_told_and_not_refused() {
    let Made { pem, key } = made(&["a.test"], 2020);
    let text = format!("kind: Certificate\nmetadata: {{name: a}}\nspec: {}", spec("[a.test]", &pem, &key, ""));
    let resource = resource(&text);
    assert!(check(&resource).is_ok());
    let at = |text: &str| ended(&resource, crate::Timestamp::parse(text).unwrap()).to_string();
    assert_eq!(at("2019-12-31T00:00:00Z"), "");
    assert!(
        at("2026-01-01T00:00:00Z").starts_with("certificate a: spec.certificate: has ended on 2020-01-01T00:00:00Z")
    );
    assert!(at("1970-01-01T00:00:00Z").contains("is good only from "));
}

#[test]
fn what_a_requester_wrote_into_its_subject_stays_one_value() {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "Acme");
    params.distinguished_name.push(DnType::CommonName, " a\",O=\\x;é\r\n#");
    params.distinguished_name.push(DnType::CustomDnType(vec![1, 2, 3]), "y");
    for uri in ["spiffe://a/b", "x:\"y", "x:\\y", "x:a;b,c"] {
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    }
    params.subject_alt_names.push(SanType::DnsName("A.test".try_into().unwrap()));
    let key = KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    let described = crate::tls::Described::read(made.der()).unwrap();
    let subject = r"1.2.3=y,CN=\20a\22\2CO\3D\5Cx\3B\C3\A9\0D\0A#,O=Acme";
    assert_eq!(described.subject, subject);
    let told = format!(r#";Subject="{subject}";URI="spiffe://a/b";URI="x:a;b,c";DNS="a.test""#);
    assert_eq!(described.forwarded(), format!("Hash={}{told}", described.fingerprint));
    assert_eq!(described.fingerprint.len(), 64);
    let mut cut = made.der().to_vec();
    cut.push(0);
    assert!(crate::tls::Described::read(&cut).is_err());
    for length in 0..made.der().len() {
        assert!(crate::tls::Described::read(&made.der()[..length]).is_err(), "{length}");
    }
}

#[test]
fn what_an_upstream_is_shown_is_checked_and_sealed_as_a_certificate_is() {
    let (good, other) = (made(&["tollgate"], 2400), made(&["tollgate"], 2400));
    let shown = |key: &str| format!("certificate: {{chain: {}, key: {{value: {}}}}}", quoted(&good.pem), quoted(key));
    let service = |protocol: &str, tls: &str| {
        format!("{{protocol: {protocol}, endpoints: [{{address: 'a:1'}}], tls: {{{tls}}}}}")
    };
    let provider = |url: &str, tls: &str| format!("{{type: openai, endpoints: [{{url: '{url}'}}], tls: {{{tls}}}}}");
    for (kind, spec, expected) in [
        ("Service", service("http", "serverName: a"), "spec.tls: is given, and no endpoint is met over TLS"),
        ("Service", service("h2c", ""), "spec.tls: is given, and no endpoint is met over TLS"),
        ("Provider", provider("http://a/v1", "serverName: a"), "spec.tls: is given, and no endpoint is met over TLS"),
        ("Service", service("https", "ca: x"), "spec.tls.ca: holds no certificate"),
        ("Service", service("https", "serverName: 'a:1'"), "spec.tls.serverName: `a:1` has a port"),
        ("Service", service("h2", "certificate: {key: {env: A}}"), "spec.tls.certificate.chain: is missing"),
        (
            "Service",
            service("https", &shown(&other.key)),
            "spec.tls.certificate.key.value: is not the key of the certificate",
        ),
        ("Provider", provider("https://a/v1", &shown(&other.key)), "spec.tls.certificate.key.value: is not the key"),
    ] {
        let found = wrong(kind, &spec);
        assert!(found.len() == 1 && found[0].starts_with(expected), "expected {expected}\nfound {found:#?}");
    }
    let (key, _) = ClusterKey::generate();
    for (kind, spec) in
        [("Service", service("h2", &shown(&good.key))), ("Provider", provider("https://a/v1", &shown(&good.key)))]
    {
        let raw = resource(&format!("kind: {kind}\nmetadata: {{name: a}}\nspec: {spec}"));
        assert!(crate::secret::has_plain_secret(&raw));
        let stored = prepare(&raw, Some(&key), None).unwrap();
        assert!(!crate::secret::has_plain_secret(&stored) && !format!("{stored:?}").contains("PRIVATE"), "{kind}");
        assert_eq!(prepare(&raw, Some(&key), Some(&stored)).unwrap(), stored);
        assert!(!format!("{:?}", crate::secret::without_plain(raw.clone())).contains("PRIVATE"), "{kind}");
        assert!(check(&stored).is_ok());
        let problems = prepare(&raw, None, None).unwrap_err();
        assert_eq!(problems.0[0].field, "spec.tls.certificate.key.value");
    }
}
