use std::fs;

use rcgen::{CertificateParams, KeyPair};

use super::*;

/// A certificate and its key in a directory.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.renew();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn renew(&self) {
        let (certificate, key) = Self::pair();
        self.write("cert.pem", &certificate);
        self.write("key.pem", &key);
    }

    fn write(&self, name: &str, text: &str) {
        // Another file each time, as tools do it.
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn settings(&self) -> TlsSettings {
        TlsSettings {
            certificate: self.path("cert.pem"),
            key: self.path("key.pem"),
            ..TlsSettings::default()
        }
    }
}

#[test]
fn a_broken_pair_leaves_the_old_one() {
    let files = Files::new();
    let tls = Tls::default();
    assert!(
        tls.config(Alpn::Mqtt).is_none(),
        "nothing to shake hands with"
    );
    tls.load(&files.settings()).unwrap();
    let first = tls.config(Alpn::Mqtt).unwrap();
    assert_eq!(tls.has_changed(), None);
    // Half of a new pair.
    files.write("cert.pem", &Files::pair().0);
    let settings = tls.has_changed().unwrap();
    let wrong = tls.load(&settings).unwrap_err();
    assert!(
        wrong.contains("tls.certificate") && wrong.contains("tls.key"),
        "{wrong}"
    );
    assert!(Arc::ptr_eq(&first, &tls.config(Alpn::Mqtt).unwrap()));
    assert_eq!(
        tls.has_changed(),
        None,
        "the same fault is not met again and again"
    );
    files.renew();
    assert_eq!(tls.has_changed(), Some(settings.clone()));
    tls.load(&settings).unwrap();
    assert!(!Arc::ptr_eq(&first, &tls.config(Alpn::Mqtt).unwrap()));
    fs::remove_file(files.path("key.pem")).unwrap();
    assert!(tls.has_changed().is_some());
}

#[test]
fn what_is_wrong_is_named() {
    let files = Files::new();
    let wrong = |settings: &TlsSettings| Tls::default().load(settings).unwrap_err();
    files.write("cert.pem", "no certificate");
    assert!(wrong(&files.settings()).contains("cert.pem (tls.certificate)"));
    files.renew();
    files.write("key.pem", "no key");
    assert!(wrong(&files.settings()).contains("key.pem (tls.key)"));
    files.renew();
    let settings = TlsSettings {
        client_auth: ClientAuth::Required,
        client_ca: Some(files.path("missing")),
        ..files.settings()
    };
    assert!(wrong(&settings).contains("missing (tls.client_ca)"));
}

#[test]
fn each_listener_agrees_on_its_own_protocol() {
    let files = Files::new();
    let tls = Tls::default();
    tls.load(&files.settings()).unwrap();
    for (alpn, name) in [
        (Alpn::Mqtt, &b"mqtt"[..]),
        (Alpn::Stomp, b"stomp"),
        (Alpn::Http, b"http/1.1"),
    ] {
        assert_eq!(tls.config(alpn).unwrap().alpn_protocols, [name]);
    }
    assert_eq!(
        (Alpn::of("mqtt"), Alpn::of("stomp")),
        (Alpn::Mqtt, Alpn::Stomp)
    );
}

#[test]
fn warns_once_a_day_of_the_last_thirty() {
    let files = Files::new();
    let tls = Tls::default();
    tls.load(&files.settings()).unwrap();
    let end = Timestamp(u64::try_from(tls.expires_at().unwrap()).unwrap() * 1000);
    let warned = |before: Duration| {
        let now = Timestamp(end.0 - u64::try_from(before.as_millis()).unwrap());
        tls.warn_of_expiry(now);
        tls.reloading.lock().warned == Some(now)
    };
    let day = Duration::from_hours(24);
    assert!(!warned(day * 31));
    assert!(warned(day * 29));
    assert!(!warned(day * 28 + Duration::from_hours(1)));
    assert!(warned(day * 28));
}
