//! Tokens that are good, and the ways in which they are not.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header as Head};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: Timestamp = Timestamp(1_800_000_000_000);
const NOW_SECS: u64 = 1_800_000_000;

/// Made for these tests with openssl; they protect nothing.
const RSA_PRIVATE: &str = include_str!("testdata/rsa.pem");
const RSA_PUBLIC: &str = include_str!("testdata/rsa.pub.pem");
const EC_PRIVATE: &str = include_str!("testdata/ec.pem");
const EC_PUBLIC: &str = include_str!("testdata/ec.pub.pem");
const ED_PRIVATE: &str = include_str!("testdata/ed.pem");
const ED_PUBLIC: &str = include_str!("testdata/ed.pub.pem");

fn terms() -> Terms {
    Terms::new(&Auth::default())
}

fn key(material: DecodingKey) -> Key {
    Key {
        id: None,
        algorithm: None,
        material: Material::Known(material),
    }
}

fn secret() -> Key {
    key(DecodingKey::from_secret(SECRET))
}

fn rsa() -> Key {
    key(DecodingKey::from_rsa_pem(RSA_PUBLIC.as_bytes()).unwrap())
}

fn claims() -> Value {
    json!({"sub": "ann", "exp": NOW_SECS + 3600, "jti": "t-1", "iat": NOW_SECS})
}

fn sign_as(header: &Head, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(header, claims, key).unwrap()
}

fn sign(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET);
    sign_as(&Head::new(Algorithm::HS256), claims, &key)
}

fn check(token: &str, terms: &Terms, keys: &[Key]) -> Result<Identity, Rejection> {
    verify(token.as_bytes(), terms, &[keys], NOW)
}

fn with(change: impl FnOnce(&mut Map<String, Value>)) -> Result<Identity, Rejection> {
    let mut claims = claims();
    change(claims.as_object_mut().unwrap());
    check(&sign(&claims), &terms(), &[secret()])
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[test]
fn a_good_token_says_who_it_is() {
    let identity = with(|_| {}).unwrap();
    assert_eq!(identity.user.as_deref(), Some("ann"));
    assert_eq!(identity.method, Method::Token);
    assert_eq!(identity.token_id.as_deref(), Some("t-1"));
    assert_eq!(
        identity.expires_at,
        Some(Timestamp(NOW.0 + 3_660_000)),
        "with the leeway"
    );
    assert_eq!(issued_at(&identity.claims), Some(NOW));
}

#[test]
fn a_key_of_another_curve_checks_its_own_algorithm() {
    let made = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let private = EncodingKey::from_ec_pem(made.serialize_pem().as_bytes()).unwrap();
    let token = sign_as(&Head::new(Algorithm::ES384), &claims(), &private);
    let public = key(DecodingKey::from_ec_pem(made.public_key_pem().as_bytes()).unwrap());
    assert!(check(&token, &terms(), &[secret(), public]).is_ok());
    let other = key(DecodingKey::from_ec_pem(EC_PUBLIC.as_bytes()).unwrap());
    assert!(check(&token, &terms(), &[other]).is_err());
}

#[test]
fn each_kind_of_key_checks_its_algorithms() {
    use crate::auth::Algorithm::Known;
    use Algorithm::{ES256, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
    let hmac = || EncodingKey::from_secret(SECRET);
    let with_rsa = || EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
    let with_ecdsa = || EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap();
    let with_edwards = || EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).unwrap();
    let ec = || key(DecodingKey::from_ec_pem(EC_PUBLIC.as_bytes()).unwrap());
    let ed = || key(DecodingKey::from_ed_pem(ED_PUBLIC.as_bytes()).unwrap());
    let all = [secret(), rsa(), ec(), ed()];
    for (algorithm, private) in [
        (HS256, hmac()),
        (HS384, hmac()),
        (HS512, hmac()),
        (RS256, with_rsa()),
        (RS384, with_rsa()),
        (RS512, with_rsa()),
        (PS256, with_rsa()),
        (PS384, with_rsa()),
        (PS512, with_rsa()),
        (ES256, with_ecdsa()),
        (EdDSA, with_edwards()),
    ] {
        let token = sign_as(&Head::new(algorithm), &claims(), &private);
        assert!(check(&token, &terms(), &all).is_ok(), "{algorithm:?}");
        let only_others = Terms {
            algorithms: terms()
                .algorithms
                .into_iter()
                .filter(|other| *other != Known(algorithm))
                .collect(),
            ..terms()
        };
        assert_eq!(check(&token, &only_others, &all), Err(Rejection::Algorithm));
        let meant_for_another = all.clone().map(|key| Key {
            algorithm: Some(Known(if algorithm == HS512 { HS256 } else { HS512 })),
            ..key
        });
        assert_eq!(
            check(&token, &terms(), &meant_for_another),
            Err(Rejection::UnknownKey)
        );
    }
}

/// `alg: none` in all its spellings, with and without a signature.
#[test]
fn a_token_without_a_signature_is_refused() {
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let message = format!("{}.{}", part(&json!({"alg": none})), part(&claims()));
        for token in [format!("{message}."), format!("{message}.c2ln"), message] {
            let refused = check(&token, &terms(), &[secret(), rsa()]).unwrap_err();
            assert!(
                matches!(refused, Rejection::Algorithm | Rejection::Malformed),
                "{token}: {refused:?}"
            );
        }
    }
}

/// A public key is known to everyone: taken for a shared secret it would let everyone in.
#[test]
fn the_public_key_is_no_secret() {
    let der = DecodingKey::from_rsa_pem(RSA_PUBLIC.as_bytes()).unwrap();
    for secret in [
        RSA_PUBLIC.as_bytes(),
        RSA_PUBLIC.trim_end().as_bytes(),
        der.try_get_as_bytes().unwrap(),
    ] {
        let forged = EncodingKey::from_secret(secret);
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let token = sign_as(&Head::new(algorithm), &claims(), &forged);
            assert_eq!(
                check(&token, &terms(), &[rsa()]),
                Err(Rejection::UnknownKey)
            );
            let both = [rsa(), self::secret()];
            assert_eq!(check(&token, &terms(), &both), Err(Rejection::Signature));
        }
    }
}

/// A `kid` is a name among those that are known, nothing else; other headers point nowhere.
#[test]
fn a_key_is_found_by_name_only() {
    let named = Key {
        id: Some("k1".into()),
        ..secret()
    };
    let private = EncodingKey::from_secret(SECRET);
    let token = |kid: &str| {
        let mut head = Head::new(Algorithm::HS256);
        head.kid = Some(kid.into());
        head.jku = Some("http://evil.test/keys".into());
        sign_as(&head, &claims(), &private)
    };
    assert!(check(&token("k1"), &terms(), std::slice::from_ref(&named)).is_ok());
    for kid in [
        "../../dev/null",
        "/dev/null",
        "k1'--",
        "http://evil.test/k1",
        "K1",
        "",
    ] {
        let refused = check(&token(kid), &terms(), std::slice::from_ref(&named));
        assert_eq!(refused, Err(Rejection::UnknownKey), "{kid}");
    }
    let empty = sign_as(
        &Head::new(Algorithm::HS256),
        &claims(),
        &EncodingKey::from_secret(b""),
    );
    assert_eq!(check(&empty, &terms(), &[named]), Err(Rejection::Signature));
}

#[test]
fn what_must_be_understood_and_is_not_is_refused() {
    let head = json!({"alg": "HS256", "crit": ["b64"], "b64": false});
    let message = format!("{}.{}", part(&head), part(&claims()));
    let private = EncodingKey::from_secret(SECRET);
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &private, Algorithm::HS256).unwrap();
    let token = format!("{message}.{signature}");
    assert_eq!(
        check(&token, &terms(), &[secret()]),
        Err(Rejection::Malformed)
    );
}

#[test]
fn time_counts_with_leeway() {
    let exp = |at: u64| with(|claims| drop(claims.insert("exp".into(), at.into()))).map(drop);
    assert_eq!(exp(NOW_SECS - 59), Ok(()));
    assert_eq!(exp(NOW_SECS - 60), Err(Rejection::Expired));
    assert_eq!(exp(0), Err(Rejection::Expired));
    assert_eq!(exp(u64::MAX), Ok(()), "never overflows");
    let nbf = |at: u64| with(|claims| drop(claims.insert("nbf".into(), at.into()))).map(drop);
    assert_eq!(nbf(NOW_SECS + 60), Ok(()));
    assert_eq!(nbf(NOW_SECS + 61), Err(Rejection::NotYet));
    let none = with(|claims| drop(claims.remove("exp")));
    assert_eq!(none, Err(Rejection::NoExpiry));
    for wrong in [json!("soon"), json!(null), json!([1])] {
        let refused = with(|claims| drop(claims.insert("exp".into(), wrong.clone())));
        assert_eq!(refused, Err(Rejection::Malformed), "{wrong}");
    }
    let fraction = with(|claims| drop(claims.insert("exp".into(), json!(1_800_000_000.5))));
    assert!(fraction.is_ok());
}

#[test]
fn audience_and_issuer_are_looked_at_where_they_are_configured() {
    let strict = Terms {
        audiences: vec!["polycast".into(), "other".into()],
        issuers: vec!["https://id.test".into()],
        ..terms()
    };
    let check = |aud: Value, iss: Value| {
        let mut claims = claims();
        claims["aud"] = aud;
        claims["iss"] = iss;
        check(&sign(&claims), &strict, &[secret()]).map(drop)
    };
    let issuer = || json!("https://id.test");
    assert_eq!(check(json!("polycast"), issuer()), Ok(()));
    assert_eq!(check(json!(["x", "other"]), issuer()), Ok(()));
    for aud in [
        json!("x"),
        json!([]),
        json!(null),
        json!({"polycast": 1}),
        json!("polycast "),
    ] {
        assert_eq!(check(aud, issuer()), Err(Rejection::Audience));
    }
    for iss in [json!("https://id.test.evil"), json!(null), json!(1)] {
        assert_eq!(check(json!("polycast"), iss), Err(Rejection::Issuer));
    }
}

#[test]
fn a_token_names_a_user() {
    for user in [
        json!(""),
        json!(7),
        json!(null),
        json!("a\nb"),
        json!("x".repeat(257)),
    ] {
        let refused = with(|claims| drop(claims.insert("sub".into(), user.clone())));
        assert_eq!(refused, Err(Rejection::NoUser), "{user}");
    }
    let other = Terms {
        user_claim: "email".into(),
        ..terms()
    };
    let mut claims = claims();
    claims["email"] = json!("ann@test");
    let identity = check(&sign(&claims), &other, &[secret()]).unwrap();
    assert_eq!(identity.user.as_deref(), Some("ann@test"));
}

#[test]
fn a_token_has_a_size() {
    let long = with(|claims| drop(claims.insert("x".into(), json!("x".repeat(8 * 1024)))));
    assert_eq!(long, Err(Rejection::TooLarge));
    let huge = "x".repeat(1024 * 1024);
    assert_eq!(
        check(&huge, &terms(), &[secret()]),
        Err(Rejection::TooLarge)
    );
}

proptest! {
    /// Cut short, bent or made up: never taken, never a panic.
    #[test]
    fn a_token_that_was_touched_is_refused(at in 0usize..200, bit in 0u8..7, cut: bool) {
        let token = sign(&claims());
        let at = at % token.len();
        let mut touched = token.clone().into_bytes();
        if cut {
            touched.truncate(at);
        } else {
            touched[at] ^= 1 << bit;
        }
        let result = verify(&touched, &terms(), &[&[secret()]], NOW);
        // The last character of a part of base64 may hold bits that mean nothing; those must be
        // zero, so there are no two spellings of a token.
        prop_assert!(result.is_err(), "{result:?}");
    }

    #[test]
    fn garbage_is_refused(bytes: Vec<u8>, parts in "[a-zA-Z0-9_-]{0,40}\\.[a-zA-Z0-9_-]{0,40}\\.[a-zA-Z0-9_-]{0,40}") {
        prop_assert!(verify(&bytes, &terms(), &[&[secret(), rsa()]], NOW).is_err());
        prop_assert!(verify(parts.as_bytes(), &terms(), &[&[secret(), rsa()]], NOW).is_err());
    }
}
